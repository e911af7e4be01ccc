"""One stream of weights from a trainer's first rank, as the driver sees it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from virgo_ray.actors.faults import Fault
from virgo_ray.actors.losses import in_short
from virgo_ray.errors import PushError
from virgo_ray.weights.offer import Offer
from virgo_ray.weights.opening import Opening, Sent

FETCH_DEADLINE_S = 60.0  # for a result that is ready already


@dataclass
class Push:
    """`start` before the engines are told: who sends waits for them. Every engine's turn ends with
    `ask`."""

    opening: Opening
    _workers: list[Any]  # the first one sends

    def start(self, offer: Offer) -> None:
        """Begin to send; `offer` is one of those that engines get.

        By ipc from GPUs every rank takes part, for the engine on its own.
        """
        self._workers[0].send.remote()
        if offer.kind == "ipc" and offer.device == "cuda":
            for worker in self._workers[1:]:
                worker.join_push.remote(offer)

    def ask(self) -> Any:
        """A call that is answered when the sending is over, whatever came of it."""
        return self._workers[0].sent.remote()

    def outcome(self, asked: Any) -> Sent:
        """What a call of `ask`, which is done, came to.

        Raises:
            Fault: the weights were not sent to all.
        """
        try:
            return ray.get(asked, timeout=FETCH_DEADLINE_S)
        except (GetTimeoutError, RayError) as error:
            raise Fault(f"was sent to in vain: {in_short(error)}", PushError) from error

    def cancel(self, why: str) -> None:
        """End the sending soon: a receiver is known not to come."""
        with contextlib.suppress(RayError):  # the sender is gone, which ends it too
            self._workers[0].cancel_push.remote(why)
