"""The figures of one model on one benchmark, from its answers alone.

pass@1 is greedy where greedy answers exist, else the average share of right samples. Lengths,
statuses and shares are of the same answers as pass@1. TIMEOUT and ERROR that nobody decided count
as not solved and have their own share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from virgo_ray.evaluate.answers import GREEDY, NOBODY, Answer
from virgo_ray.records import Status
from virgo_ray.stats.estimates import difference, mean_estimate
from virgo_ray.stats.tally import is_voted_for, mean, pass_at_k, percentile, share

Outcomes = Mapping[str, float]  # problem id -> share of right answers, 0 or 1 where greedy


def outcomes(answers: Sequence[Answer]) -> dict[str, float]:
    """Map every problem to the value that pass@1 averages."""
    solved: dict[str, list[bool]] = defaultdict(list)
    for answer in primary(answers):
        solved[answer.id].append(answer.is_correct)
    return {id: sum(flags) / len(flags) for id, flags in sorted(solved.items())}


def primary(answers: Sequence[Answer]) -> list[Answer]:
    """The greedy answers, or all where there are none."""
    greedy = [answer for answer in answers if answer.how == GREEDY]
    return greedy or list(answers)


def measure_answers(answers: Sequence[Answer], seed: int = 0) -> dict[str, Any]:
    """Ready for JSON; shares are fractions.

    Raises:
        ValueError: no answers.
    """
    first = primary(answers)
    lengths = [answer.num_tokens for answer in first]
    statuses = Counter(answer.status for answer in first)
    found = {
        "num_problems": len({answer.id for answer in first}),
        "pass_at_1": asdict(mean_estimate(list(outcomes(answers).values()), seed)),
        "rules_pass_at_1": _rules_pass_at_1(first),
        "guess_chance": mean([answer.guess_chance for answer in first]),
        "mean_thought_tokens": mean(lengths),
        "p95_thought_tokens": percentile(lengths, 0.95),
        "truncated_share": share(statuses[Status.TRUNCATED], len(first)),
        "not_judged_share": share(sum(a.decided_by == NOBODY for a in first), len(first)),
        "statuses": {str(status): statuses[status] for status in Status},
        "decided_by": dict(Counter(answer.decided_by for answer in answers)),
    }
    sampled = [answer for answer in answers if answer.how != GREEDY]
    return found | (_of_samples(sampled) if sampled else {})


def by_group(
    answers: Sequence[Answer], groups: Mapping[str, str], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Group name -> figures; `groups` maps problem ids, and an empty name belongs to no group."""
    members: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        members[groups[answer.id]].append(answer)
    return {g: measure_answers(members[g], seed) for g in sorted(members) if g}


def compare(ours: Outcomes, base: Outcomes, seed: int = 0) -> dict[str, Any] | None:
    """Compare in pairs on the problems that both answered; None where there are none."""
    both = sorted(ours.keys() & base.keys())
    if not both:
        return None
    found = asdict(difference([ours[i] for i in both], [base[i] for i in both], seed))
    return {**found.pop("estimate"), **found}


def ks_of(num_samples: int) -> list[int]:
    """1, 2, 4 ... and all.

    >>> ks_of(6), ks_of(1)
    ([1, 2, 4, 6], [1])
    """
    powers = [2**i for i in range(num_samples.bit_length()) if 2**i < num_samples]
    return [*powers, num_samples]


def _of_samples(sampled: Sequence[Answer]) -> dict[str, Any]:
    """pass@k by the unbiased estimator and maj@n, over the samples of every problem."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in sampled:
        groups[answer.id].append(answer)
    num = min(len(group) for group in groups.values())
    right = [(len(group), sum(a.is_correct for a in group)) for group in groups.values()]
    return {
        "num_samples": num,
        "pass_at": {str(k): mean([pass_at_k(n, c, k) for n, c in right]) for k in ks_of(num)},
        "maj_at_n": mean([float(majority(g)) for g in groups.values()]),
    }


def majority(group: Iterable[Answer]) -> bool:
    """maj@n of one problem's samples, by the decisions on them."""
    ordered = sorted(group, key=lambda a: a.sample)
    return is_voted_for((a.is_correct, a.answer) for a in ordered)


def _rules_pass_at_1(first: Sequence[Answer]) -> float:
    """pass@1 without what a judge credited."""
    per_problem: dict[str, list[bool]] = defaultdict(list)
    for answer in first:
        per_problem[answer.id].append(answer.status is Status.CORRECT)
    return mean([sum(flags) / len(flags) for flags in per_problem.values()])
