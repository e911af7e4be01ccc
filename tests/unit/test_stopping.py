"""Estimates for problems that were asked until enough answers were correct, against what
`choose_samples` really asks."""

import random
from collections import defaultdict
from fractions import Fraction
from itertools import product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selection_parts import explore

from virgo_ray.config import ExtraConfig, load_config
from virgo_ray.selection import SolveRate, choose_samples, solve_rates, stopping_rule
from virgo_ray.stats.stopping import (
    FIXED,
    StoppingRule,
    binomial_tail,
    estimate_pass_rate,
    luck,
)

MAX_LUCKS = (0.01, 0.05, 0.1, 0.2, 0.5)
GRID = [
    (num_samples, ExtraConfig(max_samples=most, until_correct=until, batch=batch))
    for num_samples, most, until, batch in product((1, 2, 3), (0, 3, 5), (1, 2, 4), (1, 2, 3))
    if most or (until, batch) == (1, 1)
]


def rule_of(num_samples, extra):
    cfg = explore(1, extra=extra)
    return stopping_rule(cfg.model_copy(update={"num_samples": num_samples}))


def ends_of(num_samples, extra, chance):
    """{(correct, asked): probability} of one problem, by every order of right and wrong."""
    ends = defaultdict(float)
    going = [({}, 1.0)]
    while going:
        found, weight = going.pop()
        missing = [s for s in choose_samples(["p"], num_samples, extra, found) if s not in found]
        if not missing:
            ends[sum(found.values()), len(found)] += weight
            continue
        for is_right in (True, False):
            going.append(
                ({**found, missing[0]: is_right}, weight * (chance if is_right else 1 - chance))
            )
    return ends


@pytest.mark.parametrize("chance", [0.1, 0.5])
def test_for_every_rule_the_pass_rate_is_unbiased_and_no_guesser_is_luckier_than_said(chance):
    for num_samples, extra in GRID:
        rule, ends = rule_of(num_samples, extra), ends_of(num_samples, extra, chance)
        mean = sum(p * estimate_pass_rate(*end, rule) for end, p in ends.items())
        assert mean == pytest.approx(chance), (num_samples, extra)
        lucks = {end: luck(*end, chance, rule) for end in ends}
        for end, found in lucks.items():
            as_unlikely = binomial_tail(*end, chance) * (1 + 1e-9)
            tails = [p for e, p in ends.items() if binomial_tail(*e, chance) <= as_unlikely]
            assert found == pytest.approx(sum(tails)), (num_samples, extra, end)
        for limit in MAX_LUCKS:
            assert sum(p for end, p in ends.items() if lucks[end] <= limit) <= limit + 1e-9


def test_the_plain_share_is_not_unbiased():
    """Until 2 are correct, 2 at a time: a problem solved one time in five looks a third better."""
    ends = ends_of(2, ExtraConfig(max_samples=4, until_correct=2, batch=2), 0.2)
    assert sum(p * correct / asked for (correct, asked), p in ends.items()) > 0.21


@pytest.mark.parametrize("share", [0.0, 0.5, 1.5])
def test_where_a_budget_runs_out_no_guesser_is_luckier_than_said(share):
    extra = ExtraConfig(max_samples=6, until_correct=3, batch=3, budget_share=share)
    rule, rng, ids = rule_of(3, extra), random.Random(0), [f"p{i}" for i in range(40)]
    chances = {id: (0.25, 0.5)[i % 2] for i, id in enumerate(ids)}
    believed, num_runs = defaultdict(int), 60
    for _ in range(num_runs):
        found, missing = {}, [None]
        while missing:
            missing = [s for s in choose_samples(ids, 3, extra, found) if s not in found]
            found |= {s: rng.random() < chances[s[0]] for s in missing}
        for id in ids:
            answers = [is_right for (other, _), is_right in found.items() if other == id]
            found_luck = luck(sum(answers), len(answers), chances[id], rule)
            for limit in MAX_LUCKS:
                believed[chances[id], limit] += found_luck <= limit
    for (_, limit), num in believed.items():
        num_guessers = num_runs * len(ids) / 2
        assert num / num_guessers <= limit + 3 * (limit * (1 - limit) / num_guessers) ** 0.5


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_fixed_number_of_samples_is_counted_as_ever(counts):
    assert estimate_pass_rate(*counts, FIXED) == pytest.approx(counts[0] / counts[1])
    assert luck(*counts, 0.25, FIXED) == pytest.approx(binomial_tail(*counts, 0.25))


@given(st.integers(2, 20).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_single_samples_until_the_kth_correct_one_are_inverse_sampling(counts):
    num_correct, asked = counts
    rule = StoppingRule(1, max_extra=30, batch=1, until_correct=num_correct)
    assert estimate_pass_rate(*counts, rule) == pytest.approx((num_correct - 1) / (asked - 1))


def test_failures_to_judge_count_as_wrong_and_counts_of_another_rule_as_fixed():
    rule = StoppingRule(3, max_extra=4, batch=2, until_correct=2)
    assert luck(2, 4, 0.25, rule) == luck(2, 5, 0.25, rule)
    assert luck(9, 20, 0.25, rule) == binomial_tail(9, 20, 0.25)
    assert estimate_pass_rate(9, 20, rule) == 9 / 20


def test_counts_that_the_rule_cannot_make_are_as_lucky_as_of_a_fixed_number():
    """Two asked, one right and one not judged, then two right: 3 of 3, which is no proof."""
    num_unreachable = 0
    for rule in (rule_of(num, extra) for num, extra in GRID):
        reached = set(range(rule.num_samples + 1))
        for asked in range(rule.num_samples, rule.most + 1):
            assert rule.most_correct(asked) == max(reached)
            for k in set(range(asked + 1)) - reached:
                assert luck(k, asked, 0.5, rule) == binomial_tail(k, asked, 0.5)
                num_unreachable += 1
            reached = {now for k in reached if not rule.is_end(asked, k) for now in (k, k + 1)}
    assert num_unreachable > 100
    improved = stopping_rule(load_config("configs/tiny_improved.yaml").explore)
    assert [luck(*counts, 0.5, improved) for counts in ((3, 3), (4, 5))] == [0.125, 0.1875]


def test_what_was_chosen_by_its_results_weighs_no_more_in_a_solve_rate():
    rule = StoppingRule(2, max_extra=4, batch=2, until_correct=2)
    counts = {(1, "a"): (2, 2), (2, "a"): (2, 6), (1, "b"): (0, 6), (2, "c"): (1, 2)}
    found = solve_rates(counts, rule)
    assert found["a"] == SolveRate(pytest.approx((1 + 2 / 9) / 2), True)
    assert found["b"] == SolveRate(0.0, False) and found["c"] == SolveRate(0.5, True)
    fixed = solve_rates({(1, "a"): (1, 1), (2, "a"): (1, 3)}, FIXED)
    assert fixed["a"] == SolveRate(pytest.approx(2 / 4), True)


def test_solved_once_at_the_last_try_is_solved_though_its_rate_is_estimated_as_zero():
    found = solve_rates({(1, "a"): (1, 5)}, StoppingRule(1, 8, until_correct=1))
    assert found["a"] == SolveRate(0.0, True)


# -- wide rules ------------------------------------------------------------------------------------


def exact_tail(num, tries, chance):
    right = Fraction(chance)
    return float(
        sum(comb(tries, k) * right**k * (1 - right) ** (tries - k) for k in range(num, tries + 1))
    )


@pytest.mark.parametrize("num, tries", [(1, 101), (40, 101), (101, 101), (700, 1100), (200, 1100)])
@pytest.mark.parametrize("chance", [0.25, 0.5, 0.875])
def test_tails_of_many_tries_are_those_of_whole_numbers(num, tries, chance):
    assert binomial_tail(num, tries, chance) == pytest.approx(exact_tail(num, tries, chance), 1e-10)


def plain_luck(num_correct, num_judged, chance, rule):
    """`luck` of counts that the rule can make, looking at every count after every sample."""
    bound = binomial_tail(num_correct, rule.count_at_end(num_judged), chance) * (1 + 1e-9)
    going = {0: 1.0}
    lucky = 0.0
    for asked in range(1, rule.most + 1):
        following = defaultdict(float)
        for k, p in going.items():
            following[k] += p * (1 - chance)
            following[k + 1] += p * chance
        going = dict(following)
        if asked < rule.num_samples:
            continue
        ended = {k for k in going if rule.is_end(asked, k)}
        possible = set(going) if rule.may_end_anywhere else ended
        hits = {k for k in possible if binomial_tail(k, asked, chance) <= bound}
        lucky += sum(going[k] for k in hits)
        going = {k: p for k, p in going.items() if k not in ended | hits}
    return lucky


@given(st.data())
def test_leaving_out_what_cannot_be_lucky_changes_no_luck(data):
    draw = data.draw
    rule = StoppingRule(
        num_samples=draw(st.integers(1, 8)),
        max_extra=draw(st.integers(1, 40)),
        batch=draw(st.integers(1, 5)),
        until_correct=draw(st.integers(1, 9)),
        may_end_anywhere=draw(st.booleans()),
    )
    num_judged = draw(st.integers(rule.num_samples, rule.most))
    num_correct = draw(st.integers(0, rule.most_correct(num_judged)))
    chance = draw(st.sampled_from((0.05, 0.25, 0.5, 0.9)))
    expected = plain_luck(num_correct, num_judged, chance, rule)
    assert luck(num_correct, num_judged, chance, rule) == pytest.approx(expected, abs=1e-12)


def test_a_rule_of_very_many_samples_has_a_luck():
    """The number of orders of 2,000 samples is no floating-point number."""
    assert luck(2000, 2000, 0.5, StoppingRule(2000)) == 0.0
    assert luck(1000, 2000, 0.5, StoppingRule(2000)) == pytest.approx(0.509, abs=1e-3)
    wide = StoppingRule(5, max_extra=5000, batch=4, until_correct=4)
    narrow = StoppingRule(5, max_extra=8, batch=4, until_correct=4)
    assert luck(4, 5, 0.25, wide) == pytest.approx(luck(4, 5, 0.25, narrow))
