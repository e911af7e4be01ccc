"""Which engine is asked which request: the samples of one problem go to one engine.

There its picture is processed once and its prompt is in the cache. Guarantees that an engine with
room is never idle while a request is left: what waits for a busy engine, or for one that has gone,
moves. Of engines with equally much to do the first is asked. Holds back at most as many requests as
the engines may have in flight. A request's result does not depend on the engine (its seed is its
own), so nothing here has to be repeatable. The time for a request does not grow with the number of
engines (but by its logarithm), nor with what is in flight; only where an idle engine takes over a
problem that waits for another are all lines looked at. Knows engines only by their number of
requests in flight, and waits for nobody.
"""

from __future__ import annotations

import heapq
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


class _Idlest(Generic[E]):
    """Finds the first of the engines that have least in flight.

    A heap of (number in flight, place). An engine has an entry with at most its number: one that
    was asked meanwhile is put right when it comes up.
    """

    def __init__(self, engines: Sequence[E] = ()) -> None:
        self.engines = list(engines)
        self._places = {engine: place for place, engine in enumerate(engines)}
        self._heap: list[tuple[int, int]] = []
        self._rebuild()

    def __contains__(self, engine: E) -> bool:
        return engine in self._places

    def find(self) -> E | None:
        heap = self._heap
        while heap:
            num, place = heap[0]
            engine = self.engines[place]
            if num == engine.num_in_flight:
                return engine
            heapq.heapreplace(heap, (engine.num_in_flight, place))
        return None

    def freed(self, engine: E) -> None:
        """It has fewer requests in flight than before."""
        if engine in self._places:
            heapq.heappush(self._heap, (engine.num_in_flight, self._places[engine]))
        if len(self._heap) > 4 * len(self.engines):
            self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [(engine.num_in_flight, place) for place, engine in enumerate(self.engines)]
        heapq.heapify(self._heap)


class Routes(Generic[E]):
    """The requests of one call, and where those of each problem go.

    Example: engines 0 and 1 are full, then 0 finishes a request. Drawn are b3, b4 and c1, and b1 is
    with engine 1: b3 and b4 wait for engine 1, and 0 is asked c1. Had c1 not been there, 0 would
    take b3 and b4 over.
    """

    def __init__(self, requests: Iterator[Request | None], limit: int) -> None:
        """An engine is asked for at most `limit` requests at a time."""
        self._requests = requests
        self._limit = limit
        self._idlest: _Idlest[E] = _Idlest()
        self._again: deque[Request] = deque()
        self._homes: dict[str, E] = {}  # by problem
        self._waiting: dict[E, deque[Request]] = {}  # for an engine that is full
        self._num_waiting = 0
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

    def open_to(self, engines: Sequence[E]) -> None:
        """These may be asked from now on, and no others."""
        if engines == self._idlest.engines:
            return
        self._idlest = _Idlest(engines)
        for gone in [e for e in self._waiting if e not in self._idlest]:  # drawn again, first
            line = self._waiting.pop(gone)
            self._num_waiting -= len(line)
            self._again.extendleft(reversed(line))

    def freed(self, engine: E) -> None:
        """Must be called when an engine's number of requests in flight has fallen."""
        self._idlest.freed(engine)

    def next(self) -> tuple[Request, E] | None:
        """A request and the engine to ask; None if no engine has room or nothing is left."""
        idlest = self._idlest.find()
        if idlest is None or idlest.num_in_flight >= self._limit:
            return None
        if own := self._waiting.get(idlest):
            self._num_waiting -= 1
            return own.popleft(), idlest
        while self._num_waiting < self._limit * len(self._idlest.engines):
            request = self._draw()
            if request is None:
                break
            home = self._home(request.problem.id, idlest)
            if home.num_in_flight < self._limit:
                return request, home
            self._waiting.setdefault(home, deque()).append(request)
            self._num_waiting += 1
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

    def _home(self, problem: str, idlest: E) -> E:
        """The engine of a problem; the idlest one where there is none, or it has far more to do."""
        known = self._homes.get(problem)
        if known is not None and known in self._idlest:
            num_ahead = known.num_in_flight - idlest.num_in_flight
            if num_ahead <= max(1, self._limit // AHEAD):
                return known
        self._homes[problem] = idlest
        return idlest

    def _take_over(self, idlest: E) -> tuple[Request, E] | None:
        """The last problem that waits in the longest line, with all its waiting samples.

        Takes time for each engine that has a line, and for each request in the longest.
        """
        if not self._num_waiting:
            return None
        line = max(self._waiting.values(), key=len)
        problem = line[-1].problem.id
        moved = deque(r for r in line if r.problem.id == problem)
        kept = [r for r in line if r.problem.id != problem]
        line.clear()
        line.extend(kept)
        self._homes[problem] = idlest
        self._waiting[idlest] = moved
        self._num_waiting -= 1
        return moved.popleft(), idlest
