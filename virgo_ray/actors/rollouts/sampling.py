"""One call of `RolloutPool.sample`: hands requests out, collects rollouts, survives dead workers.

Guarantees that every request drawn yields exactly one rollout or the call ends with an error, and
that no more requests are drawn than the workers may have in flight. Waits in `_wait` only, for the
requests in flight and for workers being replaced, at most TICK_S at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayTaskError

from virgo_ray.actors.rollouts.slot import Slot, State
from virgo_ray.config import RolloutConfig, SamplingConfig
from virgo_ray.errors import RolloutError
from virgo_ray.records import Request, Rollout

TICK_S = 1.0
FETCH_DEADLINE_S = 60.0  # for a result that is ready already, on whatever node
ABORT_DEADLINE_S = 30.0


@dataclass(frozen=True)
class _Asked:
    """A request in flight, and the very actor that has it (its slot may have a newer one)."""

    request: Request
    slot: Slot
    actor: Any


class Workers(Protocol):
    """What a call of `sample` needs of the pool: its slots, and replacements for dead workers."""

    @property
    def slots(self) -> Sequence[Slot]: ...

    @property
    def limits(self) -> RolloutConfig: ...

    def count(self, what: str, num: int = 1) -> None: ...

    def settle(self, slot: Slot) -> None: ...

    def replace(self, slot: Slot, why: str) -> None: ...

    def replace_silent(self) -> None: ...


class Sampling:
    """One call of `sample`."""

    def __init__(
        self, pool: Workers, requests: Iterator[Request], sampling: SamplingConfig
    ) -> None:
        self._pool = pool
        self._requests = requests
        self._sampling = sampling
        self._again: deque[Request] = deque()
        self._asked: dict[Any, _Asked] = {}
        self._is_drained = False  # nothing left to draw from `requests`
        self._last_progress = time.monotonic()

    def rollouts(self) -> Iterator[Rollout]:
        """Yield until every request has its rollout."""
        for slot in self._pool.slots:
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

    def abort(self) -> None:
        """End what is still out, when the consumer leaves early or an error ended the call."""
        if not self._asked:
            return
        self._pool.count("aborted", len(self._asked))
        actors = {asked.slot: asked.actor for asked in self._asked.values()}
        refs = [actor.abort.remote() for actor in actors.values()]
        refs += self._asked
        ray.wait(refs, num_returns=len(refs), timeout=ABORT_DEADLINE_S)
        self._asked.clear()

    def _fill(self) -> None:
        """Hand out requests, each to the least loaded worker, as far as the limit goes."""
        limit = self._pool.limits.max_in_flight
        while True:
            serving = [s for s in self._pool.slots if s.state is State.SERVING]
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
            self._pool.count("requests")

    def _wait(self) -> list[Any]:
        """References of finished requests; settles replacements on the way."""
        setups = {slot.setup: slot for slot in self._pool.slots if slot.setup is not None}
        refs = [*self._asked, *setups]
        ready, _ = ray.wait(refs, num_returns=1, timeout=TICK_S)
        if ready:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ready:
            if ref in setups:
                self._pool.settle(setups[ref])
        for slot in setups.values():
            if slot.is_late():
                self._pool.replace(slot, f"was not ready in time ({slot.state.name.lower()})")
        self._pool.replace_silent()
        if setups:
            self._fill()
        return [ref for ref in ready if ref in self._asked]

    def _collect(self, ref: Any) -> Rollout | None:
        """The rollout behind a finished reference, or None if its worker died with it."""
        asked = self._asked.pop(ref)
        is_current = asked.actor is asked.slot.actor
        if is_current:
            asked.slot.num_in_flight -= 1
        try:
            return ray.get(ref, timeout=FETCH_DEADLINE_S)
        except RayActorError as error:
            self._again.append(asked.request)
            self._pool.count("repeated")
            if is_current:
                self._pool.replace(asked.slot, f"died: {error}")
            return None
        except RayTaskError as error:
            raise RolloutError(
                f"rollout worker {asked.slot.index} could not sample problem "
                f"{asked.request.problem.id!r}: {error.cause}"
            ) from error

    def _refuse_stall(self) -> None:
        """Time counts only while somebody serves; starts and pushes have deadlines of their own."""
        if not any(slot.state is State.SERVING for slot in self._pool.slots):
            self._last_progress = time.monotonic()
        seconds = time.monotonic() - self._last_progress
        limit = self._pool.limits.stall_deadline_s
        if seconds > limit:
            oldest = next(iter(self._asked.values()), None)
            where = f"; {oldest.slot.last_words()}" if oldest else ""
            raise RolloutError(
                f"no rollout finished for {seconds:.0f} s (rollout.stall_deadline_s={limit:g}), "
                f"{len(self._asked)} requests are in flight{where}"
            )
