"""The rollout pool: vLLM engines in Ray actors behind the plain, synchronous `ports.Rollouts`.

Guarantees one rollout per request, in the order they finish; at most `rollout.max_in_flight`
requests per worker are out, counted until the consumer takes the result (back-pressure); every
worker proves its weights before it serves. A dead worker is replaced, catches up with the current
weights, and only its unfinished requests are asked again; a worker that dies too often is retired.

Who waits for whom: all waiting happens in the caller's thread, in `ray.wait` for at most TICK_S
before deadlines are looked at; actors wake it by finishing. One call at a time; between calls
nothing goes on but engines that start.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from virgo_ray.actors.head import refuse_lost_head
from virgo_ray.actors.processes import end_deaf
from virgo_ray.actors.rollouts.sampling import FETCH_DEADLINE_S, TICK_S, Sampling
from virgo_ray.actors.rollouts.slot import Slot, State, Target
from virgo_ray.config import Config, RolloutConfig, SamplingConfig
from virgo_ray.errors import PushError, RolloutError
from virgo_ray.records import PushReport, Request, Rollout, Weights
from virgo_ray.weights.manifest import check_weights
from virgo_ray.weights.probe import Probe, probe_path

log = logging.getLogger(__name__)

SLEEP_DEADLINE_S = 120.0
CLOSE_DEADLINE_S = 20.0
MEMORY_HINT = (
    "An engine that ends without a word was most likely killed for memory: lower "
    "rollout.kv_cache_gib, rollout.gpu_memory_utilization or rollout.max_in_flight"
)


class RolloutPool:
    """Implements `ports.Rollouts`.

    Example: `with closing(RolloutPool(cfg, placement)) as pool: pool.come_up(); pool.push(base)`.
    """

    def __init__(self, cfg: Config, placement: Any = None) -> None:
        """Begin to start all engines, with the base model.

        `placement.rollout_options(worker)` says where each goes (None: anywhere).
        """
        self._cfg = cfg
        self._target: Target | None = None
        self._counts: Counter[str] = Counter()
        self._is_closing = False
        self._slots = [
            Slot(cfg, i, placement.rollout_options(i) if placement else {"num_cpus": 0})
            for i in range(cfg.rollout.num_workers)
        ]

    def come_up(self) -> None:
        """Wait until every engine is there; closing the pool ends the wait with an error.

        Raises:
            RolloutError: an engine cannot start, or not within `rollout.start_deadline_s`.
        """
        self._settle_all()

    def push(self, weights: Weights) -> PushReport:
        """See `ports.Rollouts.push`.

        Raises:
            PushError: not loaded everywhere within `push.deadline_s` (the message names who is
                missing), or log-probabilities differ by more than `push.max_logprob_diff`.
            WeightsError: the directory or its probe is incomplete.
            RolloutError: too few workers are left.
        """
        started = time.monotonic()
        is_checked = self._target is not None and self._target.weights == weights
        if weights.version > 0 and not is_checked:  # checksums of large models take minutes
            check_weights(weights.path)
        probe = probe_path(Path(self._cfg.run_dir) / "weights", weights.version)
        self._serve(Target(weights, Probe.load(probe)))
        serving = [slot.diff for slot in self._slots if slot.state is State.SERVING]
        return PushReport(
            version=weights.version,
            max_diff_text=max(diff.text for diff in serving),
            max_diff_image=max(diff.image for diff in serving),
            seconds=time.monotonic() - started,
        )

    def serve_base(self, path: str) -> None:
        """Serve the model that the engines were started with (its files are at `path`).

        Nothing is compared: without a trainer there is nobody to compare with.

        Raises:
            RolloutError: too few workers are left.
        """
        self._serve(Target(Weights(0, path), Probe((), ())))

    def sample(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Rollout]:
        """See `ports.Rollouts.sample`. One call at a time; closing the iterator aborts what is out.

        Raises:
            RolloutError: nothing was pushed yet, a request cannot be asked, too few workers are
                left, or nothing finished for `rollout.stall_deadline_s`.
        """
        if self._target is None:
            raise RolloutError("sample() before the first push(): no weights have been proven yet")
        run = Sampling(self, iter(requests), sampling)
        try:
            yield from run.rollouts()
        finally:
            run.abort()

    def sleep(self) -> None:
        """Give GPU memory back until `wake`. A worker found dead is left to `wake`."""
        self._settle_all()
        self._tell_all("sleep")

    def wake(self) -> None:
        """Undo `sleep`; a worker found dead is replaced."""
        for slot in self._tell_all("wake"):
            self.replace(slot, "died in its sleep")

    def ask_memory(self) -> dict[str, ray.ObjectRef]:
        """Calls that return a serving worker's resident memory in MiB, by the metric's name."""
        serving = [slot for slot in self._slots if slot.state is State.SERVING]
        return {f"rss_rollout_worker_{s.index}_mib": s.actor.beat.remote() for s in serving}

    def metrics(self) -> dict[str, float]:
        """Totals over the pool's life."""
        return {
            "rollout_requests": self._counts["requests"],
            "rollout_requests_repeated": self._counts["repeated"],
            "rollout_requests_aborted": self._counts["aborted"],
            "rollout_worker_restarts": sum(slot.num_restarts for slot in self._slots),
            "rollout_workers_retired": sum(slot.state is State.RETIRED for slot in self._slots),
        }

    def close(self) -> None:
        """End all workers and their processes. Safe to call twice, and while others wait."""
        self._is_closing = True
        idle = [slot for slot in self._slots if slot.state is not State.STARTING]
        if refs := [slot.actor.close.remote() for slot in idle]:
            ray.wait(refs, num_returns=len(refs), timeout=CLOSE_DEADLINE_S)
        processes = [process for slot in self._slots for process in slot.processes()]
        for slot in self._slots:
            ray.kill(slot.actor)
        end_deaf(processes)

    # -- for Sampling ---------------------------------------------------------------------------

    @property
    def slots(self) -> list[Slot]:
        return self._slots

    @property
    def limits(self) -> RolloutConfig:
        return self._cfg.rollout

    def count(self, what: str, num: int = 1) -> None:
        self._counts[what] += num

    def settle(self, slot: Slot) -> None:
        """Take note of a slot's finished call, and send it on towards SERVING.

        Raises:
            PushError: it does not serve what it was given.
            RolloutError: it cannot start, or too few workers are left.
        """
        try:
            slot.finish_setup()
        except RayActorError as error:
            self.replace(slot, f"died: {error}")
        except RayTaskError as error:
            raise RolloutError(
                f"rollout worker {slot.index} cannot start: {error.cause}; {slot.last_words()}"
            ) from error
        if slot.state is State.READY and self._target is not None:
            slot.load(self._target, self._cfg.push.deadline_s)

    def replace_silent(self) -> None:
        """Start new actors in the place of those whose engine does not answer any more."""
        for slot in self._slots:
            if slot.state is State.SERVING and slot.is_silent():
                limit = self._cfg.rollout.heartbeat_deadline_s
                self.replace(slot, f"gave no sign of life for {limit:g} s")

    def replace(self, slot: Slot, why: str) -> None:
        """Start a new actor in the place of one that died or hangs, and say so.

        Raises:
            RolloutError: its restarts are used up and fewer than `rollout.min_workers` are left.
        """
        if self._is_closing:
            raise RolloutError(f"rollout worker {slot.index} was ended with its pool")
        refuse_lost_head()
        used = "unknown" if slot.memory_mib is None else f"{slot.memory_mib:.0f} MiB"
        log.warning(
            "rollout worker %d %s\nits memory when last asked: %s; %s\n%s",
            slot.index, why, used, slot.last_words(), MEMORY_HINT,
        )  # fmt: skip
        slot.replace()
        num_left = sum(s.state is not State.RETIRED for s in self._slots)
        if num_left < self._cfg.rollout.min_workers:
            raise RolloutError(
                f"{num_left} rollout workers are left, expected at least rollout.min_workers="
                f"{self._cfg.rollout.min_workers}: worker {slot.index} {why}, for the "
                f"{slot.num_restarts + 1}. time, rollout.max_restarts="
                f"{self._cfg.rollout.max_restarts}; its memory when last asked: {used}; "
                f"{slot.last_words()}\n{MEMORY_HINT}"
            )

    def _serve(self, target: Target) -> None:
        """Send every worker towards `target` and wait until all serve it."""
        self._target = target
        for slot in self._slots:
            is_proven = slot.state is State.SERVING and slot.served == target
            if slot.state in (State.READY, State.LOADING, State.SERVING) and not is_proven:
                slot.load(target, self._cfg.push.deadline_s)
        self._settle_all()

    # -- waiting ---------------------------------------------------------------------------------

    def _settle_all(self) -> None:
        """Wait until every slot is where it can get to without being asked for more."""
        while pending := {slot.setup: slot for slot in self._slots if slot.setup is not None}:
            ready, _ = ray.wait(list(pending), timeout=TICK_S)
            for ref in ready:
                self.settle(pending[ref])
            self._refuse_late(slot for slot in self._slots if slot.is_late())

    def _refuse_late(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            if slot.state is State.STARTING:
                raise RolloutError(
                    f"rollout worker {slot.index} did not start within rollout.start_deadline_s="
                    f"{self._cfg.rollout.start_deadline_s:g}; {slot.last_words()}"
                )
            late = [s.index for s in self._slots if s.state is State.LOADING]
            raise PushError(
                f"rollout workers {late} of {len(self._slots)} did not load the pushed weights "
                f"within push.deadline_s={self._cfg.push.deadline_s:g}; {slot.last_words()}"
            )

    def _tell_all(self, method: str) -> list[Slot]:
        """Call a method of all serving workers; returns the slots whose actor is dead."""
        told = [s for s in self._slots if s.state in (State.READY, State.SERVING)]
        calls = {getattr(slot.actor, method).remote(): slot for slot in told}
        if not calls:
            return []
        done, waiting = ray.wait(list(calls), num_returns=len(calls), timeout=SLEEP_DEADLINE_S)
        if waiting:
            raise RolloutError(
                f"rollout workers {[calls[ref].index for ref in waiting]} did not {method} within "
                f"{SLEEP_DEADLINE_S:g} s; {calls[waiting[0]].last_words()}"
            )
        return [calls[ref] for ref in done if _is_dead(ref)]


def _is_dead(ref: Any) -> bool:
    try:
        ray.get(ref, timeout=FETCH_DEADLINE_S)
    except RayActorError:
        return True
    return False
