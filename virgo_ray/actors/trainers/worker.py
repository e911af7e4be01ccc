"""One trainer rank as a Ray actor: a thin shell around `train.engine.TrainEngine`.

Three threads: one runs `fit` and whatever else takes long, one sends weights to engines, the third
answers `progress` meanwhile. Events go from the first to the third through a list that is only ever
appended to. What the last fit made is published by a thread of the engine's own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray

from virgo_ray.actors.devices import DeviceWatch
from virgo_ray.actors.logs import configure_logging, log_path
from virgo_ray.actors.processes import resident_mib
from virgo_ray.config import Config
from virgo_ray.errors import WeightsError
from virgo_ray.records import FitReport, Plan, Weights
from virgo_ray.weights.offer import Offer, Stream
from virgo_ray.weights.opening import Opening, Sent
from virgo_ray.weights.probe import ProbeItem

if TYPE_CHECKING:
    from virgo_ray.train.engine import TrainEngine
    from virgo_ray.train.sending import Sending


class TrainerWorker:
    """Rank `rank` of a group; `join` before anything else."""

    def __init__(self, cfg: Config, rank: int) -> None:
        self._cfg = cfg
        self._rank = rank
        self._events: list[dict[str, Any]] = []
        self._store: Any = None
        self._engine: TrainEngine | None = None
        self._devices = DeviceWatch([])
        self._push: Sending | None = None
        self._sent: Sent | str = ""  # or why not

    def host(self) -> tuple[str, int]:
        """Open the group's store on rank 0; returns where the others find it."""
        from virgo_ray.train.process import open_store

        address = ray.util.get_node_ip_address()
        self._store = open_store(address)
        return address, self._store.port

    def join(self, address: str, port: int, deadline_s: float) -> tuple[str, int]:
        """Import the engine and enter the process group; returns this node's and process's id.

        `deadline_s` is for the others to import theirs.
        """
        from virgo_ray.train.engine import TrainEngine
        from virgo_ray.train.process import connect_store, num_ranks_here, settle
        from virgo_ray.train.zero import join_group

        configure_logging(log_path(self._cfg.run_dir, f"trainer-rank-{self._rank}"))
        num_ranks = self._cfg.train.num_workers
        store = self._store or connect_store(address, port)
        settle(num_ranks_here(self._rank, num_ranks, store, deadline_s))
        join_group(self._rank, num_ranks, store, self._cfg.train)
        self._engine = TrainEngine(self._cfg)
        self._devices = DeviceWatch(ray.get_gpu_ids())
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def fit(self, plan: Plan, start: Weights, version: int, is_again: bool = False) -> FitReport:
        return self._joined().fit(plan, start, version, self._events.append, is_again)

    def write_now(self, version: int) -> bool:
        return self._joined().write_now(version, self._events.append)

    def probe_base(self, base: Weights, items: Sequence[ProbeItem]) -> str:
        return self._joined().probe_base(base, items, self._events.append)

    def settle(self) -> None:
        """Wait until the last fit's version is published."""
        self._joined().settle()
        self._push = None  # the tensors that it refers to are let go

    @ray.method(concurrency_group="push")
    def open_push(
        self, version: int, kind: Stream, labels: Sequence[str], deadline_s: float
    ) -> Opening | None:
        """Offer a version that is held in memory; None if it is not."""
        address = ray.util.get_node_ip_address()
        self._sent = "it was not begun"
        self._push = self._joined().open_push(version, kind, address, labels, deadline_s)
        return None if self._push is None else self._push.opening

    @ray.method(concurrency_group="push")
    def send(self) -> None:
        """Send what `open_push` offered; `sent` says what came of it."""
        assert self._push is not None, "open_push() comes first"
        self._sent = "the sender failed; its log says why"
        try:
            self._sent = self._push.send()
        except WeightsError as error:
            self._sent = str(error)

    @ray.method(concurrency_group="push")
    def join_push(self, offer: Offer) -> None:
        """Take part in a push that the first rank sends."""
        self._joined().join_push(offer)

    @ray.method(concurrency_group="push")
    def sent(self) -> Sent:
        """Answered after `send`, for both have one thread.

        Raises:
            WeightsError: the weights were not sent to all receivers, and why.
        """
        if isinstance(self._sent, str):
            raise WeightsError(self._sent)
        return self._sent

    @ray.method(concurrency_group="watch")
    def cancel_push(self, why: str) -> None:
        """End `send` soon."""
        if self._push is not None:
            self._push.cancel(why)

    @ray.method(concurrency_group="watch")
    def progress(self, seen: int) -> list[dict[str, Any]]:
        """Events after the first `seen`."""
        return self._events[seen:]

    @ray.method(concurrency_group="watch")
    def memory(self) -> float:
        """Resident memory of this rank, MiB."""
        return resident_mib()

    @ray.method(concurrency_group="watch")
    def take_devices(self) -> dict[str, float]:
        """How busy this rank's GPU was since the last call (see `DeviceWatch.take`)."""
        return self._devices.take()

    def release(self) -> None:
        """Give memory that no fit is using back to the device."""
        self._joined().release(self._events.append)

    def close(self) -> None:
        from virgo_ray.train.zero import leave_group

        with contextlib.suppress(RuntimeError):  # a peer may be gone already
            if self._engine is not None:
                self._engine.close()
            leave_group()

    def _joined(self) -> TrainEngine:
        assert self._engine is not None, "join() comes first"
        return self._engine
