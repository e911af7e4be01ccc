"""Whether the NVIDIA driver of a node can run the packages of the extra `[gpu]`.

The wheels of torch 2.13 and vllm 0.32 are built for CUDA 13. `judge_driver` is pure; `read_driver`
looks at this machine, takes no memory of a GPU and starts no process.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

CUDA = 13  # what the wheels are built for
BRANCH = 580  # of drivers, the first with CUDA 13
VERSION_FILE = Path("/proc/driver/nvidia/version")
LIBRARY = "libcuda.so.1"
_VERSION = re.compile(r"\b(\d{3,4})\.\d+(?:\.\d+)?\b")


class Fitness(StrEnum):
    """What can be said of a driver."""

    OK = "ok"
    TOO_OLD = "too old"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """`text` names what was found, and what to do where that is too old or unknown."""

    fitness: Fitness
    text: str


@dataclass(frozen=True)
class Driver:
    """What a node says of its driver: 570.86.15, and the CUDA it offers as 12080; "" and 0 where
    it does not say."""

    version: str
    cuda: int


def judge_driver(version: str, cuda: int = 0) -> Verdict:
    """Whether a driver is new enough.

    Args:
        version: the driver's, alone or in a text such as that of /proc/driver/nvidia/version.
        cuda: what `cuDriverGetVersion` says, such as 13000; it wins over `version`, because
            NVIDIA's package cuda-compat offers a newer CUDA on an older driver. 0: not known.

    >>> judge_driver("580.65.06").fitness, judge_driver("535.183.01", 13000).fitness
    (<Fitness.OK: 'ok'>, <Fitness.OK: 'ok'>)
    >>> judge_driver("570.86.15", 12080).text.partition(":")[0]
    'NVIDIA driver 570.86.15 (CUDA 12.8) is too old'
    """
    found = _VERSION.search(version)
    name = found.group() if found else ""
    if cuda:
        is_new = cuda // 1000 >= CUDA
    elif found:
        is_new = int(found.group(1)) >= BRANCH
    else:
        return Verdict(
            Fitness.UNKNOWN,
            f"no version of an NVIDIA driver was found in {version[:60]!r}; expected {BRANCH} or "
            "later: see `nvidia-smi`",
        )
    offered = f" (CUDA {cuda // 1000}.{cuda % 1000 // 10})" if cuda else ""
    named = f"NVIDIA driver {name or 'of unknown version'}{offered}"
    if is_new:
        return Verdict(Fitness.OK, named)
    return Verdict(
        Fitness.TOO_OLD,
        f"{named} is too old: the installed torch and vllm are built for CUDA {CUDA}, which needs "
        f"driver {BRANCH} or later; update the driver of this node",
    )


def read_driver() -> Driver:
    """What this machine says; a machine without a driver says nothing."""
    try:
        found = _VERSION.search(VERSION_FILE.read_text(encoding="utf-8", errors="replace"))
    except OSError:  # no driver, or one whose files are not shown in a container
        found = None
    return Driver(found.group() if found else "", _read_cuda())


def _read_cuda() -> int:
    number = ctypes.c_int(0)
    try:
        ctypes.CDLL(LIBRARY).cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return 0
    return number.value
