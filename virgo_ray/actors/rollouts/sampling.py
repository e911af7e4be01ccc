"""One call of `RolloutPool.sample`: hands requests out, collects rollouts, survives dead workers.

Guarantees that every request drawn yields exactly one rollout or the call ends with an error, and
that at most twice as many requests are drawn as the workers may have in flight (`routing.py` says
which worker is asked). A rollout that was finished and
then lost with its node is asked again like one that was not. A request that was lost with its
worker twice is asked in small company, later alone: it may be what ends them (`suspects.py`). Waits
in `Workers` only, for the requests in flight and for workers being replaced.
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
from virgo_ray.actors.losses import ONLY_OBJECT_GONE, in_short, is_loss, went_with_node
from virgo_ray.actors.rollouts.routing import Routes
from virgo_ray.actors.rollouts.slot import FETCH_DEADLINE_S, Slot, State
from virgo_ray.actors.rollouts.suspects import Suspects
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
        requests: Iterator[Request | None],
        sampling: SamplingConfig,
    ) -> None:
        """`counts` is added to: requests, repeated, aborted."""
        self._workers = workers
        self._counts = counts
        self._routes: Routes[Slot] = Routes(requests)
        self._sampling = sampling
        self._suspects = Suspects(workers.limits)
        self._aside: deque[Request] = deque()  # suspects that are to be asked again
        # Workers for suspects alone, and how many each may have; 0: once it has become empty.
        self._kept: dict[Slot, int] = {}
        self._asked: dict[Any, _Asked] = {}
        self._last_progress = time.monotonic()

    def rollouts(self) -> Iterator[Rollout | None]:
        """Yield until every request has its rollout; None while nobody has anything to do."""
        for slot in self._workers.slots:
            slot.num_in_flight = 0
        self._fill()
        while self._asked or self._aside or not self._routes.is_empty:
            if self._is_idle:
                yield None
            for ref in self._wait():
                rollout = self._collect(ref)
                self._fill()
                if rollout is not None:
                    yield rollout
                    self._last_progress = time.monotonic()
            self._refuse_stall()
        for slot in self._workers.slots:
            slot.note_end_of_call()
        self._workers.count_pictures()

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
        """Hand out requests as far as the workers' limit goes."""
        self._fill_kept()
        limit = self._workers.limits.max_in_flight
        open_to_all = [s for s in self._workers.serving if s not in self._kept]
        while (found := self._routes.next(open_to_all, limit)) is not None:
            self._ask(*found)

    def _fill_kept(self) -> None:
        """Hand out suspects, to workers that have nothing else."""
        kept = self._kept.items()
        self._kept = {s: room for s, room in kept if s.num_in_flight and (room or self._aside)}
        while self._aside:
            slot = self._keep(self._suspects.company(self._aside[0]))
            if slot is None:
                return
            self._ask(self._aside.popleft(), slot)

    def _keep(self, room: int) -> Slot | None:
        """A worker for one more suspect, of at most `room`; without one, one is let run empty."""
        serving = sorted(self._workers.serving, key=lambda s: s.num_in_flight)
        for slot in serving:
            if self._kept.get(slot) == room and slot.num_in_flight < room:
                return slot
        others = [s for s in serving if s not in self._kept]
        if others and not others[0].num_in_flight:
            self._kept[others[0]] = room
            return others[0]
        if others and not self._kept:
            self._kept[others[0]] = 0
        return None

    def _ask(self, request: Request, slot: Slot) -> None:
        ref = slot.generate(request, self._sampling)
        slot.num_in_flight += 1
        self._asked[ref] = _Asked(request, slot, slot.actor)
        self._counts["requests"] += 1

    def _wait(self) -> list[Any]:
        """References of finished requests; workers that came up meanwhile get theirs."""
        ready = self._workers.collect_finished(list(self._asked))
        self._workers.replace_silent(self._in_flight)
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
            self._note_loss(asked, error)
            return None
        if is_current:
            asked.slot.note_rollout()
        self._suspects.note_rollout(asked.request)
        return rollout

    def _note_loss(self, asked: _Asked, error: RayError) -> None:
        """Ask again; a worker that died is replaced, and its requests are suspected."""
        if isinstance(error, ONLY_OBJECT_GONE):
            self._ask_again(asked.request)
            return
        why = f"died: {in_short(error)}"
        doing = self._in_flight(asked.slot, asked.request)
        if not went_with_node(error):
            self._suspects.note_loss(asked.request, why)
        self._ask_again(asked.request)
        if asked.actor is asked.slot.actor:
            self._workers.fail(asked.slot, Fault(why, detail=doing))

    def _ask_again(self, request: Request) -> None:
        if self._suspects.is_one(request):
            self._aside.append(request)
        else:
            self._routes.again(request)
        self._counts["repeated"] += 1

    def _in_flight(self, slot: Slot, *lost: Request) -> str:
        """Names what the worker in a slot has to do, and what was just found `lost`."""
        asked = [a.request for a in self._asked.values() if a.actor is slot.actor]
        return self._suspects.in_flight([*lost, *asked])

    @property
    def _is_idle(self) -> bool:
        """Whether what follows depends on rollouts that were all yielded."""
        return self._routes.is_starved and not self._asked and not self._aside

    def _refuse_stall(self) -> None:
        """Time counts only while somebody serves; starts and pushes have deadlines of their own, as
        verdicts have that are waited for."""
        is_served = any(slot.state is State.SERVING for slot in self._workers.slots)
        if self._is_idle or not is_served:
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
