"""The rollout pool: vLLM engines in Ray actors behind the plain, synchronous `ports.Rollouts`.

Guarantees one rollout per request, in the order they finish; at most `rollout.max_in_flight`
requests per worker are out, counted until the consumer takes the result (back-pressure); every
worker proves its weights before it serves. A worker that fails is replaced (`workers.py`), catches
up with the current weights, and only its unfinished requests are asked again, with those whose
rollouts were finished and had not left it.

Who waits for whom: all waiting happens in the caller's thread, in `Workers`. One call at a
time; between calls nothing goes on but engines that start.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from virgo_ray.actors.rollouts.pusher import Flow, Pusher, Source
from virgo_ray.actors.rollouts.sampling import Sampling
from virgo_ray.actors.rollouts.slot import Slot, State
from virgo_ray.actors.rollouts.target import Target
from virgo_ray.actors.rollouts.workers import Workers
from virgo_ray.config import Config, SamplingConfig
from virgo_ray.errors import RolloutError
from virgo_ray.model.dropped import is_dropped
from virgo_ray.records import PushReport, Request, Rollout, Weights
from virgo_ray.weights.manifest import check_weights, loaded_files, read_manifest
from virgo_ray.weights.noise import load_noise, save_noise, setup_of
from virgo_ray.weights.probe import Probe, probe_path
from virgo_ray.weights.probe_metrics import probe_metrics
from virgo_ray.weights.verdict import largest, worst_noise

log = logging.getLogger(__name__)


class RolloutPool:
    """Implements `ports.Rollouts`.

    Example: `with closing(RolloutPool(cfg, placement)) as pool: pool.come_up(); pool.push(base)`.
    """

    def __init__(self, cfg: Config, placement: Any = None) -> None:
        """Begin to start all engines, with the base model.

        `placement.rollout_seat(worker)` says where each goes (None: anywhere).
        """
        self._cfg = cfg
        self._counts: Counter[str] = Counter()
        self._workers = Workers(cfg, placement)
        self._pusher: Pusher | None = None  # set once there is a trainer

    def draw_from(self, source: Source, say: Callable[[str], None] = log.info) -> None:
        """Push what `source` holds in memory from there, where the config wants that; `say` hears
        once which way the weights take.

        Raises:
            ConfigError: `push.transport` cannot be done where engines and trainers are.
        """
        self._pusher = Pusher(self._cfg, source, say)
        self._workers.bring_to_disk = self._target_on_disk
        self._pusher.refuse(self._workers.slots)

    def come_up(self, hear: Callable[[int, int], None] = lambda num, total: None) -> None:
        """Wait until every engine is there; closing the pool ends the wait with an error.

        `hear` is told how many of how many are there whenever one more is.

        Raises:
            RolloutError: no engine can start, or too few are left.
        """
        told = 0

        def look() -> None:
            nonlocal told
            if (num := self._workers.num_up) > told:
                told = num
                hear(num, len(self.slots))

        self._workers.settle_all(look)

    def push(self, weights: Weights) -> PushReport:
        """See `ports.Rollouts.push`.

        Raises:
            PushError: no worker could load them, did so within `push.deadline_s` (the message names
                who is missing), or serves them as they were published (`weights/verdict.py`).
            WeightsError: the directory or its probe is incomplete.
            RolloutError: too few workers are left.
        """
        started = time.monotonic()
        before = [slot.evidence for slot in self.slots]
        flow = self._push_from_memory(weights)
        if flow is None or self._workers.are_waiting:
            self._workers.serve(self._target_on_disk(weights))
        found = [slot.deviations for slot in self._workers.serving]
        setup = setup_of(self._cfg)
        if weights.version == 0 and not load_noise(self._root, setup):
            save_noise(self._root, worst_noise(found), setup)
        loads = [
            s.evidence for s in self._workers.serving if s.evidence and s.evidence not in before
        ]
        return PushReport(
            version=weights.version,
            max_diff_text=largest(found, "text"),
            max_diff_image=largest(found, "image"),
            seconds=time.monotonic() - started,
            transport=flow.transport if flow else "disk",
            gather_seconds=flow.gather_seconds if flow else 0.0,
            wire_seconds=flow.wire_seconds if flow else 0.0,
            load_seconds=max((load.load_seconds for load in loads), default=0.0),
            probe_seconds=max((load.probe_seconds for load in loads), default=0.0),
            probe=probe_metrics(found),
        )

    def _push_from_memory(self, weights: Weights) -> Flow | None:
        """Send what the trainer holds to all engines that are up; None if it holds nothing."""
        served = self._workers.target
        if self._pusher is None or (served is not None and served.weights == weights):
            return None
        flow = self._pusher.open(weights, self._workers.slots)
        if flow is not None:
            target = replace(self._target(weights, flow.probe, {}), is_from_memory=True)
            flow.stream.start()
            self._workers.serve(target, flow.stream)
            self._pusher.close(flow)
        return flow

    def _target_on_disk(self, weights: Weights) -> Target:
        """The same weights once they are published; what is being published is waited for.

        What is published without tensors (`weights.publish_every`) stays as it is served from
        memory; the trainer writes it where a worker waits for it. What was trained again since it
        was sent is loaded by all.

        Raises:
            DroppedWeightsError: nobody has the tensors any more.
            WeightsError: the directory or its probe is incomplete.
        """
        pusher, served = self._pusher, self._workers.target
        if pusher is not None:
            pusher.settle()
        is_served = served is not None and served.weights == weights
        if weights.version > 0 and not is_served:
            check_weights(weights.path, checksums=False)  # each engine hashes what it reads
        if served is not None and is_served and served.is_from_memory and pusher is not None:
            is_other = pusher.was_trained_again(weights)
            if is_dropped(Path(weights.path)):
                if not (is_other or self._workers.are_waiting):
                    return served
                pusher.write_now(weights)
            if not is_other:
                return replace(served, checksums=served.checksums or _checksums(weights))
            self._workers.distrust()
        probe = Probe.load(probe_path(self._root, weights.version))
        return self._target(weights, probe, _checksums(weights))

    def _target(self, weights: Weights, probe: Probe, checksums: Mapping[str, str]) -> Target:
        """Which values and checksums prove that an engine serves these weights."""
        served = self._workers.target
        if served is not None and served.weights.version != weights.version:
            probe = probe.after(served.probe)
        elif served is not None and served.probe.items == probe.items:
            probe = replace(probe, before=served.probe.before)
        return Target(weights, probe, checksums, load_noise(self._root, setup_of(self._cfg)))

    def serve_base(self, path: str) -> None:
        """Serve the model that the engines were started with (its files are at `path`).

        Nothing is compared: without a trainer there is nobody to compare with.

        Raises:
            RolloutError: too few workers are left.
        """
        self._workers.serve(Target(Weights(0, path), Probe((), ())))

    def sample(
        self, requests: Iterable[Request | None], sampling: SamplingConfig
    ) -> Iterator[Rollout | None]:
        """See `ports.Rollouts.sample`. One call at a time; closing the iterator aborts what is out.

        Raises:
            RolloutError: nothing was pushed yet, a request cannot be asked, too few workers are
                left, or nothing finished for `rollout.stall_deadline_s`.
        """
        if self._workers.target is None:
            raise RolloutError("sample() before the first push(): no weights have been proven yet")
        if not self._workers.target.is_on_disk:
            self._workers.adopt(self._target_on_disk(self._workers.target.weights))
        run = Sampling(self._workers, self._counts, iter(requests), sampling)
        try:
            yield from run.rollouts()
        finally:
            run.abort()

    def sleep(self) -> None:
        """Give GPU memory back until `wake`; a worker that cannot is ended, and replaced then."""
        self._workers.sleep()

    def wake(self) -> None:
        """Undo `sleep`; workers that are missing are started."""
        self._workers.wake()

    def ask_memory(self) -> dict[str, ray.ObjectRef]:
        """Calls that return a serving worker's resident memory in MiB, by the metric's name."""
        serving = self._workers.serving
        return {f"rss_rollout_worker_{s.index}_mib": s.actor.beat.remote() for s in serving}

    def ask_stats(self) -> dict[str, ray.ObjectRef]:
        """Calls that return what a serving worker's engine did, by the worker's number."""
        return {str(s.index): s.actor.take_stats.remote() for s in self._workers.serving}

    def ask_devices(self) -> dict[str, ray.ObjectRef]:
        """Calls that return how busy the GPUs of a serving worker were, by its name."""
        serving = self._workers.serving if self._cfg.rollout.gpus_per_worker else []
        return {f"rollout worker {s.index}": s.actor.take_devices.remote() for s in serving}

    def metrics(self) -> dict[str, float]:
        """Totals over the pool's life; pictures that were in an engine's cache are not processed
        again."""
        return {
            "rollout_requests": self._counts["requests"],
            "rollout_requests_repeated": self._counts["repeated"],
            "rollout_requests_aborted": self._counts["aborted"],
            "rollout_worker_restarts": sum(slot.num_restarts for slot in self._workers.slots),
            "rollout_workers_retired": sum(
                slot.state is State.RETIRED for slot in self._workers.slots
            ),
            "rollout_pictures_processed": self._workers.num_pictures,
        }

    def close(self) -> None:
        """End all workers and their processes. Safe to call twice, and while others wait."""
        self._workers.close()

    @property
    def _root(self) -> Path:
        return Path(self._cfg.run_dir) / "weights"

    @property
    def slots(self) -> list[Slot]:
        return self._workers.slots


def _checksums(weights: Weights) -> dict[str, str]:
    """What an engine must have read; nothing is known of a base or a teacher."""
    if weights.version <= 0:
        return {}
    directory = Path(weights.path)
    files = read_manifest(directory).files
    return {file.name: files[file.name].sha256 for file in loaded_files(directory)}
