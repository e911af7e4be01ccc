"""One place among the rollout workers, and the actors that fill it one after the other.

A slot goes STARTING (the engine loads the base model) -> READY -> SERVING (current weights loaded
and proven by the probe); a dead actor is replaced and goes through the same again, until the
restarts are used up and the slot is RETIRED. Guarantees that only an actor whose log-probabilities
agree with the probe is ever SERVING. Nothing here waits: the pool waits on `setup` and on the
requests, and tells the slot what came of it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

from virgo_ray.actors.processes import end_deaf, family, with_children
from virgo_ray.actors.rollouts.heartbeat import Heartbeat
from virgo_ray.actors.rollouts.worker import RolloutWorker, log_path
from virgo_ray.config import Config, SamplingConfig
from virgo_ray.errors import PushError
from virgo_ray.records import Request, Weights
from virgo_ray.weights.probe import Probe, ProbeDiff, compare

NUM_LOG_LINES = 15
LOG_TAIL_BYTES = 8192
# Calls beside the requests: start, load, beat, sleep, wake, abort, close.
NUM_CONTROL_CALLS = 8


class State(Enum):
    STARTING = auto()
    READY = auto()
    LOADING = auto()
    SERVING = auto()
    RETIRED = auto()


@dataclass(frozen=True)
class Target:
    """What every worker shall serve, and how it is proven."""

    weights: Weights
    probe: Probe


class Slot:
    """See the module. `setup` is the call under way that leads to SERVING, or None."""

    def __init__(self, cfg: Config, index: int, options: dict[str, Any]) -> None:
        self.index = index
        self.state = State.STARTING
        self.setup: Any = None
        self.num_restarts = 0
        self.num_in_flight = 0
        self.process_id: int | None = None
        self.memory_mib: float | None = None  # of actor and engine, when they last said so
        self.served: Target | None = None
        self.diff = ProbeDiff(0.0, 0.0)
        self._cfg = cfg
        self._options = options
        self._deadline = 0.0
        self._process: psutil.Process | None = None  # where it is on the driver's node
        self._heart = Heartbeat()
        self._beat: Any = None
        self.actor: Any = None
        self._create()

    def generate(self, request: Request, sampling: SamplingConfig) -> Any:
        """Ask for one rollout; returns the reference."""
        return self.actor.generate.remote(request, sampling)

    def load(self, target: Target, deadline_s: float) -> None:
        """Begin to serve `target`; the slot is SERVING once `finish_setup` has seen the result."""
        self.served = target
        self.state = State.LOADING
        self._deadline = time.monotonic() + deadline_s
        self.setup = self.actor.load.remote(target.weights, target.probe.items)

    def finish_setup(self) -> None:
        """Take note of a `setup` that is done.

        Raises:
            PushError: the weights could not be loaded, or the log-probabilities differ.
            RayActorError: the actor died meanwhile.
        """
        done, self.setup = self.setup, None
        if self.state is State.STARTING:
            node, self.process_id = ray.get(done, timeout=0)
            self._process = next(iter(family(node, self.process_id)), None)
            self.state = State.READY
            return
        assert self.served is not None
        try:
            scored = ray.get(done, timeout=0)
        except ray.exceptions.RayTaskError as error:
            raise PushError(
                f"rollout worker {self.index} could not load {self.served.weights.path}: "
                f"{error.cause}"
            ) from error
        self.diff = compare(self.served.probe, scored)
        self._refuse_difference(self.served.weights)
        self.state = State.SERVING

    def is_late(self) -> bool:
        """Whether `setup` has used up its time."""
        return self.setup is not None and time.monotonic() > self._deadline

    def is_silent(self) -> bool:
        """Whether the engine has not answered for `rollout.heartbeat_deadline_s`; never waits."""
        now = time.monotonic()
        if self._beat is not None and ray.wait([self._beat], timeout=0)[0]:
            self._heart.answered(now)
            with contextlib.suppress(RayError):  # a death shows at the requests
                self.memory_mib = ray.get(self._beat, timeout=0)
            self._beat = None
        if self._heart.is_due(now):
            self._heart.asked(now)
            self._beat = self.actor.beat.remote()
        return self._heart.is_silent(now, self._cfg.rollout.heartbeat_deadline_s)

    def replace(self) -> None:
        """End the actor and start another, or retire the slot if it was replaced too often."""
        processes = self.processes()
        ray.kill(self.actor)
        end_deaf(processes)
        self.num_in_flight = 0
        self.setup = None
        if self.num_restarts >= self._cfg.rollout.max_restarts:
            self.state = State.RETIRED
            return
        self.num_restarts += 1
        self._create()

    def processes(self) -> list[psutil.Process]:
        """Those of actor and engine, where they are on the driver's node."""
        return with_children(self._process) if self._process else []

    def last_words(self) -> str:
        """The end of what the engine's processes printed, and a hint."""
        path = log_path(self._cfg.run_dir, self.index)
        if not path.is_file():
            return f"it printed nothing to {path}"
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            lines = f.read().decode(errors="replace").splitlines()[-NUM_LOG_LINES:]
        return f"the last lines of {path}:\n  " + "\n  ".join(lines)

    def _create(self) -> None:
        rollout = self._cfg.rollout
        actor_class = ray.remote(RolloutWorker).options(
            max_restarts=0,  # the pool restarts, because a new engine must catch up first
            max_concurrency=rollout.max_in_flight + NUM_CONTROL_CALLS,
            **self._options,
        )
        self.actor = actor_class.remote(self._cfg, self.index)
        self.process_id, self._process = None, None
        self._heart, self._beat = Heartbeat(), None
        self.state = State.STARTING
        self._deadline = time.monotonic() + rollout.start_deadline_s
        self.setup = self.actor.start.remote()

    def _refuse_difference(self, weights: Weights) -> None:
        limit = self._cfg.push.max_logprob_diff
        if self.diff.largest > limit:
            raise PushError(
                f"rollout worker {self.index} does not agree with the trainer on {weights.path}: "
                f"largest log-probability difference {self.diff.text:.3g} on text, "
                f"{self.diff.image:.3g} on images; expected at most push.max_logprob_diff="
                f"{limit:g}. Compare the image processor's settings and the dtype of both; in "
                "bfloat16 about 0.3 is usual"
            )
