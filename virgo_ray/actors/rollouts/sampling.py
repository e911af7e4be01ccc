"""One call of `RolloutPool.sample`: hands requests out, collects rollouts, survives dead workers.

Guarantees that every request drawn yields exactly one rollout or the call ends with an error, and
that at most twice as many requests are drawn as the workers may have in flight (`routing.py` says
which worker is asked). Each worker is fed and drained in batches, by one call at a time
(`feed.py`); a request that takes the place of one that is done is drawn when that one is yielded.
A rollout that was finished and then lost with its node is asked again like one that was not. A
request that was lost with its worker twice is asked in small company, later alone: it may be what
ends them (`suspects.py`). Waits in `Workers` only, for the exchanges and for workers being
replaced.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from virgo_ray.actors.faults import Fault
from virgo_ray.actors.losses import ONLY_OBJECT_GONE, in_short, is_loss, went_with_node
from virgo_ray.actors.rollouts.feed import Feed
from virgo_ray.actors.rollouts.routing import Routes
from virgo_ray.actors.rollouts.slot import FETCH_DEADLINE_S, Slot, State
from virgo_ray.actors.rollouts.suspects import Suspects
from virgo_ray.actors.rollouts.workers import Workers
from virgo_ray.actors.rollouts.worklist import Finished
from virgo_ray.config import SamplingConfig
from virgo_ray.errors import RolloutError
from virgo_ray.records import Request, Rollout

ABORT_DEADLINE_S = 30.0
# Requests that are handed out at a stretch; then the workers are sent theirs and looked after.
NUM_AT_A_STRETCH = 16_384
# A worker with finished rollouts waits for more, this long for each worker that serves: so that
# there are at most 2,000 exchanges a second, however many workers there are.
LINGER_S = 0.5e-3
# Between two Nones while requests are out: whoever is next holds nothing back for much longer.
NONE_EVERY_S = 0.1


class Sampling:
    """One call of `sample`."""

    def __init__(
        self,
        workers: Workers,
        counts: Counter[str],
        requests: Iterator[Request | None],
        sampling: SamplingConfig,
    ) -> None:
        """`counts` is added to: requests, repeated, aborted. A lost reply repeats all that its
        worker has: what the worker has still at work it does not begin anew."""
        self._workers = workers
        self._counts = counts
        self._routes: Routes[Slot] = Routes(requests, workers.limits.max_in_flight)
        self._sampling = sampling
        self._suspects = Suspects(workers.limits)
        self._aside: deque[Request] = deque()  # suspects that are to be asked again
        # Workers for suspects alone, and how many each may have; 0: once it has become empty.
        self._kept: dict[Slot, int] = {}
        self._feeds: dict[Any, Feed] = {}  # by actor
        self._to_send: dict[Feed, None] = {}  # those with requests to hand over, in order
        self._open: dict[Any, Feed] = {}  # by exchange
        self._linger_s = 0.0
        self._last_progress = time.monotonic()
        self._next_none = 0.0

    def rollouts(self) -> Iterator[Rollout | None]:
        """Yield until every request has its rollout; None now and then while more may follow."""
        for slot in self._workers.slots:
            slot.num_in_flight = 0
        is_more = self._fill()
        while self._open or self._aside or not self._routes.is_empty:
            if self._is_none_due():
                yield None
            for call in self._wait(is_patient=not is_more):
                yield from self._collect(call)
            self._refuse_stall()
            is_more = self._fill()
        for slot in self._workers.slots:
            slot.note_end_of_call()
        self._workers.count_pictures()

    def abort(self) -> None:
        """End what is still out, when the consumer leaves early or an error ended the call."""
        out = [feed for feed in self._feeds.values() if feed.held]
        if not out:
            return
        self._counts["aborted"] += sum(len(feed.held) for feed in out)
        refs = [feed.actor.abort.remote(list(feed.held)) for feed in out]
        refs += self._open
        ray.wait(refs, num_returns=len(refs), timeout=ABORT_DEADLINE_S)
        self._feeds.clear()
        self._open.clear()

    # -- handing out -----------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Hand out requests as far as the workers' limit goes; whether that was not all yet."""
        if self._kept or self._aside:
            self._fill_kept()
        self._open_routes()
        is_more = all(self._hand_out_one() for _ in range(NUM_AT_A_STRETCH))
        self._send(is_hurried=not is_more)
        return is_more

    def _open_routes(self) -> None:
        """Those that serve may be asked, but for those that are kept."""
        serving = self._workers.serving
        self._linger_s = LINGER_S * len(serving)
        self._routes.open_to([slot for slot in serving if slot not in self._kept])

    def _hand_out_one(self) -> bool:
        found = self._routes.next()
        if found is not None:
            self._ask(*found)
        return found is not None

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
        feed = self._feeds.get(slot.actor)
        if feed is None:
            feed = self._feeds[slot.actor] = Feed(slot, self._sampling)
        feed.add(request)
        slot.num_in_flight += 1
        self._to_send[feed] = None
        self._counts["requests"] += 1

    def _send(self, is_hurried: bool) -> None:
        """Open exchanges with those who have requests to come; in a hurry, end what is open."""
        for feed in list(self._to_send):
            if feed.call is None or is_hurried:
                self._send_to(feed)
                feed.poke()
                del self._to_send[feed]

    def _send_to(self, feed: Feed) -> None:
        if feed.send(self._linger_s):
            self._open[feed.call] = feed

    # -- collecting ------------------------------------------------------------------------------

    def _wait(self, is_patient: bool) -> list[Any]:
        """Exchanges that are over."""
        over = self._workers.collect_finished(list(self._open), is_patient)
        self._workers.replace_silent(self._in_flight)
        self._open_routes()
        return over

    def _collect(self, call: Any) -> Iterator[Rollout]:
        """The rollouts that an exchange returned; whatever was lost is asked again."""
        feed = self._open.pop(call)
        feed.end_call()
        finished = self._fetch(feed, call)
        for number, rollout in finished.rollouts.items():
            if (request := feed.held.pop(number, None)) is None:  # it came twice
                continue
            self._suspects.note_rollout(request)
            if feed.is_current:
                feed.slot.num_in_flight -= 1
                feed.slot.note_rollout()
                self._routes.freed(feed.slot)
                self._hand_out_one()
            yield rollout
            self._last_progress = time.monotonic()
        self._refuse_failed(feed, finished)
        self._to_send.pop(feed, None)
        self._send_to(feed)

    def _fetch(self, feed: Feed, call: Any) -> Finished:
        """What an exchange returned: nothing, if that is lost."""
        try:
            finished: Finished = ray.get(call, timeout=FETCH_DEADLINE_S)
            return finished
        except (GetTimeoutError, *ONLY_OBJECT_GONE):  # its node is slow, or about to be lost
            self._counts["repeated"] += feed.send_again()
        except RayError as error:
            if not is_loss(error):
                raise RolloutError(
                    f"rollout worker {feed.slot.index} could not sample: {in_short(error)}"
                ) from error
            self._note_loss(feed, error)
        return Finished()

    def _refuse_failed(self, feed: Feed, finished: Finished) -> None:
        for number, why in finished.failed.items():
            if (request := feed.held.get(number)) is not None:
                raise RolloutError(
                    f"rollout worker {feed.slot.index} could not sample problem "
                    f"{request.problem.id!r}: {why}"
                )

    def _note_loss(self, feed: Feed, error: RayError) -> None:
        """Ask again; a worker that died is replaced, and its requests are suspected."""
        why = f"died: {in_short(error)}"
        lost = feed.give_up()
        doing = self._suspects.in_flight([request for request, was_sent in lost if was_sent])
        for request, was_sent in lost:
            if was_sent and not went_with_node(error):
                self._suspects.note_loss(request, why)
            self._ask_again(request)
        del self._feeds[feed.actor]
        if feed.is_current:
            self._workers.fail(feed.slot, Fault(why, detail=doing))
            self._fill()

    def _ask_again(self, request: Request) -> None:
        if self._suspects.is_one(request):
            self._aside.append(request)
        else:
            self._routes.again(request)
        self._counts["repeated"] += 1

    def _in_flight(self, slot: Slot) -> str:
        """Names what the worker in a slot has to do."""
        feed = self._feeds.get(slot.actor)
        return self._suspects.in_flight(list(feed.held.values()) if feed else [])

    def _is_none_due(self) -> bool:
        """Whether what follows depends on what was yielded, and the last None is a while ago."""
        now = time.monotonic()
        if not self._is_idle and (not self._routes.is_starved or now < self._next_none):
            return False
        self._next_none = now + NONE_EVERY_S
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether what follows depends on rollouts that were all yielded."""
        return self._routes.is_starved and not self._open and not self._aside

    def _refuse_stall(self) -> None:
        """Time counts only while somebody serves; starts and pushes have deadlines of their own, as
        verdicts have that are waited for."""
        is_served = any(slot.state is State.SERVING for slot in self._workers.slots)
        if self._is_idle or not is_served:
            self._last_progress = time.monotonic()
        seconds = time.monotonic() - self._last_progress
        limit = self._workers.limits.stall_deadline_s
        if seconds > limit:
            out = [feed for feed in self._feeds.values() if feed.held]
            where = f"; {out[0].slot.last_words()}" if out else ""
            raise RolloutError(
                f"no rollout finished for {seconds:.0f} s (rollout.stall_deadline_s={limit:g}), "
                f"{sum(len(feed.held) for feed in out)} requests are in flight{where}"
            )
