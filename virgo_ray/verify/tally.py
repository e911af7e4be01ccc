"""Counts verdicts: shares per status, latency percentiles, and the alarm on failures to judge."""

from __future__ import annotations

from collections import Counter, deque

from virgo_ray.errors import VerifierError
from virgo_ray.records import Status, Verdict

# Below this many verdicts a share says little: three failures among the first ten stop no round.
MIN_VERDICTS = 50
# Percentiles are over this many verdicts, the latest.
WINDOW = 10_000


class VerdictTally:
    """Running counts; `add` every verdict, then ask."""

    def __init__(self) -> None:
        self._statuses: Counter[Status] = Counter()
        self._opinions: Counter[str] = Counter()
        self._milliseconds: deque[float] = deque(maxlen=WINDOW)
        self._last_failure = ""

    def add(self, verdict: Verdict) -> None:
        self._statuses[verdict.status] += 1
        self._opinions.update(opinion_counts(verdict))
        self._milliseconds.append(verdict.milliseconds)
        if verdict.status.is_failure_to_judge:
            self._last_failure = f"{verdict.status.value}: {verdict.reason}"

    @property
    def num_verdicts(self) -> int:
        return self._statuses.total()

    @property
    def num_failures(self) -> int:
        return sum(n for status, n in self._statuses.items() if status.is_failure_to_judge)

    def check_failures(self, max_share: float) -> None:
        """The alarm.

        Raises:
            VerifierError: TIMEOUT and ERROR are more than `max_share` of at least MIN_VERDICTS
            verdicts.
        """
        if self.num_verdicts < MIN_VERDICTS or self.num_failures <= max_share * self.num_verdicts:
            return
        raise VerifierError(
            f"{self.num_failures} of {self.num_verdicts} rollouts could not be judged, expected at "
            f"most {max_share:.0%} (verify.max_failure_share); the last one: {self._last_failure}. "
            "Look at verify.deadline_s, verify.memory_mib and at those problems' gold answers"
        )

    def metrics(self) -> dict[str, float]:
        """`{"judged": 3, "share_correct": 0.67, ..., "ms_p50": 1.2, ..., "ms_p99": 9.8}`.

        With second opinions also their counts: `{"opinion_steps_doubts": 1, ...}`.
        """
        total = max(1, self.num_verdicts)
        shares = {f"share_{status.value}": self._statuses[status] / total for status in Status}
        ordered = sorted(self._milliseconds)
        percentiles = {f"ms_p{p}": _percentile(ordered, p) for p in (50, 95, 99)}
        return {"judged": float(self.num_verdicts), **shares, **percentiles, **self._opinions}


def opinion_counts(verdict: Verdict) -> list[str]:
    """`["opinion_steps_agrees", "opinion_judge_doubts"]`: names to count under."""
    return [f"opinion_{name}_{second.opinion}" for name, second in verdict.opinions.items()]


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0
