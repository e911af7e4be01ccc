"""Pushes from a trainer's memory: which way, with whose offers, and what came of it.

After a stream that failed, `push.transport: auto` keeps to the disk for the rest of this start.
Knows engines by their slots only; the pool serves what is opened here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from virgo_ray.actors.rollouts.choice import (
    Choice,
    Situation,
    choose_transport,
    read_allocator,
    refuse_transport,
)
from virgo_ray.actors.rollouts.slot import Slot, State
from virgo_ray.actors.rollouts.stream import EngineStream, Push, make_offers
from virgo_ray.config import Config
from virgo_ray.records import Weights
from virgo_ray.weights.probe import Probe

log = logging.getLogger(__name__)

# Of push.deadline_s, for a stream. Engines that wait for one that hangs must give up before it is
# given up itself: then they load from disk, and it alone is replaced.
STREAM_SHARE = 0.5


class Source(Protocol):
    """A trainer, as far as a push is concerned."""

    @property
    def nodes(self) -> frozenset[str]: ...

    def settle(self) -> None: ...

    def was_trained_again(self, weights: Weights) -> bool: ...

    def write_now(self, version: int) -> bool: ...

    def offer(
        self, weights: Weights, kind: Any, labels: Sequence[str], deadline_s: float
    ) -> Push | None: ...


@dataclass(frozen=True)
class Flow:
    """A push that was opened."""

    kind: str
    push: Push
    stream: EngineStream

    @property
    def transport(self) -> str:
        """How an engine got its weights, if one got them."""
        return "disk" if self.stream.is_in_vain else self.kind

    @property
    def probe(self) -> Probe:
        return self.push.opening.probe

    @property
    def gather_seconds(self) -> float:
        return self.push.opening.gather_seconds

    @property
    def wire_seconds(self) -> float:
        """0 where it failed."""
        return self.stream.sent.seconds if self.stream.sent else 0.0


class Pusher:
    """See the module."""

    def __init__(self, cfg: Config, source: Source, say: Callable[[str], None]) -> None:
        self._cfg = cfg
        self._source = source
        self._say = say
        self._said = ""
        self._has_failed = False

    def refuse(self, slots: Sequence[Slot]) -> None:
        """Raises:
        ConfigError: `push.transport` cannot be done where engines and trainers are.
        """
        refuse_transport(self._cfg, self._situation(slots))

    def settle(self) -> None:
        """Wait until what the trainer holds is published."""
        self._source.settle()

    def was_trained_again(self, weights: Weights) -> bool:
        """Whether what is published may differ from what was sent."""
        return self._source.was_trained_again(weights)

    def write_now(self, weights: Weights) -> None:
        """Have the tensors of a version written that was published without them, if the trainer
        still has them."""
        self._source.write_now(weights.version)

    def open(self, weights: Weights, slots: Sequence[Slot]) -> Flow | None:
        """Have `weights` offered to all slots that are up; None: they come from disk."""
        choice = choose_transport(self._cfg, self._situation(slots))
        size = max(1, self._cfg.rollout.gpus_per_worker or 1)
        sizes = {s.index: size for s in slots if s.state in (State.READY, State.SERVING)}
        if weights.version <= 0 or choice.transport == "disk" or not sizes:
            self._tell(weights, choice)
            return None
        labels = [f"rollout worker {i}" for i, num in sizes.items() for _ in range(num)]
        deadline_s = self._cfg.push.deadline_s * STREAM_SHARE
        push = self._source.offer(weights, choice.transport, labels, deadline_s)
        if push is None:  # an earlier start's, or an older round's
            return None
        self._tell(weights, choice)
        offers = make_offers(push.opening, choice.transport, weights.version, sizes, deadline_s)
        return Flow(choice.transport, push, EngineStream(push, offers))

    def close(self, flow: Flow) -> None:
        """Take note of how a push ended."""
        if not flow.stream.failures:
            return
        slot, why = next(iter(flow.stream.failures.items()))
        self._has_failed = True
        rest = (
            "; so do all later pushes of this start" if self._cfg.push.transport == "auto" else ""
        )
        self._say(
            f"warning: push by {flow.kind} failed at rollout worker {slot} (it {why}): the "
            f"weights come from disk{rest}"
        )

    def _situation(self, slots: Sequence[Slot]) -> Situation:
        nodes = {slot.node for slot in slots if slot.node} | self._source.nodes
        return Situation(len(nodes), read_allocator(self._cfg), self._has_failed)

    def _tell(self, weights: Weights, choice: Choice) -> None:
        """Say which way trained weights take, once and whenever it changes."""
        if weights.version > 0 and choice.transport != self._said:
            self._said = choice.transport
            self._say(f"weights reach the engines by {choice.transport}: {choice.why}")
