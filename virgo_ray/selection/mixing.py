"""How much of the seed thoughts to add, and what changes from round to round."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from virgo_ray.records import Example


def mix(
    seed_examples: Sequence[Example],
    trace_examples: Sequence[Example],
    seed_share: float,
    rng: random.Random,
) -> list[Example]:
    """Seed examples and traces; seeds are at most `seed_share` of the whole.

    Without traces (round 0) all seeds are kept. Example: 1,000 seeds, 300 traces, share 0.5: all
    traces and 300 of the seeds, chosen by `rng`.
    """
    if not trace_examples:
        return list(seed_examples)
    num_seeds = len(seed_examples)
    if seed_share < 1.0:
        most = math.floor(seed_share / (1.0 - seed_share) * len(trace_examples) + 1e-9)
        num_seeds = min(num_seeds, most)
    chosen = sorted(rng.sample(range(len(seed_examples)), num_seeds))
    return [*(seed_examples[i] for i in chosen), *trace_examples]


def choose_for_round(schedule: Sequence[float], round: int) -> float:
    """The value of round 1, 2, ...; the last one holds for all later rounds.

    >>> [choose_for_round((0.8, 0.9), t) for t in (1, 2, 3)]
    [0.8, 0.9, 0.9]
    """
    return schedule[min(max(round, 1), len(schedule)) - 1]
