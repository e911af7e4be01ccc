"""What to ask next."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from virgo_ray.config import ExploreConfig
from virgo_ray.records import Problem

# A problem that is always solved is still asked now and then: solve rates go stale.
MIN_WEIGHT = 0.05


def choose_problems(
    problems: Sequence[Problem],
    solve_rates: Mapping[str, tuple[int, int]],
    cfg: ExploreConfig,
    rng: random.Random,
    solved_by_base: frozenset[str] = frozenset(),
) -> list[Problem]:
    """`cfg.num_problems` problems (or all there are), never one that the base solved greedily.

    `solve_rates` maps problem ids to (correct, judged) so far. With `prefer_unsolved` a problem is
    drawn with a weight of its failure rate: never tried 1, solved 1 of 2 times 1/2, always 1/20.
    """
    open_problems = [p for p in problems if p.id not in solved_by_base]
    num = min(cfg.num_problems, len(open_problems))
    if not cfg.prefer_unsolved:
        return rng.sample(open_problems, num)

    def rank(problem: Problem) -> float:  # weighted draw without replacement, Efraimidis 2006
        return math.log(1.0 - rng.random()) / _weight(*solve_rates.get(problem.id, (0, 0)))

    ranks = [rank(p) for p in open_problems]
    order = sorted(range(len(ranks)), key=lambda i: -ranks[i])
    return [open_problems[i] for i in order[:num]]


def _weight(num_correct: int, num_judged: int) -> float:
    return max(MIN_WEIGHT, 1.0 - num_correct / num_judged) if num_judged else 1.0
