"""What NVML says of GPUs becomes a share and a peak; on a host without a driver nothing does."""

import ctypes

import pytest

from virgo_ray.actors import devices
from virgo_ray.actors.devices import DeviceWatch, mean_of_devices


class Library:
    """NVML of a host with two cards, by its C functions; `failing` are the ones that refuse."""

    def __init__(self, failing=()):
        self.failing = failing
        self.percent = {1: 80, 2: 40}

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index.value + 1
        return 0 if index.value < 2 else 2

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):
        handle._obj.value = 2
        return 0 if uuid == b"GPU-b" else 2

    def nvmlDeviceGetUtilizationRates(self, handle, used):
        used._obj.gpu = self.percent[handle.value]
        return 3 if "utilization" in self.failing else 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.used = handle.value * 2**30
        return 0


def watch(monkeypatch, ids, library):
    monkeypatch.setattr(devices, "SAMPLE_EVERY_S", 1e6)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return DeviceWatch(ids)


def test_shares_are_means_over_samples_and_devices_since_the_last_look(monkeypatch):
    library = Library()
    both = watch(monkeypatch, [0, "GPU-b", 7], library)
    both.sample()
    library.percent[1] = 0
    both.sample()
    assert both.take() == {"busy_share": pytest.approx(0.4), "memory_peak_mib": 2048.0}
    assert both.take() == {}


def test_what_is_not_measured_is_absent(monkeypatch):
    refusing = watch(monkeypatch, [0], Library(failing=("utilization",)))
    refusing.sample()
    assert refusing.take() == {}
    assert DeviceWatch([]).take() == {} and mean_of_devices({"a": {}}) == {}


def test_a_host_without_a_driver_has_nothing_to_say(monkeypatch):
    monkeypatch.setattr(devices, "LIBRARY", "libno-such-driver.so.1")
    assert DeviceWatch([0]).take() == {}
