"""Exploration of a round: which problems are asked, and how often each."""

from __future__ import annotations

import math
import random
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from virgo_ray.config import ExploreConfig, ExtraConfig
from virgo_ray.records import Problem
from virgo_ray.stats.stopping import StoppingRule, estimate_pass_rate

# A problem that is always solved is still asked now and then: solve rates go stale.
MIN_WEIGHT = 0.05

Sample = tuple[str, int]  # problem id, sample index


class SolveRate(NamedTuple):
    """How likely a problem is solved, estimated, and whether it ever was."""

    value: float
    is_solved: bool


def stopping_rule(cfg: ExploreConfig) -> StoppingRule:
    """By which rule `choose_samples` asks."""
    extra = cfg.extra
    return StoppingRule(
        cfg.num_samples,
        extra.max_samples,
        extra.batch,
        extra.until_correct,
        extra.budget_share is not None,
    )


def solve_rates(
    counts: Mapping[tuple[int, str], tuple[int, int]], rule: StoppingRule
) -> dict[str, SolveRate]:
    """Of every problem that was judged: the mean of its estimates, of counts by (round, problem).

    Counts are (correct, judged). A round weighs as many samples as it did not choose by their
    results: the first `rule.num_samples`, or all where there are no extra ones.
    """
    fixed = {num: rule.fitted(num).num_samples for num in {judged for _, judged in counts.values()}}
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for (_, id), (num_correct, num_judged) in counts.items():
        rate = estimate_pass_rate(num_correct, num_judged, rule)
        found[id].append((fixed[num_judged], rate))
    solved = {id for (_, id), (num_correct, _) in counts.items() if num_correct}
    return {id: SolveRate(_mean(rates), id in solved) for id, rates in found.items()}


def _mean(weighted: Sequence[tuple[int, float]]) -> float:
    """The mean of values with weights, whatever their order."""
    return math.fsum(w * value for w, value in weighted) / sum(w for w, _ in weighted)


def choose_problems(
    problems: Sequence[Problem],
    solve_rates: Mapping[str, SolveRate],
    cfg: ExploreConfig,
    rng: random.Random,
    solved_by_base: frozenset[str] = frozenset(),
) -> list[Problem]:
    """Choose `cfg.num_problems` problems (or all), never one that the base solved greedily.

    `solve_rates` are those of problems that were tried. With `prefer_unsolved` a problem is drawn
    with a weight of its failure rate: 1 if never tried, 1/2 if solved half of the time, 1/20 if
    always solved. `unsolved_share` is the share of problems that were tried and never
    solved, as far as there are any.
    """
    open_problems = [p for p in problems if p.id not in solved_by_base]
    num = min(cfg.num_problems, len(open_problems))
    ordered = _draw_order(open_problems, solve_rates, cfg, rng, num)
    unsolved = [p.id for p in ordered if p.id in solve_rates and not solve_rates[p.id].is_solved]
    kept = set(unsolved[: math.ceil(cfg.unsolved_share * num - 1e-9)])
    others = [p.id for p in ordered if p.id not in kept]
    chosen = kept.union(others[: num - len(kept)])
    return [p for p in ordered if p.id in chosen]


def _draw_order(
    problems: list[Problem],
    solve_rates: Mapping[str, SolveRate],
    cfg: ExploreConfig,
    rng: random.Random,
    num: int,
) -> list[Problem]:
    """Draw problems in order; without any preference only as many as are needed."""
    if not cfg.prefer_unsolved:
        return rng.sample(problems, len(problems) if cfg.unsolved_share else num)

    def rank(problem: Problem) -> float:  # weighted draw without replacement, Efraimidis 2006
        return math.log(1.0 - rng.random()) / _weight(solve_rates.get(problem.id))

    ranks = [rank(p) for p in problems]
    return [problems[i] for i in sorted(range(len(ranks)), key=lambda i: -ranks[i])]


def _weight(rate: SolveRate | None) -> float:
    return 1.0 if rate is None else max(MIN_WEIGHT, 1.0 - rate.value)


def choose_samples(
    ids: Iterable[str],
    num_samples: int,
    extra: ExtraConfig,
    found: Mapping[Sample, bool],
) -> list[Sample]:
    """List every sample of a round, as far as what was found decides it.

    `found` says of the samples that were judged whether they are correct. `num_samples` of every
    problem come first. Then one `extra.batch` follows for every problem with fewer than
    `extra.until_correct` correct ones, and so on, up to `extra.max_samples` more each and
    `extra.budget_share` more per problem on average, the least solved first.

    A problem's next batch is listed once all its samples are found, and the budget has room for it
    even if all that is not found yet is wrong: whatever the others come to, it stays listed. So the
    samples of a round are the same in whatever order they are found, and an interrupted round asks
    for the same when it resumes. The order of `ids` changes only the order of samples.

    >>> extra = ExtraConfig(max_samples=3, until_correct=1, batch=2)
    >>> choose_samples("ab", 1, extra, {("a", 0): True})
    [('a', 0), ('b', 0)]
    >>> choose_samples("ab", 1, extra, {("a", 0): True, ("b", 0): False})
    [('a', 0), ('b', 0), ('b', 1), ('b', 2)]
    """
    ids = list(ids)
    batch = [(id, index) for id in ids for index in range(num_samples)]
    wanted = list(batch)
    share = extra.max_samples if extra.budget_share is None else extra.budget_share
    left = math.floor(share * len(ids) + 1e-9)
    start, end = num_samples, num_samples + extra.max_samples
    waiting: set[str] = set()  # problems with samples that are not found
    while start < end and batch:
        waiting.update(sample[0] for sample in batch if sample not in found)
        stop = min(start + extra.batch, end)
        num_correct = {id: sum(found.get((id, i), False) for i in range(start)) for id in ids}
        few = [id for id in ids if num_correct[id] < extra.until_correct]
        few.sort(key=lambda id: (num_correct[id], zlib.crc32(id.encode()), id))
        batch = [(id, index) for id in few for index in range(start, stop)][:left]
        wanted += [sample for sample in batch if sample[0] not in waiting]
        left -= len(batch)
        start = stop
    return wanted


def choose_blanks(asked: Iterable[Problem], found: Mapping[Sample, bool]) -> list[Problem]:
    """List the problems to ask with blank pictures: those with pictures and a correct sample.

    A problem that gives no trace needs no probe.
    """
    solved = {id for (id, _), is_correct in found.items() if is_correct}
    return [p for p in asked if p.images and p.id in solved]
