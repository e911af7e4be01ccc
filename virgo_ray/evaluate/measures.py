"""The figures of one model on one benchmark, from its answers alone.

pass@1 is greedy where greedy answers exist, else the average share of right samples. Lengths,
statuses and shares are of the same answers as pass@1. TIMEOUT and ERROR that nobody decided count
as not solved and have their own share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from virgo_ray.evaluate.answers import GREEDY, NOBODY, Answer
from virgo_ray.records import Status
from virgo_ray.stats.estimates import Estimate, difference, mean_estimate
from virgo_ray.stats.tally import is_voted_for, mean, pass_at_k, percentile, share

Outcomes = Mapping[str, float]  # problem id -> share of right answers, 0 or 1 where greedy


@dataclass(frozen=True)
class SampleFigures:
    """pass@k (by k, as text) and maj@n over `num_samples` samples of every problem."""

    num_samples: int
    pass_at: Mapping[str, float]
    maj_at_n: float


@dataclass(frozen=True, kw_only=True)
class AnswerFigures:
    """How one model answered a set of problems; shares are fractions.

    `rules_pass_at_1` leaves out what a judge credited. `samples` is None where there were only
    greedy answers.
    """

    num_problems: int
    pass_at_1: Estimate
    rules_pass_at_1: float
    guess_chance: float
    mean_thought_tokens: float
    p95_thought_tokens: int
    truncated_share: float
    not_judged_share: float
    statuses: Mapping[str, int]
    decided_by: Mapping[str, int]
    samples: SampleFigures | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The average of (ours - theirs) over the problems that both answered; `to` names them.

    The other fields are those of `stats.estimates.Estimate` and `Difference`.
    """

    to: str
    value: float
    low: float
    high: float
    method: str
    num_problems: int
    num_better: int
    num_worse: int
    p_value: float
    test: str


def outcomes(answers: Sequence[Answer]) -> dict[str, float]:
    """Map every problem to the value that pass@1 averages."""
    solved: dict[str, list[bool]] = defaultdict(list)
    for answer in select_primary(answers):
        solved[answer.id].append(answer.is_correct)
    return {id: sum(flags) / len(flags) for id, flags in sorted(solved.items())}


def select_primary(answers: Sequence[Answer]) -> list[Answer]:
    """The greedy answers, or all where there are none."""
    greedy = [answer for answer in answers if answer.how == GREEDY]
    return greedy or list(answers)


def measure_answers(answers: Sequence[Answer], seed: int = 0) -> AnswerFigures:
    """Measure one model's answers to a set of problems.

    Raises:
        ValueError: no answers.
    """
    first = select_primary(answers)
    lengths = [answer.num_tokens for answer in first]
    statuses = Counter(answer.status for answer in first)
    sampled = [answer for answer in answers if answer.how != GREEDY]
    return AnswerFigures(
        num_problems=len({answer.id for answer in first}),
        pass_at_1=mean_estimate(list(outcomes(answers).values()), seed),
        rules_pass_at_1=_rules_pass_at_1(first),
        guess_chance=mean([answer.guess_chance for answer in first]),
        mean_thought_tokens=mean(lengths),
        p95_thought_tokens=percentile(lengths, 0.95),
        truncated_share=share(statuses[Status.TRUNCATED], len(first)),
        not_judged_share=share(sum(a.decided_by == NOBODY for a in first), len(first)),
        statuses={str(status): statuses[status] for status in Status},
        decided_by=dict(Counter(answer.decided_by for answer in answers)),
        samples=_measure_samples(sampled) if sampled else None,
    )


def by_group(
    answers: Sequence[Answer], groups: Mapping[str, str], seed: int = 0
) -> dict[str, AnswerFigures]:
    """Group name -> figures; `groups` maps problem ids, and an empty name belongs to no group."""
    members: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        members[groups[answer.id]].append(answer)
    return {g: measure_answers(members[g], seed) for g in sorted(members) if g}


def compare(ours: Outcomes, base: Outcomes, to: str, seed: int = 0) -> Comparison | None:
    """Compare in pairs on the problems that both answered; None where there are none."""
    both = sorted(ours.keys() & base.keys())
    if not both:
        return None
    found = difference([ours[i] for i in both], [base[i] for i in both], seed)
    return Comparison(
        to=to,
        **vars(found.estimate),
        num_problems=found.num_problems,
        num_better=found.num_better,
        num_worse=found.num_worse,
        p_value=found.p_value,
        test=found.test,
    )


def choose_ks(num_samples: int) -> list[int]:
    """1, 2, 4 ... and all.

    >>> choose_ks(6), choose_ks(1)
    ([1, 2, 4, 6], [1])
    """
    powers = [2**i for i in range(num_samples.bit_length()) if 2**i < num_samples]
    return [*powers, num_samples]


def _measure_samples(sampled: Sequence[Answer]) -> SampleFigures:
    groups = group_samples(sampled)
    num = min(map(len, groups))
    return SampleFigures(
        num_samples=num,
        pass_at={str(k): average_pass_at(k, groups) for k in choose_ks(num)},
        maj_at_n=average_majority(groups),
    )


def group_samples(sampled: Iterable[Answer]) -> list[list[Answer]]:
    """The samples of each problem, ordered by id and sample, whichever came first."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in sorted(sampled, key=lambda a: (a.id, a.sample)):
        groups[answer.id].append(answer)
    return list(groups.values())


def average_pass_at(k: int, groups: Sequence[Sequence[Answer]]) -> float:
    """pass@k by the unbiased estimator, over the samples of every problem."""
    return mean([pass_at_k(len(g), sum(a.is_correct for a in g), k) for g in groups])


def average_majority(groups: Iterable[Sequence[Answer]]) -> float:
    """maj@n: the share of problems whose most frequent answer was decided to be right."""
    return mean([float(is_voted_for((a.is_correct, a.answer) for a in g)) for g in groups])


def _rules_pass_at_1(first: Sequence[Answer]) -> float:
    """pass@1 without what a judge credited."""
    per_problem: dict[str, list[bool]] = defaultdict(list)
    for answer in first:
        per_problem[answer.id].append(answer.status is Status.CORRECT)
    return mean([sum(flags) / len(flags) for flags in per_problem.values()])
