"""What the process of a trainer rank needs besides the engine: a meeting place, threads, memory.

Imports torch but not DeepSpeed, so that the first rank can open the meeting place while the others
are still importing. Knows no models.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from transformers.utils.logging import disable_progress_bar

from virgo_ray.weights.meeting import listening_store

MEETING = timedelta(minutes=5)  # for a rank to find the others
MAX_THREADS = 8  # per rank; more do not help the image processor
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def open_store(address: str) -> dist.TCPStore:
    """The store through which a group's ranks find each other, on a free port of this address."""
    return listening_store(address, MEETING)


def connect_store(address: str, port: int) -> dist.TCPStore:
    return dist.TCPStore(address, port, is_master=False, timeout=MEETING)


def add_up(rank: int, num_ranks: int, store: dist.Store, backend: str, deadline_s: float) -> float:
    """The sum of 1..`num_ranks`, of which each rank gives its own: whether they reach each other.

    Raises:
        RuntimeError: a rank did not come, or the sum did not end, within the deadline.
    """
    device = torch.device("cuda" if backend == "nccl" else "cpu")
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=num_ranks,
        timeout=timedelta(seconds=deadline_s),
    )  # fmt: skip
    try:
        number = torch.tensor([rank + 1.0], device=device)
        dist.all_reduce(number)  # deadline: of the process group
        return float(number.item())
    finally:
        dist.destroy_process_group()


def num_ranks_here(rank: int, num_ranks: int, store: dist.Store, deadline_s: float) -> int:
    """Ranks of the group on this rank's host. All ranks call it; each waits for all, which may
    still be importing.

    A host is one running kernel: containers on it share its cores, whatever they are called.

    Raises:
        RuntimeError: a rank did not come within the deadline.
    """
    host = BOOT_ID.read_text().strip()
    store.set(f"host/{rank}", host)
    names = [f"host/{other}" for other in range(num_ranks)]
    store.wait(names, timedelta(seconds=deadline_s))
    return sum(store.get(name).decode() == host for name in names)


def settle(num_ranks: int) -> None:
    """Share the cores of this process among the ranks of this host; no progress bars in the logs.

    The cores are those that it may run on: in a container there may be fewer than the host has.
    What is there now, mostly what was imported, stays: `free_memory` looks at younger objects only,
    or it would take 0.3 s each time, of which a fit has several.
    """
    num_cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(min(MAX_THREADS, max(1, num_cores // num_ranks)))
    disable_progress_bar()
    gc.freeze()


def num_spare_threads() -> int:
    """Threads that may work beside the one of the fit: its share of the cores (see `settle`),
    less one for itself."""
    return max(1, torch.get_num_threads() - 1)


def free_memory() -> None:
    """Give memory nobody uses back to the device and to the host.

    glibc keeps what was freed in pieces for later, which after a fit is gigabytes.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.accelerator.empty_host_cache()  # pinned: micro-batches, and what was offloaded
    with contextlib.suppress(AttributeError, OSError):  # a system with another C library
        ctypes.CDLL(None).malloc_trim(0)
