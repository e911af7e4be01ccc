"""Intervals and paired tests against values computed by hand, and the coverage of the interval."""

import numpy as np
import pytest

from virgo_ray.stats.estimates import (
    difference,
    mcnemar_exact,
    mean_estimate,
    share_estimate,
    sign_flip,
)


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (5, 0, 2 / 32),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (10, 0, 2 / 1024),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(better, worse, p):
    assert mcnemar_exact(better, worse) == pytest.approx(p)


def test_mcnemar_of_thousands_of_problems_is_still_a_number():
    assert 0 < mcnemar_exact(3000, 2800) < 0.01


@pytest.mark.parametrize("spread", [0.0, 0.25])
def test_the_interval_is_close_to_the_normal_one_and_repeatable(spread):
    """Of solved problems by Wilson; of shares of samples, whose variance is smaller, by drawing."""
    values = [1.0 - spread] * 60 + [0.0] * 120 + [spread] * 20
    mean = sum(values) / 200
    found = mean_estimate(values, seed=3)
    half = 1.96 * (np.var(values) / 200) ** 0.5
    assert found.value == pytest.approx(mean)
    assert found.method == ("bootstrap" if spread else "Wilson")
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=0.01)
    assert mean_estimate(values, seed=3) == found
    assert mean_estimate(values[::-1], seed=3) == found  # the order of problems says nothing


@pytest.mark.parametrize(("num", "p"), [(100, 0.7), (200, 0.97), (30, 0.5), (50, 0.05)])
def test_the_interval_covers_the_truth_as_often_as_it_says(num, p):
    solved = np.random.default_rng(0).binomial(num, p, size=4000)
    found = {k: share_estimate(int(k), num) for k in set(solved)}
    assert 0.93 <= np.mean([found[k].low <= p <= found[k].high for k in solved]) <= 0.975


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_are_alike_the_interval_still_has_a_width(value):
    found = mean_estimate([value] * 20)
    assert found.method == "Wilson" and found.value == value
    assert found.high - found.low == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-4)


def test_a_difference_pairs_the_problems():
    base = [0.0] * 12 + [1.0] * 8
    ours = [1.0] * 9 + [0.0] * 3 + [1.0] * 7 + [0.0]
    found = difference(ours, base)
    assert (found.num_better, found.num_worse, found.num_problems) == (9, 1, 20)
    assert found.estimate.value == pytest.approx(0.4)
    assert found.test == "McNemar exact" and found.p_value == pytest.approx(2 * 11 / 1024)
    assert 0.1 < found.estimate.low < 0.4 < found.estimate.high < 0.7


def test_shares_of_samples_are_tested_by_sign_flips():
    ours, base = [0.5, 0.75, 0.5, 1.0], [0.25, 0.5, 0.25, 0.75]
    found = difference(ours, base)
    assert found.test.startswith("sign flips")
    assert found.p_value == pytest.approx(2 / 16, abs=0.02)  # all four up, or all four down
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([0.5, -0.5]) == pytest.approx(1.0)


def test_nothing_to_estimate_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        mean_estimate([])
    with pytest.raises(ValueError, match="cannot be paired"):
        difference([1.0], [1.0, 0.0])
