"""Traces shared evenly between sources and pass rates, so that what is easy does not take over."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence

from virgo_ray.data.rows import round_robin
from virgo_ray.selection.candidates import Candidate

NUM_BINS = 4  # of pass rates, when traces are balanced


def balance(candidates: Sequence[Candidate], num: int, rng: random.Random) -> list[Candidate]:
    """At most `num`, in turn over sources and bins of pass rate: rare bins are kept whole, and
    every problem gets a first trace before any gets a second."""
    nth: dict[str, int] = defaultdict(int)
    bins: dict[tuple[str, int], list[tuple[int, Candidate]]] = defaultdict(list)
    for c in rng.sample(candidates, len(candidates)):
        bins[c.source, pass_rate_bin(c.pass_rate)].append((nth[c.problem_id], c))
        nth[c.problem_id] += 1
    ordered = [[c for _, c in sorted(b, key=lambda pair: pair[0])] for _, b in sorted(bins.items())]
    return list(round_robin(ordered))[:num]


def pass_rate_bin(pass_rate: float) -> int:
    """0 to 3, for pass rates up to 1/4, 1/2, 3/4 and 1.

    >>> [pass_rate_bin(r) for r in (0.2, 0.25, 0.26, 1.0)]
    [0, 0, 1, 3]
    """
    return max(0, math.ceil(pass_rate * NUM_BINS - 1e-9) - 1)
