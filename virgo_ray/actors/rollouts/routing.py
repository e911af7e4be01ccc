"""Which engine is asked which request: the samples of one problem go to one engine.

There its picture is processed once and its prompt is in the cache. Guarantees that an engine with
room is never idle while a request is left: what waits for a busy engine, or for one that has gone,
moves. Holds back at most as many requests as the engines may have in flight. A request's result
does not depend on the engine (its seed is its own), so nothing here has to be repeatable. Knows
engines only by their number of requests in flight, and waits for nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from virgo_ray.records import Request

# A problem moves when its engine has 1/AHEAD of its limit more in flight than the idlest one.
AHEAD = 4


class Engine(Protocol):
    """What is known of an engine here; it is told from others by its identity."""

    num_in_flight: int


E = TypeVar("E", bound=Engine)


class Routes(Generic[E]):
    """The requests of one call, and where those of each problem go.

    Example: engines 0 and 1 are full, then 0 finishes a request. Drawn are b3, b4 and c1, and b1 is
    with engine 1: b3 and b4 wait for engine 1, and 0 is asked c1. Had c1 not been there, 0 would
    take b3 and b4 over.
    """

    def __init__(self, requests: Iterator[Request | None]) -> None:
        self._requests = requests
        self._again: deque[Request] = deque()
        self._homes: dict[str, E] = {}  # by problem
        self._waiting: dict[E, deque[Request]] = {}  # for an engine that is full
        self._is_drained = False  # nothing left to draw from `requests`
        self._has_none_now = False  # `requests` said None: there may be more later

    @property
    def is_empty(self) -> bool:
        """Whether every request was handed out; known once the drawing has met the end."""
        return self._is_drained and not self._again and not self._num_waiting

    @property
    def is_starved(self) -> bool:
        """Whether every request was handed out, and more may follow."""
        return self._has_none_now and not self._again and not self._num_waiting

    def again(self, request: Request) -> None:
        """Hand out once more a request whose engine lost it, before new ones."""
        self._again.append(request)

    def next(self, engines: Sequence[E], limit: int) -> tuple[Request, E] | None:
        """A request and the engine to ask; None if no engine has room or nothing is left.

        `engines` are those that may be asked now, each for at most `limit` requests at a time.
        """
        self._release_waiting(engines)
        idlest = min(engines, key=lambda e: e.num_in_flight, default=None)
        if idlest is None or idlest.num_in_flight >= limit:
            return None
        if own := self._waiting.get(idlest):
            return own.popleft(), idlest
        while self._num_waiting < limit * len(engines):
            request = self._draw()
            if request is None:
                break
            home = self._home(request.problem.id, engines, idlest, limit)
            if home.num_in_flight < limit:
                return request, home
            self._waiting.setdefault(home, deque()).append(request)
        return self._take_over(idlest)

    def _draw(self) -> Request | None:
        if self._again:
            return self._again.popleft()
        try:
            request = next(self._requests)
        except StopIteration:
            self._is_drained, request = True, None
        self._has_none_now = request is None and not self._is_drained
        return request

    def _home(self, problem: str, engines: Sequence[E], idlest: E, limit: int) -> E:
        """The engine of a problem; the idlest one where there is none, or it has far more to do."""
        known = self._homes.get(problem)
        if known is not None and known in engines:
            num_ahead = known.num_in_flight - idlest.num_in_flight
            if num_ahead <= max(1, limit // AHEAD):
                return known
        self._homes[problem] = idlest
        return idlest

    def _take_over(self, idlest: E) -> tuple[Request, E] | None:
        """The last problem that waits in the longest line, with all its waiting samples."""
        line = max(self._waiting.values(), key=len, default=None)
        if not line:
            return None
        problem = line[-1].problem.id
        moved = deque(r for r in line if r.problem.id == problem)
        kept = [r for r in line if r.problem.id != problem]
        line.clear()
        line.extend(kept)
        self._homes[problem] = idlest
        self._waiting[idlest] = moved
        return moved.popleft(), idlest

    def _release_waiting(self, engines: Sequence[E]) -> None:
        """What waits for an engine that may not be asked any more is drawn again, first."""
        for gone in self._waiting.keys() - set(engines):
            self._again.extendleft(reversed(self._waiting.pop(gone)))

    @property
    def _num_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))
