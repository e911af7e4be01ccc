"""Traces shared between sources and bins of pass rate, so that what is easy does not take over.

A cell is one source and one bin.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from virgo_ray.records import Candidate
from virgo_ray.stats.interleave import round_robin
from virgo_ray.stats.stopping import FIXED, StoppingRule, estimate_pass_rate

NUM_BINS = 4  # of pass rates
MAX_LOSS_WEIGHT = 4.0  # a lonely trace is not learnt by heart

Cell = tuple[str, int]
FindCell = Callable[[Candidate], Cell]


def balance(
    candidates: Sequence[Candidate], num: int, rng: random.Random, find_cell: FindCell
) -> list[Candidate]:
    """At most `num`, in turn over the cells: rare ones are kept whole, and every problem gets a
    first trace before any gets a second."""
    nth: dict[str, int] = defaultdict(int)
    cells: dict[Cell, list[tuple[int, Candidate]]] = defaultdict(list)
    for c in rng.sample(candidates, len(candidates)):
        cells[find_cell(c)].append((nth[c.problem_id], c))
        nth[c.problem_id] += 1
    ordered = [
        [c for _, c in sorted(found, key=lambda pair: pair[0])]
        for _, found in sorted(cells.items())
    ]
    return list(round_robin(ordered))[:num]


def draw_by_inverse_frequency(
    candidates: Sequence[Candidate], num: int, rng: random.Random, find_cell: FindCell
) -> list[Candidate]:
    """At most `num`, each drawn with a weight of one over the size of its cell."""
    cells = [find_cell(c) for c in candidates]
    sizes = Counter(cells)
    ranks = [math.log(1.0 - rng.random()) * sizes[cell] for cell in cells]  # Efraimidis 2006
    order = sorted(range(len(ranks)), key=lambda i: -ranks[i])
    return [candidates[i] for i in order[:num]]


def draw_evenly(
    candidates: Sequence[Candidate], num: int, rng: random.Random, _: FindCell
) -> list[Candidate]:
    """At most `num`, every one as likely."""
    return rng.sample(candidates, min(num, len(candidates)))


LIMITS: dict[
    str, Callable[[Sequence[Candidate], int, random.Random, FindCell], list[Candidate]]
] = {
    "even": balance,
    "inverse": draw_by_inverse_frequency,
    "none": draw_evenly,
}


def weigh_losses(
    chosen: Sequence[Candidate], power: float, rule: StoppingRule = FIXED
) -> list[float]:
    """How much each trace counts in the loss: one over the size of its cell, to this power.

    The mean is 1, the largest ratio to the mean cell's 4. With power 1 all cells count the same
    together, with 0 every weight is 1. Example: cells of 3 and 1 traces, power 1: 2/3 and 2.
    """
    if power == 0.0 or not chosen:
        return [1.0] * len(chosen)
    cells = [cell(c, rule) for c in chosen]
    sizes = Counter(cells)
    mean_size = len(chosen) / len(sizes)
    raw = [min(MAX_LOSS_WEIGHT, (mean_size / sizes[own]) ** power) for own in cells]
    mean = math.fsum(raw) / len(raw)
    return [weight / mean for weight in raw]


def cell(candidate: Candidate, rule: StoppingRule) -> Cell:
    pass_rate = estimate_pass_rate(candidate.num_correct, candidate.num_judged, rule)
    return candidate.source, pass_rate_bin(pass_rate)


def pass_rate_bin(pass_rate: float) -> int:
    """0 to 3, for pass rates up to 1/4, 1/2, 3/4 and 1.

    >>> [pass_rate_bin(r) for r in (0.2, 0.25, 0.26, 1.0)]
    [0, 0, 1, 3]
    """
    return max(0, math.ceil(pass_rate * NUM_BINS - 1e-9) - 1)
