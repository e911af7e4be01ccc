"""The rollout workers as a whole: who is on its way, who failed, and who follows.

Guarantees that a worker that dies, hangs, or fails to start, load, sleep or wake is replaced after
a pause, and retired when it fails too often in a row; that the run ends where fewer than
`rollout.min_workers` are left, and at once where every worker would fail alike. A worker that Ray
finds no node for, because one was lost, ends nothing while enough others are there; it joins them
when its node comes.

Who waits for whom: all waiting happens in `collect_finished`, in the thread of the pool's caller,
for at most TICK_S before deadlines are looked at; actors wake it by finishing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from virgo_ray.actors.faults import Commonness, Fault
from virgo_ray.actors.head import refuse_lost_head
from virgo_ray.actors.processes import end_deaf
from virgo_ray.actors.rollouts.slot import Slot, State, outcome
from virgo_ray.actors.rollouts.stream import EngineStream
from virgo_ray.actors.rollouts.target import Target
from virgo_ray.actors.seats import Anywhere
from virgo_ray.config import Config, RolloutConfig
from virgo_ray.errors import PushError, RolloutError
from virgo_ray.records import Weights
from virgo_ray.weights.manifest import check_weights

log = logging.getLogger(__name__)

TICK_S = 1.0
LOOK_EVERY_S = 1.0
# A look at many calls takes about 1 µs each, so after the first that is done more are let come.
GATHER_S = 20e-6  # for each call that is looked at
IDLE_TICK_S = 0.1  # where there is nothing to wait for but the end of a pause
SLEEP_DEADLINE_S = 120.0
CLOSE_DEADLINE_S = 20.0
COUNT_DEADLINE_S = 5.0
# How long a call waits for a worker that no node has room for, where enough others are there.
PLACE_GRACE_S = 60.0
STARTED = (State.READY, State.LOADING, State.SERVING)
PRESENT = (State.STARTING, *STARTED)  # with an actor on some node
MEMORY_HINT = (
    "An engine that ends without a word was most likely killed for memory: lower "
    "rollout.kv_cache_gib, rollout.gpu_memory_utilization or rollout.max_in_flight"
)


class Workers:
    """All slots of a pool. One call at a time, but for `close`."""

    def __init__(self, cfg: Config, placement: Any = None) -> None:
        """Begin to start all engines.

        `placement.rollout_seat(worker)` says where each goes (None: anywhere).
        """
        self._cfg = cfg
        self._target: Target | None = None
        # Makes a target that workers can load from disk; set once there is a trainer.
        self.bring_to_disk: Callable[[Weights], Target] | None = None
        self._stream: EngineStream | None = None  # of the push that goes on
        self._is_closing = False
        self._is_asleep = False  # nobody is started meanwhile: the GPUs are lent
        self._next_look = 0.0
        self._starts, self._loads = Commonness(), Commonness()
        self._num_pictures: dict[tuple[int, int], int] = {}  # by actor, those that ended included
        self.slots = [
            Slot(cfg, i, placement.rollout_seat(i) if placement else Anywhere())
            for i in range(cfg.rollout.num_workers)
        ]

    @property
    def serving(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.state is State.SERVING]

    @property
    def limits(self) -> RolloutConfig:
        return self._cfg.rollout

    @property
    def target(self) -> Target | None:
        """What they serve, or were asked to."""
        return self._target

    @property
    def num_pictures(self) -> int:
        """Pictures that the engines have processed, as far as they have said."""
        return sum(self._num_pictures.values())

    def serve(self, target: Target, stream: EngineStream | None = None) -> None:
        """Send every worker towards `target` and wait until all serve it.

        Those that `stream` has an offer for load from it. A target that is not on disk yet leaves
        the others, and those whose stream fails, READY (`are_waiting`).
        """
        self._stream = stream
        try:
            self.adopt(target)
            self.settle_all()
        finally:
            self._stream = None

    def adopt(self, target: Target) -> None:
        """The same without waiting."""
        if target != self._target:
            self._loads = Commonness()
        self._target = target
        for slot in self.slots:
            self._send_on(slot)

    def distrust(self) -> None:
        """Let all load what they are sent next, though they have that version."""
        for slot in self.slots:
            slot.must_load = True

    @property
    def are_waiting(self) -> bool:
        """Whether a worker waits for the target to be on disk: it serves nothing, or what was the
        target before."""
        old = [slot for slot in self.serving if slot.served != self._target]
        return bool(old) or any(slot.state is State.READY for slot in self.slots)

    @property
    def num_up(self) -> int:
        """How many engines have loaded the base model, or more."""
        return sum(slot.state in STARTED for slot in self.slots)

    def settle_all(self, look: Callable[[], None] = lambda: None) -> None:
        """Wait until every slot is where it can get to without being asked for more; `look` is
        called after every step on the way."""
        while any(self._is_on_its_way(slot) for slot in self.slots):
            self.collect_finished()
            look()

    def sleep(self) -> None:
        """Give GPU memory back until `wake`; who cannot is ended, and replaced after it."""
        self._is_asleep = True
        self.settle_all()
        self._tell_all("sleep")

    def wake(self) -> None:
        """Undo `sleep`; whoever is missing is started."""
        self._is_asleep = False
        for slot in self.slots:
            if slot.state is State.PLACING:  # held up by us, for as long as the others slept
                slot.allow_time()
        self._tell_all("wake")
        self._restart_due()

    def close(self) -> None:
        """End all workers and their processes. Safe to call twice, and while others wait."""
        self._is_closing = True
        idle = [slot for slot in self.slots if slot.state in STARTED]
        if refs := [slot.actor.close.remote() for slot in idle]:
            ray.wait(refs, num_returns=len(refs), timeout=CLOSE_DEADLINE_S)
        processes = [process for slot in self.slots for process in slot.processes()]
        for slot in self.slots:
            slot.kill()
        end_deaf(processes)

    def collect_finished(self, calls: Sequence[Any] = (), is_patient: bool = True) -> list[Any]:
        """The calls that are finished, after at most TICK_S; brings workers up on the way.

        Without patience nothing is waited for.

        Raises:
            RolloutError: too few workers are left, or the pool was closed.
            PushError: no worker can serve what was pushed.
        """
        self._refuse_closed()
        if not self._is_asleep:
            self._restart_due()
        setups = {s.setup: s for s in self.slots if s.setup is not None and self._may_go_on(s)}
        ready = _ready([*calls, *setups], is_patient)
        for ref in ready:
            if ref in setups and setups[ref].setup == ref:  # not ended meanwhile
                self._settle(setups[ref])
        self._end_late()
        return [ref for ref in ready if ref not in setups]

    def replace_silent(self, doing: Callable[[Slot], str]) -> None:
        """End those whose engine does not answer any more; others follow.

        `doing` says what a worker has in flight, for the message. Looks every LOOK_EVERY_S.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_S
        asked = {slot.beat: slot for slot in self.serving if slot.beat is not None}
        for ref in _finished(list(asked)):
            asked[ref].note_beat()
        for slot in self.serving:
            if slot.is_silent():
                limit = self._cfg.rollout.heartbeat_deadline_s
                why = f"gave no sign of life for {limit:g} s"
                self.fail(slot, Fault(why, detail=doing(slot)))

    def count_pictures(self) -> None:
        """Ask who serves how many pictures it has processed; one that does not say is left out."""
        asked = {slot.actor.num_pictures.remote(): slot for slot in self.serving}
        if not asked:
            return
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=COUNT_DEADLINE_S)
        for ref in ready:
            with contextlib.suppress(RayError):  # a death shows at the requests
                slot = asked[ref]
                num = ray.get(ref, timeout=COUNT_DEADLINE_S)
                self._num_pictures[slot.index, slot.num_restarts] = num

    def fail(self, slot: Slot, fault: Fault) -> None:
        """End the actor of a slot, so that another follows after a pause, and say so.

        Raises:
            RolloutError: it failed too often and fewer than `rollout.min_workers` are left.
            RolloutError, PushError: every worker would fail like this.
            WeightsError: the same, for the files have changed since they were published.
        """
        self._refuse_closed()
        refuse_lost_head()
        used = "unknown" if slot.memory_mib is None else f"{slot.memory_mib:.0f} MiB"
        words = f"its memory when last asked: {used}; {slot.last_words()}"
        is_common = self._is_common(slot, fault)
        if slot.stream is not None:
            slot.stream.fail(slot.index, fault.why)
        slot.end()
        log.warning(
            "rollout worker %d %s; %s\n%s\n%s",
            slot.index, fault.why, slot.outlook(), words, MEMORY_HINT,
        )  # fmt: skip
        if is_common and fault.raises is PushError:
            self._refuse_damaged()
        if is_common and fault.raises is not None:
            raise fault.raises(f"rollout worker {slot.index} {fault.why}; {words}")
        num_left = sum(s.state is not State.RETIRED for s in self.slots)
        if num_left < self._cfg.rollout.min_workers:
            raise RolloutError(
                f"{num_left} rollout workers are left, expected at least rollout.min_workers="
                f"{self._cfg.rollout.min_workers}: worker {slot.index} {fault.why}, for the "
                f"{slot.num_failures}. time in a row, rollout.max_restarts="
                f"{self._cfg.rollout.max_restarts}; {words}\n{MEMORY_HINT}"
            )

    def _refuse_damaged(self) -> None:
        """Raises:
        WeightsError: what all engines fail to load is not what was published.
        """
        if self._target is not None and self._target.checksums:
            check_weights(self._target.weights.path)

    # -- parts -----------------------------------------------------------------------------------

    def _is_on_its_way(self, slot: Slot) -> bool:
        """Whether to wait for a slot: for one without a node not for ever, if it is not needed."""
        if slot.state is State.PLACING and self._may_go_on(slot):
            is_new = time.monotonic() - slot.placing_since < PLACE_GRACE_S
            return is_new or not self._has_enough_without(slot)
        if slot.state is State.PAUSED:
            return not self._is_asleep
        return slot.state in (State.STARTING, State.LOADING)

    def _may_go_on(self, slot: Slot) -> bool:
        """No engine starts while the others sleep: the GPUs are lent."""
        return not (self._is_asleep and slot.state is State.PLACING)

    def _has_enough_without(self, slot: Slot) -> bool:
        others = [s for s in self.slots if s is not slot and s.state in PRESENT]
        return len(others) >= self._cfg.rollout.min_workers

    def _settle(self, slot: Slot) -> None:
        """Take note of a slot's finished call, and send it on towards SERVING."""
        try:
            slot.finish_setup()
        except Fault as fault:
            if slot.stream is None or fault.raises is None:
                self.fail(slot, fault)
            else:
                slot.stream.fail(slot.index, fault.why)
                slot.set_back()
        if slot.state in STARTED:  # nobody serves before all have started
            self._starts.passed()
        self._send_on(slot)
        if slot.state is State.SERVING:
            self._loads.passed()

    def _send_on(self, slot: Slot) -> None:
        """Let it load the target, unless it serves it; one that is loading is let finish first."""
        is_proven = slot.state is State.SERVING and slot.served == self._target
        if slot.state not in (State.READY, State.SERVING) or not self._target or is_proven:
            return
        if self._stream is not None and self._stream.has_offer(slot.index):
            slot.load(self._target, self._cfg.push.deadline_s, self._stream)
        elif self._target.is_on_disk:
            slot.load(self._target, self._cfg.push.deadline_s)
        elif not self._is_asleep and self._stream is None and self.bring_to_disk is not None:
            self.adopt(self.bring_to_disk(self._target.weights))

    def _restart_due(self) -> None:
        for slot in self.slots:
            if slot.is_due:
                slot.restart()

    def _end_late(self) -> None:
        late = [s for s in self.slots if s.is_late and self._may_go_on(s)]
        loading = [s.index for s in late if s.state is State.LOADING]
        for slot in late:
            if slot.state is State.LOADING:
                limit = self._cfg.push.deadline_s
                why = f"did not load the pushed weights within push.deadline_s={limit:g}"
                missing = f" (missing: workers {loading} of {len(self.slots)})"
                raises = None if slot.stream else PushError  # the sender may hang, not all engines
                self.fail(slot, Fault(why, raises, missing))
            elif slot.state is State.STARTING or not self._has_enough_without(slot):
                is_placed = slot.state is State.STARTING
                what = "did not start" if is_placed else "found no node with room"
                limit = self._cfg.rollout.start_deadline_s
                why = f"{what} within rollout.start_deadline_s={limit:g}"
                self.fail(slot, Fault(why, RolloutError))

    def _is_common(self, slot: Slot, fault: Fault) -> bool:
        """Whether all would fail so; that is known once every other has had its first try, too."""
        others = [s for s in self.slots if s is not slot]
        if slot.state is not State.LOADING:
            is_last = not any(self._is_in_first_start(s) for s in others)
            return self._starts.is_common(fault) and is_last
        is_last = not any(s.state is State.LOADING for s in others)
        return self._loads.is_common(fault) and is_last

    def _is_in_first_start(self, slot: Slot) -> bool:
        """Whether it may still show that engines do start; one that finds no node does not."""
        is_starting = slot.state in (State.PLACING, State.STARTING)
        return is_starting and not slot.num_failures and self._is_on_its_way(slot)

    def _tell_all(self, method: str) -> None:
        """Call a method of all engines; who cannot do it, or not in time, is ended."""
        told = [s for s in self.slots if s.state in (State.READY, State.SERVING)]
        calls = {getattr(slot.actor, method).remote(): slot for slot in told}
        if not calls:
            return
        done, waiting = ray.wait(list(calls), num_returns=len(calls), timeout=SLEEP_DEADLINE_S)
        why = f"did not {method} within {SLEEP_DEADLINE_S:g} s"
        faults = [(calls[ref], Fault(why, RolloutError)) for ref in waiting]
        for ref in done:
            try:
                outcome(ref, f"could not {method}", RolloutError)
            except Fault as fault:
                faults.append((calls[ref], fault))
        for slot, met in faults:
            self.fail(slot, met)

    def _refuse_closed(self) -> None:
        if self._is_closing:
            raise RolloutError("the rollout workers were ended with their pool")


def _ready(refs: list[Any], is_patient: bool) -> list[Any]:
    """Those that are finished, after at most TICK_S."""
    if not is_patient:
        return _finished(refs)
    if not refs:
        time.sleep(IDLE_TICK_S)
        return []
    if not ray.wait(refs, num_returns=1, timeout=TICK_S)[0]:
        return []
    time.sleep(len(refs) * GATHER_S)
    return _finished(refs)


def _finished(refs: list[Any]) -> list[Any]:
    return list(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) if refs else []
