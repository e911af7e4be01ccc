"""The verifier pool: judges rollouts on Ray actors while they stream in.

Guarantees: one Judged per rollout, in the order they finish; at most MAX_WAITING batches' worth of
rollouts per worker is held, so a slow consumer slows the stream down (back-pressure); a worker that
is lost or late is replaced after a pause and its rollouts judged again; one that fails too often
without a finished batch is given up, and the last one ends the run; TIMEOUT and ERROR above the
configured share raise VerifierError. The verdicts themselves, deadlines and memory limits are
`verify/`'s business.

Who waits for whom: a background thread pulls from the rollout stream (which blocks, and has its own
deadline) and puts events into one queue; finished batches put their events there too; the caller's
thread waits on that queue only, never longer than the deadline of the oldest batch or the end of a
worker's pause. A batch is sent
as soon as a worker is free, with whatever has arrived. When the caller leaves the iterator, the
thread ends as soon as the stream yields again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from virgo_ray.actors.faults import Commonness, Fault
from virgo_ray.actors.losses import in_short, is_loss
from virgo_ray.actors.placement import Placement
from virgo_ray.actors.restarts import pause_s
from virgo_ray.actors.verifiers.worker import VerifierWorker
from virgo_ray.config import Config, VerifyConfig
from virgo_ray.errors import VerifierError
from virgo_ray.records import Judged, Rollout, Verdict
from virgo_ray.verify.item import Item
from virgo_ray.verify.process.killable import longest_batch_s
from virgo_ray.verify.tally import VerdictTally

log = logging.getLogger(__name__)

# Batches of rollouts held per worker: one being judged, one on its way, one for the consumer.
MAX_WAITING = 3
# Restarts of one worker's actor in a row without a finished batch before it is given up.
MAX_RESTARTS = 5
# What a batch may need beyond its items' deadlines: actor and process start.
START_GRACE_S = 120.0
CLOSE_DEADLINE_S = 10.0
# Numbers of items are never used twice, so a verdict of an abandoned run is told from the others.
_NUMBERS = itertools.count()


@dataclass(eq=False)
class _Worker:
    index: int
    actor: Any  # None in a pause, and once it is given up
    due: float = 0.0  # when a pause ends
    is_retired: bool = False
    num_finished: int = 0  # batches, by this actor
    batch: dict[int, Rollout] = field(default_factory=dict)  # given out and not finished, by number
    ref: Any = None
    sent_at: float = 0.0
    num_replaced: int = 0
    restarts_in_a_row: int = 0
    num_judges_replaced: int = 0


@dataclass(frozen=True)
class _Event:
    """`rollout` arrived, or the stream `is_idle`, or it `ended` (with an error or without), or
    `ref` is done."""

    rollout: Rollout | None = None
    is_idle: bool = False  # it waits for verdicts, and perhaps for rollouts
    ended: bool = False
    error: BaseException | None = None
    ref: Any = None


class VerifierPool:
    """Implements `ports.Verifiers`. Make it with `VerifierPool.start`."""

    def __init__(self, cfg: VerifyConfig, options: dict[str, Any]) -> None:
        self._cfg = cfg
        self._options = options
        self._tally = VerdictTally()
        self.batches = Commonness()
        self._workers = [_Worker(i, self._new_actor()) for i in range(cfg.num_workers)]

    @classmethod
    def start(cls, cfg: Config, placement: Placement) -> VerifierPool:
        """Start the workers where the placement puts them."""
        return cls(cfg.verify, placement.verifier_options())

    def judge(self, rollouts: Iterable[Rollout | None]) -> Iterator[Judged | None]:
        """See `ports.Verifiers.judge`. One call at a time.

        Raises:
            VerifierError: too many could not be judged, or no worker is left.
        """
        tally = VerdictTally()
        for judged in _Run(self._workers, self._cfg, self).judge(rollouts):
            if judged is not None:
                tally.add(judged.verdict)
                self._tally.add(judged.verdict)
                tally.check_failures(self._cfg.max_failure_share)
            yield judged

    def metrics(self) -> dict[str, float]:
        """Share per status, latency percentiles in milliseconds, restarts; over the pool's life."""
        counts = {
            **self._tally.metrics(),
            "worker_restarts": sum(w.num_replaced for w in self._workers),
            "judge_restarts": sum(w.num_judges_replaced for w in self._workers),
        }
        return {f"verifier_{name}": value for name, value in counts.items()}

    def ask_memory(self) -> dict[str, ray.ObjectRef]:
        """Calls that return a worker's resident memory in MiB, by the metric's name."""
        calls = ((w.index, w.actor.memory.remote()) for w in self._workers if w.actor is not None)
        return {f"rss_verifier_worker_{index}_mib": ref for index, ref in calls}

    def close(self) -> None:
        """End all workers and their processes."""
        actors = [worker.actor for worker in self._workers if worker.actor is not None]
        refs = [actor.close.remote() for actor in actors]
        with contextlib.suppress(RayError):
            if refs:
                ray.wait(refs, num_returns=len(refs), timeout=CLOSE_DEADLINE_S)
        for actor in actors:
            ray.kill(actor)

    # -- for _Run --------------------------------------------------------------------------------

    def restart_due(self) -> None:
        """Make actors for workers whose pause is over."""
        for worker in self._workers:
            is_due = time.monotonic() >= worker.due
            if worker.actor is None and is_due and not worker.is_retired:
                worker.num_replaced += 1
                worker.num_finished = 0
                worker.actor = self._new_actor()

    def end(self, worker: _Worker, fault: Fault) -> None:
        """End a worker's actor; another follows after a pause, unless this one failed too often.

        Raises:
            VerifierError: no worker is left, or all would fail like this.
        """
        worker.restarts_in_a_row += 1
        ray.kill(worker.actor)
        worker.actor = None
        worker.is_retired = worker.restarts_in_a_row > MAX_RESTARTS
        worker.due = time.monotonic() + pause_s(worker.restarts_in_a_row, worker.num_finished > 0)
        what = "is given up" if worker.is_retired else "is replaced"
        log.warning("verifier worker %d %s: %s", worker.index, what, fault.why)
        is_common = self.batches.is_common(fault)
        # What another worker is judging right now may still show that it is this one's own fault.
        are_others_idle = all(w.ref is None for w in self._workers if w is not worker)
        if (is_common and are_others_idle) or all(w.is_retired for w in self._workers):
            raise VerifierError(
                f"verifier worker {worker.index} failed {worker.restarts_in_a_row} times in a row, "
                f"expected it to finish a batch, and no other one is well; last reason: "
                f"{fault.why}. Look for its output in the Ray session's logs"
            )

    def _new_actor(self) -> Any:
        actor_class = ray.remote(**self._options)(VerifierWorker)
        return actor_class.remote(self._cfg.model_dump())


class _Run:
    """One pass over one stream of rollouts."""

    def __init__(self, workers: list[_Worker], cfg: VerifyConfig, pool: VerifierPool) -> None:
        self._workers = workers
        self._cfg = cfg
        self._pool = pool
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._arrived: deque[Rollout] = deque()
        self._room = threading.Semaphore(MAX_WAITING * cfg.batch_size * len(workers))
        self._left = threading.Event()
        self._has_ended = False

    def judge(self, rollouts: Iterable[Rollout | None]) -> Iterator[Judged | None]:
        threading.Thread(
            target=self._pull, args=(rollouts,), name="verifier-pull", daemon=True
        ).start()
        try:
            while not self._has_ended or self._has_any:
                event = self._next_event()
                for rollout, verdict in self._handle(event):
                    yield Judged(rollout, verdict)
                    self._room.release()
                if event is not None and event.is_idle and not self._has_any:
                    yield None
                self._pool.restart_due()
                self._give_out()
        finally:
            self._left.set()
            self._room.release()
            for worker in self._workers:  # what is still on its way is not wanted any more
                worker.ref, worker.batch = None, {}

    # --- the thread ------------------------------------------------------------------------------

    def _pull(self, rollouts: Iterable[Rollout | None]) -> None:
        """Move rollouts from the stream into the queue; its error goes to the caller."""
        try:
            for rollout in rollouts:
                if rollout is not None:
                    self._room.acquire()  # deadline: none, the consumer may take its time
                if self._left.is_set():
                    break
                self._events.put(_Event(rollout=rollout, is_idle=rollout is None))
            self._events.put(_Event(ended=True))
        except BaseException as error:
            self._events.put(_Event(ended=True, error=error))
        if self._left.is_set() and hasattr(rollouts, "close"):
            rollouts.close()

    # --- the caller's thread ---------------------------------------------------------------------

    @property
    def _has_any(self) -> bool:
        """Whether a rollout is here that was not judged yet."""
        return bool(self._arrived) or any(worker.batch for worker in self._workers)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.ref is not None]

    def _next_event(self) -> _Event | None:
        """The next event; None where a batch is over its deadline, or a pause.

        Without either it waits for the stream, which has its own deadline.
        """
        deadlines = [w.sent_at + self._batch_deadline_s(w) for w in self._busy()]
        deadlines += [w.due for w in self._workers if w.actor is None and not w.is_retired]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def _batch_deadline_s(self, worker: _Worker) -> float:
        return START_GRACE_S + longest_batch_s(self._cfg, len(worker.batch))

    def _handle(self, event: _Event | None) -> list[tuple[Rollout, Verdict]]:
        if event is None:
            self._replace_late()
        elif event.error is not None:
            raise event.error
        elif event.ended:
            self._has_ended = True
        elif event.rollout is not None:
            self._arrived.append(event.rollout)
        elif event.ref is not None:
            return self._finish(event.ref)
        return []

    def _finish(self, ref: Any) -> list[tuple[Rollout, Verdict]]:
        """The verdicts of a finished batch; the batch of a dead worker goes back to the queue."""
        worker = next((w for w in self._busy() if w.ref == ref), None)
        if worker is None:  # of a worker that was replaced, or of an earlier run
            return []
        worker.ref = None
        try:
            verdicts, worker.num_judges_replaced = ray.get(ref, timeout=CLOSE_DEADLINE_S)
        except RayError as error:
            self._take_back(worker)
            is_ours = not is_loss(error) and not isinstance(error, GetTimeoutError)
            self._pool.end(worker, Fault(in_short(error), VerifierError if is_ours else None))
            return []
        self._pool.batches.passed()
        worker.restarts_in_a_row = 0
        worker.num_finished += 1
        # A verdict of an abandoned run may still come; its number is nobody's.
        return [(worker.batch.pop(n), v) for n, v in verdicts.items() if n in worker.batch]

    def _take_back(self, worker: _Worker) -> None:
        self._arrived.extendleft(reversed(worker.batch.values()))
        worker.batch, worker.ref = {}, None

    def _replace_late(self) -> None:
        for worker in self._busy():
            age_s = time.monotonic() - worker.sent_at
            if age_s >= self._batch_deadline_s(worker):
                self._take_back(worker)
                self._pool.end(worker, Fault(f"no answer for {age_s:.0f} s"))

    def _give_out(self) -> None:
        """Send what has arrived to the free workers in equal shares; ask for what is slow."""
        free = [w for w in self._workers if w.ref is None and w.actor is not None]
        free.sort(key=lambda w: w.restarts_in_a_row)  # the well ones first
        for position, worker in enumerate(free):
            share = -(-len(self._arrived) // (len(free) - position))
            size = min(share, self._cfg.batch_size)
            fresh = {next(_NUMBERS): self._arrived.popleft() for _ in range(size)}
            worker.batch.update(fresh)
            if worker.batch:
                self._send(worker, fresh)

    def _send(self, worker: _Worker, fresh: dict[int, Rollout]) -> None:
        items = {number: Item.of(rollout.problem, rollout) for number, rollout in fresh.items()}
        worker.ref = ref = worker.actor.judge.remote(items)
        worker.sent_at = time.monotonic()
        ref.future().add_done_callback(lambda _: self._events.put(_Event(ref=ref)))
