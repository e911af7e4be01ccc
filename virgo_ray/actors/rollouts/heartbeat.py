"""When an actor has been silent for too long. Knows no actor, only times."""

from __future__ import annotations

BEAT_EVERY_S = 5.0


class Heartbeat:
    """One question at a time, at most every BEAT_EVERY_S; silent is who leaves one unanswered.

    Times are seconds of one monotonic clock. Example: `asked(10.0)`; `is_silent(130.1, 120.0)` is
    True unless `answered(...)` came between.
    """

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._answered_at: float | None = None

    def is_due(self, now: float) -> bool:
        """Whether to ask now: nothing is open, and the last answer is a while ago."""
        is_recent = self._answered_at is not None and now - self._answered_at < BEAT_EVERY_S
        return self._asked_at is None and not is_recent

    def asked(self, now: float) -> None:
        self._asked_at = now

    def answered(self, now: float) -> None:
        self._asked_at, self._answered_at = None, now

    def is_silent(self, now: float, deadline_s: float) -> bool:
        """Whether a question has been open for longer than `deadline_s`."""
        return self._asked_at is not None and now - self._asked_at > deadline_s
