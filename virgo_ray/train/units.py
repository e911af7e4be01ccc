"""What is never torn apart when a step is spread over ranks and micro-batches.

A unit is one example, or the two of a pair: a preference compares them with each other, so they lie
in one micro-batch. Pure.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from virgo_ray.records import Example, Step, sequence_length
from virgo_ray.train.work import Load

Unit = tuple[int, ...]  # places of examples


def find_units(examples: Sequence[Example]) -> list[Unit]:
    """The units of examples among which the two of every pair follow each other."""
    units: list[Unit] = []
    for place, example in enumerate(examples):
        if example.role == "rejected":
            units[-1] = (*units[-1], place)
        else:
            units.append((place,))
    return units


def join_loads(loads: Sequence[Load]) -> Load:
    """What several examples weigh together."""
    if len(loads) == 1:
        return loads[0]
    return Load(
        sum(load.tokens for load in loads),
        sum(load.flops for load in loads),
        any(load.has_picture for load in loads),
    )


def expand_units(step: Step, units: Sequence[Unit]) -> Step:
    """A step of units as one of their examples."""
    return tuple(
        tuple(tuple(place for unit in micro_batch for place in units[unit]) for micro_batch in rank)
        for rank in step
    )


def share_evenly(
    num_units: int, num_steps: int, num_ranks: int, rng: random.Random
) -> Iterator[list[int]]:
    """All units once, in a random order, over at most `num_steps` steps of nearly equal size.

    `num_units` itself stands for what fills a step up to a multiple of the ranks. There are fewer
    steps where some would have fewer units than ranks.

    >>> [len(batch) for batch in share_evenly(10, 3, 2, random.Random(0))]
    [4, 4, 4]
    """
    order = rng.sample(range(num_units), num_units)
    num_steps = min(num_steps, max(1, num_units // num_ranks))
    for first in range(num_steps):
        batch = order[first::num_steps]
        yield [*batch, *[num_units] * (-len(batch) % num_ranks)]


def make_filler(examples: Sequence[Example]) -> Example:
    """An example that costs little and has no loss."""
    shortest = min(examples, key=sequence_length)
    return replace(
        shortest, id=f"filler ({shortest.id})", weight=0.0, group="", role="", old_logprobs=()
    )
