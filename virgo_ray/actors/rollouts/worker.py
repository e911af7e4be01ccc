"""The Ray actor around one rollout engine: as thin as it can be.

Guarantees that an actor whose engine was killed ends too, so that the pool meets one kind of loss
only, and that everything the engine's processes print lies in one file. An engine that fails by
itself in its start or with new weights is told from a killed one: its error goes to the pool. Does
not know the pool, nor what is expected of the log-probabilities it returns.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.util import metrics as ray_metrics

from virgo_ray.actors.devices import DeviceWatch
from virgo_ray.actors.logs import configure_logging, log_path
from virgo_ray.actors.processes import resident_mib
from virgo_ray.actors.rollouts.worklist import Finished, Worklist
from virgo_ray.config import Config, SamplingConfig
from virgo_ray.records import Request, Rollout, Weights
from virgo_ray.weights.offer import Offer
from virgo_ray.weights.probe import ProbeItem
from virgo_ray.weights.verdict import Evidence

if TYPE_CHECKING:
    from virgo_ray.rollout.engine import RolloutEngine

ENGINE_DIED = 17  # exit code of an actor that follows its engine
# How vLLM names processes that ended in a start: {'EngineCore_DP0': -9}, negative for a signal.
KILLED_IN_START = re.compile(r"Failed \w+ proc\(s\): \{.*: -\d+")


def engine_log(run_dir: str, worker: int) -> Path:
    """Where a worker logs, and its engine prints."""
    return log_path(run_dir, f"rollout-worker-{worker}")


def was_killed_in_start(error: RuntimeError) -> bool:
    """Whether vLLM could not start because somebody killed one of its processes."""
    return KILLED_IN_START.search(str(error)) is not None


class RolloutWorker:
    """Runs as an async actor: many requests wait at once while the engine batches them."""

    def __init__(self, cfg: Config, worker: int) -> None:
        self._cfg = cfg
        self._worker = worker
        self._engine: RolloutEngine | None = None
        self._devices = DeviceWatch([])
        self._worklist = Worklist(self._generate)

    async def where(self) -> tuple[str, int]:
        """This node's and this process's id: the first call, answered once there is a process."""
        file = engine_log(self._cfg.run_dir, self._worker)
        _print_to(file)
        configure_logging(file)
        self._devices = DeviceWatch(ray.get_gpu_ids())
        return ray.get_runtime_context().get_node_id(), os.getpid()

    async def start(self) -> None:
        """Load the base model."""
        # Imported here, so that the driver, which imports this module too, does not load vLLM.
        from virgo_ray.rollout.engine import RolloutEngine

        cfg = self._cfg
        is_shared = cfg.placement.mode == "colocated"
        self._engine = RolloutEngine(
            cfg.model,
            cfg.prompt,
            cfg.rollout,
            self._worker,
            is_shared,
            cfg.train.objective.needs_logprobs,
        )
        try:
            await self._engine.start(ray_metrics)
        except RuntimeError as error:
            if was_killed_in_start(error):
                os._exit(ENGINE_DIED)
            raise
        finally:
            self._follow_killed_engine()

    async def load(
        self,
        weights: Weights,
        items: Sequence[ProbeItem],
        cached: Sequence[ProbeItem],
        offer: Offer | None = None,
        must_load: bool = False,
    ) -> Evidence:
        """Serve `weights` and score the probe's items; they come from disk, or as `offer` says.

        Where it has them already it loads them only if it `must_load`. Those of `cached` are asked
        before, too, so that the load finds them in the prefix cache; one that sleeps is empty, and
        there may be no room for it before the load.
        """
        engine = self._started()
        began = time.monotonic()
        load_seconds = 0.0
        try:
            if must_load or engine.version != weights.version:
                if engine.version is not None and not engine.is_cache_asleep:
                    await engine.score_cached(cached)
                loading = time.monotonic()
                await engine.load(weights, offer)
                load_seconds = time.monotonic() - loading
            through_cache = await engine.score_cached(cached)
            logprobs = await engine.score(items)
            probe_seconds = time.monotonic() - began - load_seconds
            return Evidence(logprobs, engine.read, through_cache, load_seconds, probe_seconds)
        finally:
            self._follow_killed_engine()

    async def exchange(
        self, requests: Mapping[int, Request], sampling: SamplingConfig, linger_s: float
    ) -> Finished:
        """Take requests, by number, and give what is finished (see `Worklist.exchange`)."""
        return await self._worklist.exchange(requests, sampling, linger_s)

    async def poke(self) -> None:
        """Let an open `exchange` return at once."""
        self._worklist.poke()

    async def beat(self) -> float:
        """Answered once the engine's own process has answered; returns resident memory, MiB."""
        try:
            await self._started().beat()
        finally:
            self._follow_engine()
        return resident_mib()

    async def num_pictures(self) -> int:
        """Pictures that this actor's engine has processed."""
        return self._started().num_pictures

    async def take_stats(self) -> dict[str, float]:
        """What the engine's scheduler and caches did since the last call."""
        return self._started().take_stats()

    async def take_devices(self) -> dict[str, float]:
        """How busy the engine's GPUs were since the last call (see `DeviceWatch.take`)."""
        return self._devices.take()

    async def sleep(self) -> None:
        await self._started().sleep()

    async def wake(self) -> None:
        await self._started().wake()

    async def abort(self, numbers: Collection[int]) -> int:
        """End these requests; returns how many of them were worked on."""
        return await self._worklist.end(numbers)

    async def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    async def _generate(self, request: Request, sampling: SamplingConfig) -> Rollout:
        try:
            return await self._started().generate(request, sampling)
        finally:
            self._follow_engine()

    def _started(self) -> RolloutEngine:
        if self._engine is None:
            raise RuntimeError(f"rollout worker {self._worker} is used before start()")
        return self._engine

    def _follow_engine(self) -> None:
        if self._started().is_dead:
            os._exit(ENGINE_DIED)

    def _follow_killed_engine(self) -> None:
        if self._started().was_killed:
            os._exit(ENGINE_DIED)


def _print_to(path: Path) -> None:
    """Send stdout and stderr of this process, and of those it starts, to the end of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
