"""What a person sees while models are asked: one plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from virgo_ray.evaluate.answers import key_of
from virgo_ray.monitor.console import PLAIN_EVERY_S
from virgo_ray.monitor.live import clock
from virgo_ray.records import Judged


class Progress:
    """Counts what is judged of one model; `show` prints a line."""

    def __init__(self, label: str, show: Callable[[str], None]) -> None:
        self._label = label
        self._show = show
        self.begin(0)

    def begin(self, total: int) -> None:
        self._total = total
        self._done = self._tokens = 0
        self._counts: dict[str, tuple[int, int]] = {}  # (judged, correct) by how they were asked
        self._started = self._shown = time.monotonic()

    def count(self, judged: Judged) -> None:
        self._done += 1
        self._tokens += len(judged.rollout.token_ids)
        _, how, _ = key_of(judged.rollout)
        num, num_correct = self._counts.get(how, (0, 0))
        self._counts[how] = (num + 1, num_correct + judged.verdict.is_correct)
        is_last = self._done == self._total
        if is_last or time.monotonic() - self._shown > PLAIN_EVERY_S:
            self._shown = time.monotonic()
            self.say(self.line())

    def end(self) -> None:
        self.say("all problems are answered")

    def say(self, text: str) -> None:
        self._show(f"{self._label}  {text}")

    def line(self) -> str:
        """`120/304  4,187 tok/s  correct 59% greedy, 41% sampled  0:37 left`."""
        seconds = max(time.monotonic() - self._started, 1e-6)
        left = seconds / max(1, self._done) * (self._total - self._done)
        shares = (f"{c / num:.0%} {how}" for how, (num, c) in sorted(self._counts.items()))
        return (
            f"{self._done}/{self._total}  {self._tokens / seconds:,.0f} tok/s  "
            f"correct {', '.join(shares)}  {clock(left)} left"
        )
