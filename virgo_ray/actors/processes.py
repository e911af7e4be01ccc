"""Processes behind the actors: how much memory they hold, and how a deaf one is ended.

Ray ends an actor by asking it first; a process that is stopped or stuck in the kernel does not hear
that, and what it started lives on. On the driver's own node they are ended by signal. Elsewhere Ray
is all there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

from virgo_ray.interrupts import kill_in_order

ANSWER_DEADLINE_S = 5.0  # an actor too busy to say how much memory it holds is left out
KILL_GRACE_S = 5.0


def resident_mib(with_children: bool = True) -> float:
    """Resident memory of this process, and of all it started, in MiB.

    Pages that several of them share count once for each.
    """
    own = psutil.Process()
    total = 0
    for process in (own, *(own.children(recursive=True) if with_children else ())):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return round(total / 2**20, 1)


def collect_answers(asked: Mapping[str, ray.ObjectRef]) -> dict[str, Any]:
    """What the calls came to, by name; one that failed or is late is left out."""
    refs = {ref: name for name, ref in asked.items()}
    if not refs:
        return {}
    ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=ANSWER_DEADLINE_S)
    found = {}
    for ref in ready:
        with contextlib.suppress(RayError):
            found[refs[ref]] = ray.get(ref, timeout=ANSWER_DEADLINE_S)
    return found


def family(node: str, pid: int) -> list[psutil.Process]:
    """A process and all it started; nothing where it is on another node or gone."""
    if node != ray.get_runtime_context().get_node_id():
        return []
    try:
        return with_children(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return []


def with_children(process: psutil.Process) -> list[psutil.Process]:
    """Itself and its descendants; nothing if it is gone (another one may have its number)."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end_deaf(processes: list[psutil.Process]) -> None:
    """Wait a moment for processes that were asked to end, then kill what is left."""
    _, deaf = psutil.wait_procs(processes, timeout=KILL_GRACE_S)
    kill_in_order(deaf)
