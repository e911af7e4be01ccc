"""One push from a trainer's memory, as the engines' slots see it: who is offered what, and its end.

Knows neither how the bytes travel nor what an engine does with them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from virgo_ray.weights.offer import Offer
from virgo_ray.weights.opening import Opening, Sent

log = logging.getLogger(__name__)


class Push(Protocol):
    """The trainer's half; `actors.trainers.push.Push`."""

    @property
    def opening(self) -> Opening: ...

    def start(self, offer: Offer) -> None: ...

    def ask(self) -> Any: ...

    def outcome(self, asked: Any) -> Sent: ...

    def cancel(self, why: str) -> None: ...


class EngineStream:
    """Every slot that has an offer takes it once."""

    def __init__(self, push: Push, offers: Mapping[int, Offer]) -> None:
        """`offers` by slot, for all of them."""
        self.failures: dict[int, str] = {}  # slot -> why it did not get its weights so
        self.sent: Sent | None = None
        self._push = push
        self._offers = dict(offers)
        self._num_offers = len(offers)

    @property
    def is_in_vain(self) -> bool:
        """Whether nobody got its weights so."""
        return len(self.failures) == self._num_offers

    def start(self) -> None:
        """Begin to send, before engines take their offers."""
        self._push.start(next(iter(self._offers.values())))

    def has_offer(self, slot: int) -> bool:
        return slot in self._offers

    def take_offer(self, slot: int) -> Offer:
        """The offer of a slot; a second try would find nobody at the meeting place."""
        return self._offers.pop(slot)

    def ask(self) -> Any:
        """A call that is answered when the sending is over."""
        return self._push.ask()

    def digest(self, asked: Any) -> str:
        """What was sent, as a call of `ask` says that is done.

        Raises:
            Fault: it was not sent to all.
        """
        self.sent = self._push.outcome(asked)
        return self.sent.digest

    def fail(self, slot: int, why: str) -> None:
        """Note that a slot did not get its weights so; the others need not wait for it."""
        if not self.failures:
            self._push.cancel(f"rollout worker {slot} {why}")
        self.failures[slot] = why
        log.warning("rollout worker %d did not take weights from the trainer: %s", slot, why)


def make_offers(
    opening: Opening, kind: Any, version: int, sizes: Mapping[int, int], deadline_s: float
) -> dict[int, Offer]:
    """One offer a slot; `sizes` are the processes of its engine, by slot."""
    offers: dict[int, Offer] = {}
    first, total = 0, sum(sizes.values())
    for slot, size in sizes.items():
        offers[slot] = Offer(
            kind=kind,
            version=version,
            address=opening.address,
            port=opening.port,
            nonce=opening.nonce,
            first_receiver=first,
            num_receivers=total,
            deadline_s=deadline_s,
            base=opening.base if kind == "adapter" else "",
            device="cuda" if opening.device == "cuda" else "cpu",
        )
        first += size
    return offers
