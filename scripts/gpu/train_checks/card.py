"""The device under test: its name and peak, timing and memory, and how fast it is by itself.

Times are the medians of several calls between two synchronisations, after a warm-up; memory is the
peak that PyTorch allocated. GB are 1e9 bytes.
"""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train_checks.kit import Emit, Kit

PACKAGES = ("torch", "transformers", "deepspeed", "peft", "torchvision", "triton")


def peak_flops() -> float | None:
    """The card's dense bfloat16 peak, where it is known."""
    if not torch.cuda.is_available():
        return None
    from virgo_ray.train import speed  # the trainer's own table

    return speed.peak_flops(torch.cuda.get_device_name())


def memory_bytes() -> int | None:
    """All the memory of the card; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def start_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float | None:
    """Most memory allocated since `start_peak`; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def held_bytes() -> int:
    """What living tensors hold now, after a collection: the allocator's count, or on a CPU the
    storages that the interpreter knows of."""
    gc.collect()
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    tensors = (o for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@dataclass(frozen=True)
class Cost:
    """`ms`: median milliseconds of a call; `gb`: its peak above what was allocated before."""

    ms: float
    gb: float | None  # None on a CPU


def measured(work: Callable[[], Any], num_calls: int = 5) -> Cost:
    """What `work` costs after one call to warm up."""
    before = torch.cuda.memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    work()
    synchronize()
    start_peak()
    times = []
    for _ in range(num_calls):
        began = time.perf_counter()
        work()
        synchronize()
        times.append(time.perf_counter() - began)
    peak = peak_gb()
    return Cost(1e3 * statistics.median(times), None if peak is None else peak - before)


def about() -> dict[str, str]:
    """What a table of results says above itself: date, commit, card and versions."""
    is_gpu = torch.cuda.is_available()
    found = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "card": torch.cuda.get_device_name() if is_gpu else "cpu",
        "memory": f"{torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB"
        if is_gpu
        else "none",
        "python": platform.python_version(),
        "cuda": torch.version.cuda or "none",
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def commit() -> str:
    """Of the checkout that this file lies in; a copy without its history has none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def run(kit: Kit, rows: Sequence[str], emit: Emit) -> None:
    """One row: a matrix product and a copy by themselves, the ceilings of all that follows."""
    side, num_bytes = (8192, 2**32) if kit.device == "cuda" else (256, 2**20)
    a, b = (torch.randn(side, side, device=kit.device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(num_bytes // 4, device=kit.device)
    target = torch.empty_like(source)
    product, copy = measured(lambda: a @ b), measured(lambda: target.copy_(source))
    figures = {
        "matmul_tflops": 2 * side**3 / product.ms / 1e9,
        "copy_gb_per_s": 2 * num_bytes / copy.ms / 1e6,
    }
    emit("card", figures)
