"""One place among the rollout workers, and the actors that fill it one after the other.

A slot goes PLACING (Ray looks for a node) -> STARTING (the engine loads the base model) -> READY ->
LOADING -> SERVING (current weights loaded and proven by the probe). Whatever fails on the way, the
actor is ended and the slot goes PAUSED -> PLACING again, until it failed too often in a row without
having served in between: RETIRED. Guarantees that only an actor whose log-probabilities agree with
the probe is ever SERVING. Nothing here waits: the pool waits on `setup` and on the requests, and
tells the slot what came of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Protocol

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from virgo_ray.actors.faults import Fault
from virgo_ray.actors.losses import in_short, is_loss
from virgo_ray.actors.processes import end_deaf, family, with_children
from virgo_ray.actors.restarts import pause_s
from virgo_ray.actors.rollouts.heartbeat import Heartbeat
from virgo_ray.actors.rollouts.stream import EngineStream
from virgo_ray.actors.rollouts.target import Target
from virgo_ray.actors.rollouts.worker import RolloutWorker, engine_log
from virgo_ray.config import Config
from virgo_ray.errors import PlacementError, PushError, RolloutError
from virgo_ray.weights.verdict import Deviation, Evidence, tolerance_of

NUM_LOG_LINES = 15
LOG_TAIL_BYTES = 8192
FETCH_DEADLINE_S = 60.0  # for a result that is ready already, on whatever node
# Of one actor at a time: exchanges, of which the later ends the earlier, and all others once.
MAX_CALLS = 16


class State(Enum):
    PAUSED = auto()
    PLACING = auto()
    STARTING = auto()
    READY = auto()
    LOADING = auto()
    SERVING = auto()
    RETIRED = auto()


class Place(Protocol):
    """What a slot needs of `seats.Seat`."""

    @property
    def options(self) -> dict[str, Any]: ...

    def ask(self) -> list[Any]: ...

    def settle(self, answers: list[Any]) -> None: ...


class Slot:
    """See the module. `setup` is the call under way that leads to SERVING, or None."""

    def __init__(self, cfg: Config, index: int, place: Place) -> None:
        self.index = index
        self.setup: Any = None
        self.num_restarts = 0  # over the slot's life
        self.num_failures = 0  # in a row: since an actor here last did its work
        self.num_in_flight = 0
        self.node = ""  # its id in the cluster, once it is placed
        self.process_id: int | None = None
        self.memory_mib: float | None = None  # of actor and engine, when they last said so
        self.served: Target | None = None
        self.deviations: Sequence[Deviation] = ()
        self.evidence: Evidence | None = None  # what the last load came to
        self.stream: EngineStream | None = None  # that the load under way fetches from
        self.must_load = False  # it may hold other weights than the version says
        self.placing_since = 0.0
        self.actor: Any = None
        self._cfg = cfg
        self._place = place
        self._asking: list[Any] = []  # calls for the seat's GPUs that are still to be looked at
        self._answers: list[Any] = []
        self._num_served = 0  # by this actor
        self._digest = ""  # of the stream that this actor's weights came from
        self._deadline = 0.0
        self._due = 0.0  # when a pause ends
        self._process: psutil.Process | None = None  # where it is on the driver's node
        self._heart = Heartbeat()
        self.beat: Any = None  # the question whether the engine lives, while it is open
        self._begin()
        self._create()

    # -- towards SERVING -------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """Whether a pause is over."""
        return self.state is State.PAUSED and time.monotonic() >= self._due

    @property
    def is_late(self) -> bool:
        """Whether `setup` has used up its time."""
        return self.setup is not None and time.monotonic() > self._deadline

    def restart(self) -> None:
        """Begin anew, where a node has room: with another actor, and the GPUs of that node."""
        self.num_restarts += 1
        self._begin()
        self._answers, self._asking = [], self._place.ask()
        if self._asking:
            self.setup = self._asking[0]
        else:
            self._create()

    def allow_time(self) -> None:
        """A step that begins now has its whole time, however long its turn waited (for a fit)."""
        self._deadline = time.monotonic() + self._cfg.rollout.start_deadline_s

    def load(self, target: Target, deadline_s: float, stream: EngineStream | None = None) -> None:
        """Begin to serve `target`; the slot is SERVING once `finish_setup` has seen the result.

        The weights come from disk, or out of `stream`, which has an offer for this slot.
        """
        offer = stream.take_offer(self.index) if stream else None
        is_same = self.served is not None and self.served.weights == target.weights
        if offer is not None or self.must_load or not is_same:
            self._digest = ""
        self.served, self.stream, self.evidence = target, stream, None
        self.state = State.LOADING
        self._deadline = time.monotonic() + deadline_s
        self.setup = self.actor.load.remote(*target.call, offer, self.must_load)

    def set_back(self) -> None:
        """After a stream that failed: its engine lives, and loads from disk next."""
        self.state, self.stream, self.must_load = State.READY, None, True

    def finish_setup(self) -> None:
        """Take note of a `setup` that is done.

        Raises:
            Fault: the actor is gone, could not start or load, or its log-probabilities differ.
        """
        done, self.setup = self.setup, None
        if self.state is State.PLACING:
            self._placed(outcome(done, "was not placed", RolloutError))
        elif self.state is State.STARTING:
            outcome(done, "cannot start", RolloutError)
            self.state = State.READY
        elif self.evidence is None:
            assert self.served is not None
            what = f"could not load {self.served.weights.path}"
            self.evidence = outcome(done, what, PushError)
            if self.stream is None:
                self._prove()
            else:
                self.setup = self.stream.ask()
        else:
            assert self.stream is not None
            self._digest = self.stream.digest(done)
            self._prove()

    def end(self) -> None:
        """End the actor; the slot is due after a pause, or RETIRED if it failed too often."""
        processes = self.processes()
        for call in self._asking:
            ray.cancel(call)
        self.kill()
        end_deaf(processes)
        self._forget_actor()
        self.setup = None
        self.num_failures += 1
        if self.num_failures > self._cfg.rollout.max_restarts:
            self.state = State.RETIRED
        else:
            self.state = State.PAUSED
            self._due = time.monotonic() + pause_s(self.num_failures, self._num_served > 0)

    def kill(self) -> None:
        """End the actor, if there is one, for good."""
        if self.actor is not None:
            ray.kill(self.actor)

    def outlook(self) -> str:
        """What becomes of a slot that has just failed."""
        count = f"failure {self.num_failures} in a row"
        limit = f"rollout.max_restarts={self._cfg.rollout.max_restarts}"
        if self.state is State.RETIRED:
            return f"it is given up ({count}, {limit})"
        pause = max(0.0, self._due - time.monotonic())
        return f"another starts in {pause:.0f} s ({count}, {limit})"

    # -- at work ---------------------------------------------------------------------------------

    def note_rollout(self) -> None:
        """A rollout of this actor came; as many as it may have in flight are proof of health."""
        self._num_served += 1
        if self._num_served >= self._cfg.rollout.max_in_flight:
            self.num_failures = 0

    def note_end_of_call(self) -> None:
        """A call of `sample` is over; who served in it and is there still is healthy."""
        if self._num_served and self.state is State.SERVING:
            self.num_failures = 0

    def note_beat(self) -> None:
        """`beat`, the question whether the engine lives, has been answered."""
        self._heart.answered(time.monotonic())
        with contextlib.suppress(RayError):  # a death shows at the requests
            self.memory_mib = ray.get(self.beat, timeout=0)
        self.beat = None

    def is_silent(self) -> bool:
        """Whether the engine has not answered for `rollout.heartbeat_deadline_s`; never waits."""
        now = time.monotonic()
        if self._heart.is_due(now):
            self._heart.asked(now)
            self.beat = self.actor.beat.remote()
        return self._heart.is_silent(now, self._cfg.rollout.heartbeat_deadline_s)

    def processes(self) -> list[psutil.Process]:
        """Those of actor and engine, where they are on the driver's node."""
        return with_children(self._process) if self._process else []

    def last_words(self) -> str:
        """The end of what the engine's processes printed, and a hint."""
        path = engine_log(self._cfg.run_dir, self.index)
        if not path.is_file():
            return f"it printed nothing to {path}"
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            lines = f.read().decode(errors="replace").splitlines()[-NUM_LOG_LINES:]
        return f"the last lines of {path}:\n  " + "\n  ".join(lines)

    # -- parts -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.state, self._num_served = State.PLACING, 0
        self.placing_since = time.monotonic()
        self.allow_time()

    def _create(self) -> None:
        self.allow_time()
        actor_class = ray.remote(RolloutWorker).options(
            max_restarts=0,  # the pool restarts, because a new engine must catch up first
            max_concurrency=MAX_CALLS,
            **self._place.options,
        )
        self.actor = actor_class.remote(self._cfg, self.index)
        self.setup = self.actor.where.remote()

    def _prove(self) -> None:
        assert self.served is not None and self.evidence is not None
        found = self.served.judge(self.evidence, tolerance_of(self._cfg), self._digest)
        self.deviations, self.stream, self.must_load = found, None, False
        self.state = State.SERVING

    def _placed(self, answer: Any) -> None:
        """One bundle has said which GPU it is, or the actor where it runs."""
        if self._asking:
            self.allow_time()
            self._answers.append(answer)
            del self._asking[0]
            self._take_gpus()
            return
        self.node, self.process_id = answer
        self._process = next(iter(family(self.node, self.process_id)), None)
        self.state = State.STARTING
        self.allow_time()
        self.setup = self.actor.start.remote()

    def _take_gpus(self) -> None:
        if self._asking:
            self.setup = self._asking[0]
            return
        try:
            self._place.settle(self._answers)
        except PlacementError as error:
            raise Fault(f"cannot be placed: {error}", RolloutError) from error
        self._create()

    def _forget_actor(self) -> None:
        self.actor, self.process_id, self._process = None, None, None
        self.num_in_flight, self._asking = 0, []
        self.stream, self.evidence, self._digest, self.must_load = None, None, "", False
        self._heart, self.beat = Heartbeat(), None


def outcome(done: Any, what: str, raises: type[RolloutError] | type[PushError]) -> Any:
    """What a call that is done came to; `what` names it where it failed.

    Raises:
        Fault: the call failed.
    """
    try:
        return ray.get(done, timeout=FETCH_DEADLINE_S)
    except GetTimeoutError as error:
        raise Fault(f"{what}: its answer did not arrive within {FETCH_DEADLINE_S:g} s") from error
    except RayTaskError as error:
        raise Fault(f"{what}: {in_short(error)}", None if is_loss(error) else raises) from error
    except RayError as error:
        raise Fault(f"died: {in_short(error)}", None if is_loss(error) else raises) from error
