"""One call of `RolloutPool.sample`: hands requests out, collects rollouts, survives dead workers.

Guarantees that every request drawn yields exactly one rollout or the call ends with an error, and
that no more requests are drawn than the workers may have in flight. A rollout that was finished and
then lost with its node is asked again like one that was not. Waits in `Workers` only, for
the requests in flight and for workers being replaced.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from virgo_ray.actors.faults import Fault
from virgo_ray.actors.losses import ONLY_OBJECT_GONE, in_short, is_loss
from virgo_ray.actors.rollouts.slot import FETCH_DEADLINE_S, Slot, State
from virgo_ray.actors.rollouts.workers import Workers
from virgo_ray.config import SamplingConfig
from virgo_ray.errors import RolloutError
from virgo_ray.records import Request, Rollout

ABORT_DEADLINE_S = 30.0


@dataclass(frozen=True)
class _Asked:
    """A request in flight, and the very actor that has it (its slot may have a newer one)."""

    request: Request
    slot: Slot
    actor: Any


class Sampling:
    """One call of `sample`."""

    def __init__(
        self,
        workers: Workers,
        counts: Counter[str],
        requests: Iterator[Request],
        sampling: SamplingConfig,
    ) -> None:
        """`counts` is added to: requests, repeated, aborted."""
        self._workers = workers
        self._counts = counts
        self._requests = requests
        self._sampling = sampling
        self._again: deque[Request] = deque()
        self._asked: dict[Any, _Asked] = {}
        self._is_drained = False  # nothing left to draw from `requests`
        self._last_progress = time.monotonic()

    def rollouts(self) -> Iterator[Rollout]:
        """Yield until every request has its rollout."""
        for slot in self._workers.slots:
            slot.num_in_flight = 0
        self._fill()
        while self._asked or self._again or not self._is_drained:
            for ref in self._wait():
                rollout = self._collect(ref)
                self._fill()
                if rollout is not None:
                    yield rollout
                    self._last_progress = time.monotonic()
            self._refuse_stall()
        for slot in self._workers.slots:
            slot.note_end_of_call()

    def abort(self) -> None:
        """End what is still out, when the consumer leaves early or an error ended the call."""
        if not self._asked:
            return
        self._counts["aborted"] += len(self._asked)
        actors = {asked.slot: asked.actor for asked in self._asked.values()}
        refs = [actor.abort.remote() for actor in actors.values()]
        refs += self._asked
        ray.wait(refs, num_returns=len(refs), timeout=ABORT_DEADLINE_S)
        self._asked.clear()

    def _fill(self) -> None:
        """Hand out requests, each to the least loaded worker, as far as the limit goes."""
        limit = self._workers.limits.max_in_flight
        while True:
            serving = [s for s in self._workers.slots if s.state is State.SERVING]
            slot = min(serving, key=lambda s: s.num_in_flight, default=None)
            if slot is None or slot.num_in_flight >= limit:
                return
            request = self._again.popleft() if self._again else next(self._requests, None)
            if request is None:
                self._is_drained = True
                return
            ref = slot.generate(request, self._sampling)
            slot.num_in_flight += 1
            self._asked[ref] = _Asked(request, slot, slot.actor)
            self._counts["requests"] += 1

    def _wait(self) -> list[Any]:
        """References of finished requests; workers that came up meanwhile get theirs."""
        ready = self._workers.collect_finished(list(self._asked))
        self._workers.replace_silent()
        self._fill()
        return ready

    def _collect(self, ref: Any) -> Rollout | None:
        """The rollout behind a finished reference, or None if it is lost and is asked again."""
        asked = self._asked.pop(ref)
        is_current = asked.actor is asked.slot.actor
        if is_current:
            asked.slot.num_in_flight -= 1
        try:
            rollout: Rollout = ray.get(ref, timeout=FETCH_DEADLINE_S)
        except GetTimeoutError:  # on a node that is slow or about to be lost
            self._ask_again(asked.request)
            return None
        except RayError as error:
            if not is_loss(error):
                raise RolloutError(
                    f"rollout worker {asked.slot.index} could not sample problem "
                    f"{asked.request.problem.id!r}: {in_short(error)}"
                ) from error
            self._ask_again(asked.request)
            if is_current and not isinstance(error, ONLY_OBJECT_GONE):
                self._workers.fail(asked.slot, Fault(f"died: {in_short(error)}"))
            return None
        if is_current:
            asked.slot.note_rollout()
        return rollout

    def _ask_again(self, request: Request) -> None:
        self._again.append(request)
        self._counts["repeated"] += 1

    def _refuse_stall(self) -> None:
        """Time counts only while somebody serves; starts and pushes have deadlines of their own."""
        if not any(slot.state is State.SERVING for slot in self._workers.slots):
            self._last_progress = time.monotonic()
        seconds = time.monotonic() - self._last_progress
        limit = self._workers.limits.stall_deadline_s
        if seconds > limit:
            oldest = next(iter(self._asked.values()), None)
            where = f"; {oldest.slot.last_words()}" if oldest else ""
            raise RolloutError(
                f"no rollout finished for {seconds:.0f} s (rollout.stall_deadline_s={limit:g}), "
                f"{len(self._asked)} requests are in flight{where}"
            )
