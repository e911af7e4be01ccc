"""How busy this process's GPUs are and how much of their memory is in use, as NVML samples it.

A thread of the actor asks the driver library once a second; `take` hands over what it saw. A device
counts as busy for the share of its last sample period in which a kernel ran on it. Nothing is said
where there is no NVIDIA driver, or where it does not measure, as of a part of a card (MIG).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from ctypes import byref
from typing import Any

SAMPLE_EVERY_S = 1.0
LIBRARY = "libnvidia-ml.so.1"
MIB = 2**20


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))  # percent


class _Memory(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_ulonglong) for name in ("total", "free", "used"))  # bytes


class DeviceWatch:
    """Watches the GPUs with these ids, as Ray gives them: indices or UUIDs."""

    def __init__(self, ids: Sequence[int | str]) -> None:
        self._lock = threading.Lock()
        self._busy: list[float] = []
        self._peak_mib = 0.0
        library = _load() if ids else None
        if library is None:
            self._handles: list[ctypes.c_void_p] = []
        else:
            self._handles = [h for i in ids if (h := _handle(library, str(i)))]
        self._library: Any = library  # asked only where there are handles
        if self._handles:
            threading.Thread(target=self._watch, name="device-watch", daemon=True).start()

    def take(self) -> dict[str, float]:
        """`{"busy_share": 0.93, "memory_peak_mib": 71234.0}` since the last call; empty where
        nothing was measured."""
        with self._lock:
            busy, peak, self._busy, self._peak_mib = self._busy, self._peak_mib, [], 0.0
        return {"busy_share": sum(busy) / len(busy), "memory_peak_mib": peak} if busy else {}

    def sample(self) -> None:
        """Look at every device once."""
        for handle in self._handles:
            used, memory = _Utilization(), _Memory()
            failed = self._library.nvmlDeviceGetUtilizationRates(handle, byref(used))
            failed = failed or self._library.nvmlDeviceGetMemoryInfo(handle, byref(memory))
            if not failed:
                with self._lock:
                    self._busy.append(used.gpu / 100)
                    self._peak_mib = max(self._peak_mib, round(memory.used / MIB, 1))

    def _watch(self) -> None:
        pause = threading.Event()  # never set: the thread ends with its process
        while not pause.wait(SAMPLE_EVERY_S):
            self.sample()


def mean_of_devices(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Of what several watches saw: the mean of the shares and the largest memory.

    >>> mean_of_devices({"a": {"busy_share": 0.5, "memory_peak_mib": 9.0}, "b": {}})
    {'device_busy_share': 0.5, 'device_memory_peak_mib': 9.0}
    """
    measured = [values for values in found.values() if values]
    if not measured:
        return {}
    return {
        "device_busy_share": sum(v["busy_share"] for v in measured) / len(measured),
        "device_memory_peak_mib": max(v["memory_peak_mib"] for v in measured),
    }


def _load() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:  # no driver on this host
        return None
    return None if library.nvmlInit_v2() else library


def _handle(library: ctypes.CDLL, device: str) -> ctypes.c_void_p | None:
    handle = ctypes.c_void_p()
    if device.isdigit():
        failed = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(device)), byref(handle))
    else:
        failed = library.nvmlDeviceGetHandleByUUID(device.encode(), byref(handle))
    return None if failed else handle
