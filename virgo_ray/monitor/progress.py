"""What is going on right now, as the monitor counts it and the console shows it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

START = "start"  # before the first phase
SAMPLE, EVALUATE = "sample", "evaluate"


@dataclass
class Running:
    """What outlives a phase: when the round began, what rounds took so far, memory in use.

    `device_mib` is the most that a GPU had in use as it was looked at last; None: no GPU.
    """

    round_began: float = field(default_factory=time.monotonic)
    round_seconds: tuple[float, ...] = ()  # of complete rounds 1 and later
    resident_mib: float | None = None
    device_mib: float | None = None

    def seconds_left(self, num_rounds_after: int) -> float | None:
        """Of this round and those after it, as rounds took on average; None: none is known."""
        if not self.round_seconds:
            return None
        mean = sum(self.round_seconds) / len(self.round_seconds)
        here = mean - (time.monotonic() - self.round_began)
        return max(here, 0.0) + mean * num_rounds_after


@dataclass
class Progress:
    """What is going on right now. `done` of `total` counts rollouts or steps of this phase."""

    name: str
    last_round: int
    label: str = "base"
    phase: str = START
    has_ended: bool = False
    done: int = 0
    total: int = 0
    tokens: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    opinions: Counter[str] = field(default_factory=Counter)
    loss: float | None = None
    started: float = field(default_factory=time.monotonic)
    running: Running = field(default_factory=lambda: Running())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / max(self.seconds, 1e-6)

    @property
    def accept_rate(self) -> float | None:
        judged = self.statuses.total()
        return self.statuses["correct"] / judged if judged else None

    @property
    def seconds_left(self) -> float | None:
        """Of this phase, at its mean speed so far."""
        if not self.done:
            return None
        return self.seconds / self.done * max(self.total - self.done, 0)

    @property
    def run_seconds_left(self) -> float | None:
        """Of the whole run; None before a round with an exploration is complete."""
        if not self.label.isdigit() or not 0 < int(self.label) <= self.last_round:
            return None
        left = self.running.seconds_left(self.last_round - int(self.label))
        return None if left is None else max(left, self.seconds_left or 0.0)


def pace(now: Progress) -> list[str]:
    """["2,913 tok/s", "accept 61%"]; what is not known yet is left out."""
    words = []
    if now.tokens:
        words.append(f"{now.tokens_per_s:,.0f} tok/s")
    if now.accept_rate is not None:
        words.append(f"accept {now.accept_rate:.0%}")
    if now.loss is not None:
        words.append(f"loss {now.loss:.3f}")
    return words
