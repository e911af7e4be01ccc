"""Counting: what a round's judged rollouts come to, and the field's estimators.

Pure functions of records. TIMEOUT and ERROR are counted as their own statuses and never as wrong;
every status appears in a tally, so its counts always add up to `asked`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from virgo_ray.records import Opinion, Outcome, SourceTally, Status, Tally

N = TypeVar("N", int, float)


def tally(outcomes: Iterable[Outcome]) -> Tally:
    """What one round's judged rollouts come to. Nothing asked gives zeros."""
    rows = sorted(outcomes, key=lambda o: (o.problem_id, o.sample_index))
    accepted = [o for o in rows if o.status is Status.CORRECT]
    lengths = [o.num_tokens for o in rows]
    statuses = Counter(o.status for o in rows)
    return Tally(
        asked=len(rows),
        accepted=len(accepted),
        accept_rate=share(len(accepted), len(rows)),
        num_problems=len({o.problem_id for o in rows}),
        num_solved=len({o.problem_id for o in accepted}),
        statuses={str(status): statuses[status] for status in Status},
        truncated_share=share(statuses[Status.TRUNCATED], len(rows)),
        repetitive_share=share(statuses[Status.REPETITIVE], len(rows)),
        not_judged_share=share(sum(o.status.is_failure_to_judge for o in rows), len(rows)),
        doubted=sum(Opinion.DOUBTS in o.opinions.values() for o in accepted),
        opinions=per_opinion(accepted),
        num_tokens=sum(lengths),
        mean_thought_tokens=mean(lengths),
        mean_accepted_tokens=mean([o.num_tokens for o in accepted]),
        p95_thought_tokens=percentile(lengths, 0.95) if lengths else 0,
        sources=per_source(rows),
    )


def per_source(outcomes: Sequence[Outcome]) -> dict[str, SourceTally]:
    """What was asked and accepted of every source, in the order of their names."""
    asked = Counter(o.source for o in outcomes)
    accepted = Counter(o.source for o in outcomes if o.status is Status.CORRECT)
    return {
        source: SourceTally(num, accepted[source], share(accepted[source], num))
        for source, num in sorted(asked.items())
    }


def per_opinion(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """{"steps": {"agrees": 7, "doubts": 1, "unknown": 2}}; nothing where none was asked for."""
    said = Counter(pair for o in outcomes for pair in o.opinions.items())
    names = sorted({name for name, _ in said})
    return {name: {str(o): said[name, o] for o in Opinion} for name in names}


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is correct) from more samples.

    1 - C(n-c, k) / C(n, k), Chen et al. 2021, arXiv 2107.03374, section 2.1.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.25, 0.5, 1.0)

    Raises:
        ValueError: fewer samples than k, or more correct ones than samples.
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(
            f"pass@{k} of {num_correct} correct in {num_samples} samples is undefined; "
            "expected 0 <= correct <= samples and 1 <= k <= samples"
        )
    wrong = num_samples - num_correct
    return 1.0 - math.comb(wrong, k) / math.comb(num_samples, k)


def is_voted_for(samples: Iterable[tuple[bool, str]]) -> bool:
    """maj@k: whether the answer given most often is correct, of (is it correct, answer).

    All correct answers are one answer however they are written ("0.5", "1/2"); wrong ones are told
    apart by their text. Samples without an answer do not vote. A tie goes to the answer that came
    first, so the samples are given in the order of their indices.

    >>> is_voted_for([(True, "7"), (False, "8"), (True, "7.0")]), is_voted_for([])
    (True, False)
    """
    votes: Counter[str] = Counter()
    for is_correct, answer in samples:
        if is_correct:
            votes["correct"] += 1
        elif answer:
            votes["wrong: " + " ".join(answer.split()).casefold()] += 1
    return bool(votes) and max(votes, key=lambda answer: votes[answer]) == "correct"


def percentile(values: Sequence[N], quantile: float) -> N:
    """The smallest value that at least this share of the values does not exceed (nearest rank).

    >>> percentile([10, 20, 30, 40], 0.5), percentile([10, 20, 30, 40], 0.95)
    (20, 40)
    """
    if not values:
        raise ValueError("the percentile of no values is undefined")
    rank = max(1, math.ceil(quantile * len(values)))
    return sorted(values)[rank - 1]


def share(part: int, whole: int) -> float:
    """part / whole; of nothing, 0."""
    return part / whole if whole else 0.0


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; of nothing, 0."""
    return sum(values) / len(values) if values else 0.0
