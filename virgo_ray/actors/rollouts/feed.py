"""The driver's end of the exchanges with one actor: what it was asked and has not answered.

Guarantees that a request which was given to a feed is handed to its actor, once more after a reply
was lost (the actor knows by its number whether it has it), and is held here until its outcome is
taken from a reply or the feed is given up. One exchange is open at a time, so that whoever waits
looks at one call for each actor. Never waits.
"""

from __future__ import annotations

import itertools
from typing import Any

from virgo_ray.actors.rollouts.slot import Slot
from virgo_ray.config import SamplingConfig
from virgo_ray.records import Request

# Never used twice: what an abandoned call asked for is told from what is asked for now.
_NUMBERS = itertools.count()


class Feed:
    """The requests of the actor that is in `slot` now; the slot may have a newer one later."""

    def __init__(self, slot: Slot, sampling: SamplingConfig) -> None:
        self.slot = slot
        self.actor = slot.actor
        self.held: dict[int, Request] = {}  # by number, in the order in which they were asked
        self.call: Any = None  # the open exchange
        self._sampling = sampling
        self._unsent: dict[int, Request] = {}
        self._last_sent = -1  # numbers grow
        self._is_poked = False

    @property
    def is_current(self) -> bool:
        """Whether its actor is still the one of the slot."""
        return self.slot.actor is self.actor

    def add(self, request: Request) -> None:
        """Hold a request, to be handed over by the next exchange."""
        number = next(_NUMBERS)
        self.held[number] = self._unsent[number] = request

    def send(self, linger_s: float) -> bool:
        """Open an exchange, unless one is open or nothing is held; whether it did."""
        if self.call is not None or not self.held:
            return False
        self.call = self.actor.exchange.remote(self._unsent, self._sampling, linger_s)
        self._last_sent = max(self._unsent, default=self._last_sent)
        self._unsent, self._is_poked = {}, False
        return True

    def poke(self) -> None:
        """Let the open exchange end, because something is to be handed over."""
        if self._unsent and not self._is_poked:
            self._is_poked = True
            self.actor.poke.remote()

    def end_call(self) -> None:
        """The open exchange is over."""
        self.call = None

    def send_again(self) -> int:
        """Hand everything over once more: a reply was lost. Returns how many requests that are."""
        self._unsent = dict(self.held)
        return len(self.held)

    def give_up(self) -> list[tuple[Request, bool]]:
        """What its actor will never answer, and whether it had been handed over."""
        lost = [(request, number <= self._last_sent) for number, request in self.held.items()]
        self.held, self._unsent = {}, {}
        return lost
