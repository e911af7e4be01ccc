"""The requests of a round in one stream: what depends on verdicts follows as these come.

Guarantees that every request is drawn once, and that the stream ends only when nothing can follow
any more. It never waits: while what follows depends on verdicts that are still to come it says None
(`ports.Sampler`). One thread may draw while another notes verdicts.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from virgo_ray.records import Judged, Request
from virgo_ray.selection.exploration import Sample

# Looking for what follows takes at most one part in so many of the time: with many problems and a
# budget that they share, a look takes long. But engines may be idle until the next one.
LOOK_SHARE = 20
MAX_PAUSE_S = 5.0


class Asking(Iterator[Request | None]):
    """See the module. Its length is the number of requests that are known so far.

    Example: `judged = asking.note_all(verifiers.judge(rollouts.sample(asking, sampling)))`.
    """

    def __init__(
        self,
        possible: Iterable[Request],
        decide: Callable[[Mapping[Sample, bool]], Sequence[Sample]],
        probe: Callable[[Mapping[Sample, bool]], Sequence[Request]] | None,
        found: Mapping[Sample, bool],
    ) -> None:
        """`decide` lists the samples that are to be asked after these verdicts; of them are asked
        those among `possible`, the ones that nobody asked yet. `probe` gives the requests that the
        first correct verdicts of problems call for. `found` are the verdicts of earlier starts.
        """
        self._possible = {request.key: request for request in possible}
        self._decide = decide
        self._probe = probe
        self._found = dict(found)
        self._queue: deque[Request] = deque()
        self._solved: set[str] = set()  # problems, as far as probes know
        self._num_known = 0
        self._num_open = 0  # not noted yet
        self._is_new = True  # something was found since the last look
        self._next_look = 0.0
        self._lock = threading.Lock()
        self._look()
        self._add(self._find_probes(found))

    def __len__(self) -> int:
        return self._num_known

    def __next__(self) -> Request | None:
        with self._lock:
            if not self._queue:
                self._look()
            if self._queue:
                return self._queue.popleft()
            if self._num_open and (self._possible or self._probe):
                return None
            raise StopIteration

    def note_all(self, judged: Iterable[Judged]) -> Iterator[Judged]:
        """`judged` as it is; every verdict is noted before anybody has it."""
        for item in judged:
            self._note(item)
            yield item

    def _note(self, judged: Judged) -> None:
        verdict = {judged.rollout.key: judged.verdict.is_correct}
        probes = self._find_probes(verdict)
        with self._lock:
            self._add(probes)
            self._found |= verdict
            self._num_open -= 1
            self._is_new = True

    def _find_probes(self, verdicts: Mapping[Sample, bool]) -> Sequence[Request]:
        if self._probe is None:
            return ()
        first = {key: True for key, ok in verdicts.items() if ok and key[0] not in self._solved}
        self._solved.update(id for id, _ in first)
        return self._probe(first) if first else ()

    def _look(self) -> None:
        """Find what follows, if there may be something new: not too often while others are out."""
        began = time.monotonic()
        if not self._is_new or (self._num_open and began < self._next_look):
            return
        samples = self._decide(self._found)
        self._add([self._possible.pop(key) for key in samples if key in self._possible])
        self._is_new = False
        ended = time.monotonic()
        self._next_look = ended + min(MAX_PAUSE_S, LOOK_SHARE * (ended - began))

    def _add(self, requests: Sequence[Request]) -> None:
        self._queue += requests
        self._num_known += len(requests)
        self._num_open += len(requests)
