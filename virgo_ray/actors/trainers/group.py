"""The trainer group: one DeepSpeed rank per actor, rebuilt as a whole when one of them dies.

Guarantees: `fit` returns weights that are held by the first rank and about to be published, and
`settle` returns once they are, or raises; a dead or stuck group is rebuilt and a fit goes on from
its last in-round checkpoint; every step is reported to `on_step` once. It gives up
when `train.max_restarts` restarts in a row brought no checkpoint beyond the one before. The ranks'
own errors (non-finite loss, no memory left on a device, unusable data) and a start that takes too
long are not retried.

Who waits for whom: the ranks wait for each other in collectives; the caller's thread waits for the
first rank to finish or fail, asking rank 0 for its events meanwhile. Any event counts as progress;
without one for `train.step_deadline_s` the ranks are killed.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayError

from virgo_ray.actors.losses import GONE, cause_of, in_short, is_loss
from virgo_ray.actors.processes import end_deaf, family
from virgo_ray.actors.trainers.push import Push
from virgo_ray.actors.trainers.worker import TrainerWorker
from virgo_ray.config import Config
from virgo_ray.errors import TrainingError, VirgoError
from virgo_ray.records import FitReport, Plan, Weights
from virgo_ray.weights.offer import Stream
from virgo_ray.weights.probe import ProbeItem

log = logging.getLogger(__name__)

START_DEADLINE_S = 600.0  # importing the engine, from a cold network disk at worst
POLL_S = 0.5
REPLY_DEADLINE_S = 60.0  # for results that are ready, and for calls that only copy values
CLOSE_DEADLINE_S = 10.0

OnStep = Callable[[dict[str, float]], None]


class GroupLost(Exception):
    """A rank died, lost its peers, or made no progress: the group must be rebuilt."""


class RankLate(GroupLost):
    """A rank did not answer in time."""


class TrainerGroup:
    """Implements `ports.Trainer`.

    Example: `with closing(TrainerGroup(cfg)) as group: group.come_up(); group.fit(plan, base, 1)`.
    """

    def __init__(
        self,
        cfg: Config,
        placement: Any = None,
        on_step: OnStep | None = None,
        on_start: Callable[[str], None] = log.info,
    ) -> None:
        """Prepare a group without starting anything.

        `placement.trainer_options(rank)` gives the actor options of a rank (None: anywhere);
        `on_step` hears of every finished optimizer step, on the caller's thread; `on_start` of what
        a fit that begins trains, a table of parameters.
        """
        self._cfg = cfg
        self._placement = placement
        self._on_step = on_step
        self._on_start = on_start
        self._num_restarts = 0
        self._workers: list[Any] = []
        self.pids: list[int] = []  # of the ranks, each on its own node
        self._nodes: set[str] = set()
        self._processes: list[psutil.Process] = []  # those on the driver's node
        self._num_events = 0
        self._last_step = 0
        self._saved_step = 0  # of the newest checkpoint that a rank went on from or wrote
        self._closed = False
        self._unsettled: tuple[Any, Weights, int, bool] | None = None  # may not be published
        self._trained_again: set[int] = set()  # versions

    def come_up(self) -> None:
        """Start all ranks and let them find each other; closing the group ends the wait with an
        error.

        Raises:
            TrainingError: a rank did not come up.
        """
        self._with_restarts("start", self._build)

    def fit(self, plan: Plan, start: Weights, version: int, is_again: bool = False) -> FitReport:
        """See `ports.Trainer.fit`."""
        self.settle()
        self._last_step = self._saved_step = 0
        fit = (ray.put(plan), start, version, is_again)
        if is_again:
            self._trained_again.add(version)
        report = self._run("fit", *fit)
        self._unsettled = fit
        return report

    def try_settle(self) -> bool:
        """As `settle`, but where a rank died meanwhile, say so: False, and the ranks are ended.

        Raises:
            WeightsError, TrainingError: the version could not be published.
        """
        if self._unsettled is None:
            return True
        if not self._workers:
            return False
        try:
            self._call("settle", num_ranks=1)
        except GroupLost as error:
            self._kill()
            log.warning("trainer group lost before its weights were published: %s", error)
            return False
        except BaseException:
            self._kill()
            raise
        self._unsettled = None
        return True

    def settle(self) -> None:
        """See `ports.Trainer.settle`."""

        def call() -> None:
            assert self._unsettled is not None
            if not self._workers:  # what was not published yet went with them
                self._trained_again.add(self._unsettled[2])
                self._build()
                self._call("fit", *self._unsettled)
            self._call("settle", num_ranks=1)

        if self._unsettled is not None:
            self._with_restarts("settle", call)
            self._unsettled = None

    def offer(
        self, weights: Weights, kind: Stream, labels: Sequence[str], deadline_s: float
    ) -> Push | None:
        """A push of `weights` from the first rank's memory to the receivers that `labels` name.

        None if they are not held there, or cannot be offered, which is logged.
        """
        if self._unsettled is None or self._unsettled[2] != weights.version or not self._workers:
            return None
        asked = self._workers[0].open_push.remote(weights.version, kind, list(labels), deadline_s)
        try:
            opening = self._reply(asked, deadline_s)
        except (GroupLost, VirgoError) as error:
            log.warning("version %d cannot be sent from memory: %s", weights.version, error)
            return None
        return opening and Push(opening, list(self._workers))

    def was_trained_again(self, weights: Weights) -> bool:
        """Whether engines that took them from memory may hold others than what is published, by
        rounding."""
        return weights.version in self._trained_again

    @property
    def nodes(self) -> frozenset[str]:
        """Ids of the nodes that the ranks are on."""
        return frozenset(self._nodes)

    def write_now(self, version: int) -> bool:
        """See `ports.Trainer.write_now`."""
        self.settle()
        if not self._workers:
            return False
        try:
            return bool(self._wait("write_now", [self._workers[0].write_now.remote(version)]))
        except GroupLost as error:
            log.warning("trainer group lost while it wrote version %d: %s", version, error)
            self._kill()
            return False

    def probe_base(self, base: Weights, items: Sequence[ProbeItem]) -> str:
        """Write the base model's parity probe if it is missing; returns its path."""
        self.settle()
        return self._run("probe_base", base, list(items))

    def release(self) -> None:
        """Hand unused device memory back; call between fits where engines share the GPUs.

        Ranks that do not are ended: the next call starts others, from what is on disk.
        """
        if not self._workers:
            return
        try:
            self._call("release")
        except GroupLost as error:
            log.warning("trainer ranks did not give their memory back, so they end: %s", error)
            self._kill()

    def ask_memory(self) -> dict[str, ray.ObjectRef]:
        """Calls that return a rank's resident memory in MiB, by the metric's name."""
        ranks = enumerate(self._workers)
        return {f"rss_trainer_rank_{i}_mib": worker.memory.remote() for i, worker in ranks}

    def ask_devices(self) -> dict[str, ray.ObjectRef]:
        """Calls that return how busy the GPU of a rank was, by its name."""
        ranks = enumerate(self._workers if self._cfg.train.gpus_per_worker else [])
        return {f"trainer rank {i}": worker.take_devices.remote() for i, worker in ranks}

    def metrics(self) -> dict[str, float]:
        """Totals over the group's life."""
        return {"trainer_restarts": self._num_restarts}

    def close(self) -> None:
        """End all ranks, for good, once what they made is published. Safe to call twice."""
        try:
            self._settle_last()
        finally:
            self._end_ranks()

    def _settle_last(self) -> None:
        """Let a version be published that nobody has waited for: the next start takes it up.

        Whoever interrupts a run waits for nothing; then its fit goes on from a checkpoint.
        """
        is_interrupted = isinstance(sys.exc_info()[1], KeyboardInterrupt | SystemExit)
        if self._unsettled is None or not self._workers or is_interrupted:
            return
        try:
            self._call("settle", num_ranks=1)
        except (GroupLost, VirgoError) as error:
            log.warning("the last version was not published: %s; it is trained again", error)

    def _end_ranks(self) -> None:
        self._closed = True
        refs = [worker.close.remote() for worker in self._workers]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=CLOSE_DEADLINE_S)
        self._kill()

    # -- building and killing --------------------------------------------------------------------

    def _build(self) -> None:
        """Start the ranks that are not there yet: all of them, or none."""
        if self._workers:
            return
        try:
            self._start_ranks()
        except RankLate as error:
            raise TrainingError(
                f"the trainer group did not start: {error}; expected {self._cfg.train.num_workers} "
                "ranks that import their engine and find each other in that time. Look at the "
                "disk they import from, and at `ray status` for nodes that were lost"
            ) from error

    def _start_ranks(self) -> None:
        self._num_events, self.pids, self._nodes = 0, [], set()
        self._workers = [self._new_worker(rank) for rank in range(self._cfg.train.num_workers)]
        address, port = self._reply(self._workers[0].host.remote(), START_DEADLINE_S)
        joining = [worker.join.remote(address, port, START_DEADLINE_S) for worker in self._workers]
        for node, pid in self._all_of(joining, START_DEADLINE_S):
            self.pids.append(pid)
            self._nodes.add(node)
            self._processes += family(node, pid)[:1]
        log.info("trainer ranks are processes %s", self.pids)

    def _new_worker(self, rank: int) -> Any:
        options: dict[str, Any] = {"num_cpus": 0.1, "num_gpus": self._cfg.train.gpus_per_worker}
        if self._placement is not None:
            options = self._placement.trainer_options(rank)
        options = {**options, "concurrency_groups": {"watch": 1, "push": 1}}
        actor: Any = ray.remote(**options)(TrainerWorker)
        return actor.remote(self._cfg, rank)

    def _kill(self) -> None:
        for worker in self._workers:
            ray.kill(worker)
        end_deaf(self._processes)
        self._workers, self._processes = [], []

    # -- running ---------------------------------------------------------------------------------

    def _run(self, method: str, *args: Any) -> Any:
        """Run a method on all ranks; returns rank 0's result."""

        def call() -> Any:
            self._build()
            return self._call(method, *args)

        return self._with_restarts(method, call)

    def _with_restarts(self, name: str, call: Callable[[], Any]) -> Any:
        """Call until it succeeds; a checkpoint beyond the last death begins the count anew."""
        limit = self._cfg.train.max_restarts
        num_restarts, saved = 0, 0
        while True:
            if self._closed:
                raise TrainingError(f"{name}: the trainer group was closed; start a new one")
            try:
                return call()
            except GroupLost as error:
                self._kill()
                if self._saved_step > saved:
                    num_restarts, saved = 0, self._saved_step
                if num_restarts == limit and not self._closed:
                    raise TrainingError(
                        f"{name} failed {limit + 1} times without a checkpoint in between, "
                        f"expected at most train.max_restarts={limit} such failures; the last: "
                        f"{error}. The same command goes on from the last checkpoint"
                    ) from error
                num_restarts += 1
                self._num_restarts += 1
                if not self._closed:
                    log.warning(
                        "trainer group lost (restart %d of %d): %s", num_restarts, limit, error
                    )
            except BaseException:
                self._kill()
                raise

    def _call(self, method: str, *args: Any, num_ranks: int | None = None) -> Any:
        """Call a method of the first so many ranks, or of all; returns rank 0's result."""
        called = self._workers[:num_ranks]
        refs = [getattr(worker, method).remote(*args) for worker in called]
        try:
            return self._wait(method, refs)
        except BaseException:
            for ref in refs:  # looked at, so that Ray does not print what else went wrong
                with contextlib.suppress(Exception):
                    ray.get(ref, timeout=0.1)
            raise

    def _wait(self, method: str, refs: list[Any]) -> Any:
        pending, results = list(refs), {}
        heard = time.monotonic()
        while pending:
            done, pending = ray.wait(pending, timeout=POLL_S)
            for ref in done:
                results[ref] = self._reply(ref, REPLY_DEADLINE_S)
            if self._relay_events() or done:
                heard = time.monotonic()
            waited = time.monotonic() - heard
            if pending and waited > self._cfg.train.step_deadline_s:
                ranks = [rank for rank, ref in enumerate(refs) if ref in pending]
                raise GroupLost(
                    f"{method}: no progress for {waited:.0f} s, expected a finished step within "
                    f"train.step_deadline_s={self._cfg.train.step_deadline_s}; unfinished: {ranks}"
                )
        self._relay_events()
        return results[refs[0]]

    def _relay_events(self) -> bool:
        """Hand rank 0's new steps to `on_step`, log its notices; True if there were any events."""
        ref = self._workers[0].progress.remote(self._num_events)
        try:
            events = ray.get(ref, timeout=REPLY_DEADLINE_S)
        except GetTimeoutError:
            return False
        except GONE as error:
            raise GroupLost(f"rank 0 died: {in_short(error)}") from error
        self._num_events += len(events)
        for event in events:
            self._saved_step = max(self._saved_step, event.get("saved_step", 0))
            if "notice" in event:
                log.warning("fit: %s", event["notice"])
            if "table" in event:
                self._on_start(event["table"])
            if event.get("step", 0) > self._last_step:
                self._last_step = event["step"]
                if self._on_step is not None:
                    self._on_step(event)
        return bool(events)

    def _all_of(self, refs: list[Any], timeout_s: float) -> list[Any]:
        """Their results in order; the first one to fail ends the wait (see `_reply`)."""
        deadline = time.monotonic() + timeout_s
        results, pending = {}, list(refs)
        while pending:
            done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                raise RankLate(f"{len(pending)} ranks did not answer within {timeout_s:.0f} s")
            results.update({ref: self._reply(ref, REPLY_DEADLINE_S) for ref in done})
        return [results[ref] for ref in refs]

    def _reply(self, ref: Any, timeout_s: float) -> Any:
        """The result of a call to a rank.

        Raises:
            VirgoError: what the rank raised on purpose. GroupLost: it died, lost a peer or is late
            (RankLate).
        """
        try:
            return ray.get(ref, timeout=timeout_s)
        except GetTimeoutError as error:
            raise RankLate(f"a rank did not answer within {timeout_s:.0f} s") from error
        except RayError as error:
            if is_loss(error):
                raise GroupLost(f"a rank died: {in_short(error)}") from error
            cause = cause_of(error)
            if isinstance(cause, VirgoError):
                raise cause from error
            if isinstance(cause, RuntimeError | OSError):  # collectives, devices, disks
                raise GroupLost(f"a rank failed: {cause!r}") from error
            raise
