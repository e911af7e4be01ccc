"""One trainer rank as a Ray actor: a thin shell around `train.engine.TrainEngine`.

Two threads: one runs `fit` and whatever else takes long, the other answers `progress` meanwhile.
Events go from the first to the second through a list that is only ever appended to.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray

from virgo_ray.config import Config
from virgo_ray.records import FitReport, Plan, Problem, Weights

if TYPE_CHECKING:
    from virgo_ray.train.engine import TrainEngine

MAX_THREADS = 8  # per rank; more do not help the image processor


class TrainerWorker:
    """Rank `rank` of a group; `join` before anything else."""

    def __init__(self, cfg: Config, rank: int) -> None:
        self._cfg = cfg
        self._rank = rank
        self._events: list[dict[str, Any]] = []
        self._store: Any = None
        self._engine: TrainEngine | None = None

    def host(self) -> tuple[str, int]:
        """Open the group's store on rank 0; returns where the others find it."""
        import torch.distributed as dist

        address = ray.util.get_node_ip_address()
        self._store = dist.TCPStore(address, 0, is_master=True, wait_for_workers=False)
        return address, self._store.port

    def join(self, address: str, port: int) -> int:
        """Import the engine and enter the process group; returns this process's id."""
        import torch
        import torch.distributed as dist
        from transformers.utils.logging import disable_progress_bar

        from virgo_ray.train.engine import TrainEngine
        from virgo_ray.train.zero import join_group

        num_ranks = self._cfg.train.num_workers
        torch.set_num_threads(min(MAX_THREADS, max(1, (os.cpu_count() or 1) // num_ranks)))
        disable_progress_bar()
        store = self._store or dist.TCPStore(address, port, is_master=False)
        join_group(self._rank, num_ranks, store, self._cfg.train)
        self._engine = TrainEngine(self._cfg)
        return os.getpid()

    def fit(self, plan: Plan, start: Weights, version: int) -> FitReport:
        return self._joined().fit(plan, start, version, self._events.append)

    def probe_base(self, base: Weights, problems: Sequence[Problem]) -> str:
        return self._joined().probe_base(base, problems)

    @ray.method(concurrency_group="watch")
    def progress(self, seen: int) -> list[dict[str, Any]]:
        """Events after the first `seen`."""
        return self._events[seen:]

    def release(self) -> None:
        """Give memory that no fit is using back to the device."""
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        from virgo_ray.train.zero import leave_group

        with contextlib.suppress(RuntimeError):  # a peer may be gone already
            leave_group()

    def _joined(self) -> TrainEngine:
        assert self._engine is not None, "join() comes first"
        return self._engine
