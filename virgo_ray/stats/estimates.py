"""Intervals and paired tests over problems: numpy and exact sums, the same figures everywhere.

The problem is the unit that is drawn again, never the sample. Bootstrap draws are made by the
multinomial distribution of the distinct values, which is the same as drawing problems one by one
and costs nothing for large benchmarks. scipy is not used, so that no figure depends on whether it
is installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its interval; `method` says how the interval was found."""

    value: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Difference:
    """Mean of (ours - base) over the problems both were asked; `p_value` is two-sided."""

    estimate: Estimate
    num_problems: int
    num_better: int
    num_worse: int
    p_value: float
    test: str


def mean_estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean with a percentile bootstrap interval (Efron 1979).

    Where all values are 0, or all 1, the bootstrap knows no spread: then the bounds are the exact
    ones of Clopper and Pearson (1934).

    >>> mean_estimate([1.0] * 10)
    Estimate(value=1.0, low=0.6915028921812392, high=1.0, method='exact')

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("the mean of no values is undefined")
    value = float(np.mean(values))
    tail = (1 - CONFIDENCE) / 2
    distinct = set(values)
    if distinct == {1.0}:
        return Estimate(value, tail ** (1 / len(values)), 1.0, "exact")
    if distinct == {0.0}:
        return Estimate(value, 0.0, 1 - tail ** (1 / len(values)), "exact")
    low, high = _bootstrap(values, seed)
    return Estimate(value, low, high, "bootstrap")


def difference(ours: Sequence[float], base: Sequence[float], seed: int = 0) -> Difference:
    """Paired comparison: `ours[i]` and `base[i]` are the same problem's values.

    Solved or not (0 or 1): McNemar's exact test. Shares of samples: a sign-flip permutation test.

    Raises:
        ValueError: no pairs, or not as many of one as of the other.
    """
    if not ours or len(ours) != len(base):
        raise ValueError(f"{len(ours)} values against {len(base)}; expected as many pairs, not 0")
    changes = [a - b for a, b in zip(ours, base, strict=True)]
    num_better, num_worse = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
    low, high = _bootstrap(changes, seed)
    if {*ours, *base} <= {0.0, 1.0}:
        p_value, test = mcnemar_exact(num_better, num_worse), "McNemar exact"
    else:
        p_value, test = sign_flip(changes, seed), f"sign flips ({NUM_DRAWS} draws)"
    estimate = Estimate(float(np.mean(changes)), low, high, "paired bootstrap")
    return Difference(estimate, len(ours), num_better, num_worse, p_value, test)


def mcnemar_exact(num_better: int, num_worse: int) -> float:
    """Two-sided exact test of the problems that only one of two models solved: were they split by
    a fair coin? (McNemar 1947, in the exact form: the binomial test)

    >>> mcnemar_exact(5, 0), mcnemar_exact(1, 1), mcnemar_exact(0, 0)
    (0.0625, 1.0, 1.0)
    """
    num = num_better + num_worse
    fewer = sum(math.comb(num, i) for i in range(min(num_better, num_worse) + 1))
    return min(1.0, 2 * fewer / 2**num)


def sign_flip(changes: Sequence[float], seed: int = 0) -> float:
    """Two-sided permutation test of paired changes: how often is the mean as far from 0 if each
    change might as well have had the other sign? (one added to both counts: never 0)"""
    sizes, counts = np.unique(np.abs([c for c in changes if c]), return_counts=True)
    if not len(sizes):
        return 1.0
    rng = np.random.default_rng(seed)
    ups = rng.binomial(counts, 0.5, size=(NUM_DRAWS, len(counts)))
    sums = np.abs((2 * ups - counts) @ sizes)
    as_far = int(np.sum(sums >= abs(math.fsum(changes)) - 1e-9))
    return (1 + as_far) / (1 + NUM_DRAWS)


def _bootstrap(values: Sequence[float], seed: int) -> tuple[float, float]:
    distinct, counts = np.unique(values, return_counts=True)
    num = len(values)
    draws = np.random.default_rng(seed).multinomial(num, counts / num, size=NUM_DRAWS)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws @ distinct / num, [tail, 1 - tail])
    return float(low), float(high)
