"""How much of the seed thoughts to add, and what changes from round to round."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from virgo_ray.records import Example, sequence_length


def mix(
    seed_examples: Sequence[Example],
    trace_examples: Sequence[Example],
    seed_share: float,
    seed_floor: float,
    rng: random.Random,
) -> list[Example]:
    """Seed examples and all traces; seeds are at most `seed_share` of the whole.

    The whole has at least `seed_floor` times the tokens of all seeds: where the share leaves fewer,
    seeds are put back one by one. Without traces (round 0) all seeds are kept. Example: of 1,000
    seeds and 300 traces of equal lengths, share 0.5 alone keeps 300 seeds; with floor 1.0 it keeps
    700, and once there are 1,000 traces no seed is needed for the floor and the share holds.
    """
    if not trace_examples:
        return list(seed_examples)
    num_least = num_within_share(len(seed_examples), len(trace_examples), seed_share)
    order = draw_order(len(seed_examples), num_least, rng)
    missing = seed_floor * _num_tokens(seed_examples) - _num_tokens(trace_examples)
    num_seeds = 0
    while num_seeds < num_least or (num_seeds < len(order) and missing > 0):
        missing -= sequence_length(seed_examples[order[num_seeds]])
        num_seeds += 1
    return [*(seed_examples[i] for i in sorted(order[:num_seeds])), *trace_examples]


def num_within_share(num_seeds: int, num_traces: int, seed_share: float) -> int:
    """How many of the seeds can stand beside the traces without being more than the share.

    >>> num_within_share(1000, 300, 0.5), num_within_share(1000, 300, 1.0)
    (300, 1000)
    """
    if seed_share >= 1.0:
        return num_seeds
    return min(num_seeds, math.floor(seed_share / (1.0 - seed_share) * num_traces + 1e-9))


def draw_order(num_seeds: int, num_least: int, rng: random.Random) -> list[int]:
    """The seeds' indices in the order in which they are taken, of which `num_least` are surely.

    How many were taken in a round, and so which, is found again without counting tokens.
    """
    first = rng.sample(range(num_seeds), num_least)
    rest = sorted(set(range(num_seeds)).difference(first))
    rng.shuffle(rest)
    return [*first, *rest]


def choose_for_round(schedule: Sequence[float], round: int) -> float:
    """The value of round 1, 2, ...; the last one holds for all later rounds.

    >>> [choose_for_round((0.8, 0.9), t) for t in (1, 2, 3)]
    [0.8, 0.9, 0.9]
    """
    return schedule[min(max(round, 1), len(schedule)) - 1]


def _num_tokens(examples: Sequence[Example]) -> int:
    return sum(map(sequence_length, examples))
