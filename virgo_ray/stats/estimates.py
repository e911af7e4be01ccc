"""Confidence intervals and paired tests over problems.

The problem is the unit that is drawn again, never the sample. scipy computes the exact test of
paired outcomes; it is imported on first use, because it takes longer to load than all else here.
What is written out here instead differs from scipy's version, and says in which respect. The same
values and seed always give the same figures, so that a report can be computed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 10_000
CONFIDENCE = 0.95

# Accuracies, and the figure that says over how many problems each is.
ACCURACIES = {
    "pass_at_1": "num_problems",
    "pass_at_k": "num_problems",
    "maj_at_k": "num_problems",
    "blank_image_pass_at_1": "num_blank",
    "perception_pass_at_1": "num_perception",
    "text_pass_at_1": "num_text",
}


@dataclass(frozen=True)
class Estimate:
    """An average over problems with its interval; `method` names how the interval was found."""

    value: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Difference:
    """The average of (ours - base) over problems that both were asked; `p_value` is two-sided."""

    estimate: Estimate
    num_problems: int
    num_better: int
    num_worse: int
    p_value: float
    test: str


def mean_estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """Average the values, with an interval.

    It is Wilson's (1927) for values of 0 and 1, which covers the truth as often as it says near 0
    and 1 too; a percentile bootstrap (Efron 1979) for shares of samples.

    >>> found = mean_estimate([1.0] * 10)
    >>> found.method, round(found.low, 3), found.high
    ('Wilson', 0.722, 1.0)

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("there are no values; expected at least one, to average them")
    value = float(np.mean(values))
    if set(values) <= {0.0, 1.0}:
        return share_estimate(round(sum(values)), len(values))
    low, high = _bootstrap(values, seed)
    return Estimate(value, low, high, "bootstrap")


def share_estimate(num: int, total: int) -> Estimate:
    """The share of `num` in `total` with its Wilson interval; `total` is at least 1."""
    from scipy.stats import binomtest

    found = binomtest(num, total).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(num / total, float(found.low), float(found.high), "Wilson")


def difference(ours: Sequence[float], base: Sequence[float], seed: int = 0) -> Difference:
    """Compare in pairs: `ours[i]` and `base[i]` are the values of the same problem.

    Values of 0 and 1 (solved or not) are tested by McNemar's exact test, shares of samples by
    sign flips.

    Raises:
        ValueError: there are no pairs, or the two have different numbers of values.
    """
    if not ours or len(ours) != len(base):
        raise ValueError(
            f"{len(ours)} values of ours and {len(base)} of the base cannot be paired; expected as "
            "many of each, and at least one"
        )
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
    """Test exactly whether a fair coin could have split the problems that one model alone solved.

    Two-sided; this is the binomial test (McNemar 1947, in its exact form).

    >>> mcnemar_exact(5, 0), mcnemar_exact(1, 1), mcnemar_exact(0, 0)
    (0.0625, 1.0, 1.0)
    """
    from scipy.stats import binomtest

    num = num_better + num_worse
    return float(binomtest(num_better, num, 0.5).pvalue) if num else 1.0


def sign_flip(changes: Sequence[float], seed: int = 0) -> float:
    """Test by permutation, on two sides, whether each change could as well have the other sign.

    The result is the share of random signs that move the average at least as far from 0. One is
    added to both counts, so it is never 0. `scipy.stats.permutation_test` flips the signs one by
    one: with 5,000 problems that takes seconds where this takes milliseconds.
    """
    sizes, counts = np.unique(np.abs([c for c in changes if c]), return_counts=True)
    if not len(sizes):
        return 1.0
    rng = np.random.default_rng(seed)
    ups = rng.binomial(counts, 0.5, size=(NUM_DRAWS, len(counts)))
    sums = np.abs((2 * ups - counts) @ sizes)
    as_far = int(np.sum(sums >= abs(math.fsum(changes)) - 1e-9))
    return (1 + as_far) / (1 + NUM_DRAWS)


def _bootstrap(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Draw problems again by counting how often each distinct value comes up (multinomial).

    `scipy.stats.bootstrap` draws them one by one. That is slower, depends on the order of the
    problems, and gives other figures for a seed than the published tables.
    """
    distinct, counts = np.unique(values, return_counts=True)
    num = len(values)
    draws = np.random.default_rng(seed).multinomial(num, counts / num, size=NUM_DRAWS)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws @ distinct / num, [tail, 1 - tail])
    return float(low), float(high)
