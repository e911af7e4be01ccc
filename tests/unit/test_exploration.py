"""Which problems a round asks, and which samples of each."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selection_parts import explore, problems

from virgo_ray.config import ExtraConfig
from virgo_ray.records import Problem
from virgo_ray.selection import SolveRate, choose_blanks, choose_problems, choose_samples

# -- unsolved problems -----------------------------------------------------------------------------


@given(
    st.integers(0, 20), st.integers(1, 25), st.floats(0, 1), st.booleans(),
    st.dictionaries(st.integers(0, 19), st.tuples(st.integers(0, 3), st.integers(1, 5))),
)  # fmt: skip
def test_unsolved_problems_get_their_share_as_far_as_there_are_any(
    num, asked, share, prefer, tried
):
    rates = {f"p{i}": SolveRate(min(c / j, 1.0), c > 0) for i, (c, j) in tried.items()}
    cfg = explore(asked, unsolved_share=share, prefer_unsolved=prefer)
    chosen = choose_problems(problems(num), rates, cfg, random.Random(0))
    assert len({p.id for p in chosen}) == len(chosen) == min(asked, num)
    unsolved = {id for i in range(num) if (id := f"p{i}") in rates and not rates[id].is_solved}
    kept = sum(p.id in unsolved for p in chosen)
    assert kept >= min(len(unsolved), share * len(chosen) - 1e-6)


@given(st.integers(0, 20), st.integers(1, 25), st.booleans())
def test_without_a_share_nothing_is_chosen_otherwise(num, asked, prefer):
    rates = {f"p{i}": SolveRate(i % 3 / 3, i % 3 > 0) for i in range(0, num, 2)}
    cfg = explore(asked, prefer_unsolved=prefer)
    chosen = choose_problems(problems(num), rates, cfg, random.Random(1))
    rng = random.Random(1)
    if prefer:
        ranks = {}
        for p in problems(num):
            weight = max(0.05, 1 - rates[p.id].value) if p.id in rates else 1.0
            ranks[p.id] = (1.0 - rng.random()) ** (1 / weight)
        expected = sorted(ranks, key=lambda id: -ranks[id])[:asked]
        assert {p.id for p in chosen} == set(expected)
    else:
        assert chosen == rng.sample(problems(num), min(asked, num))


# -- extra rollouts --------------------------------------------------------------------------------

extras = st.builds(
    ExtraConfig,
    max_samples=st.integers(1, 9),
    until_correct=st.integers(1, 5),
    batch=st.integers(1, 5),
    budget_share=st.one_of(st.none(), st.sampled_from([0.0, 0.3, 1.0, 2.5, 4.0])),
)


def is_correct(sample, solve_rate):
    return random.Random(f"{sample}").random() < solve_rate


def run_to_the_end(ids, num_samples, extra, solve_rate, chunk=None, order=None):
    """What is found once nothing is missing; every start stores `chunk` samples and dies."""
    found, asked = {}, []
    while True:
        wanted = choose_samples(ids, num_samples, extra, found)
        missing = [s for s in wanted if s not in found]
        if not missing:
            return found, asked
        if order:
            order.shuffle(missing)
        for sample in missing[:chunk]:
            asked.append(sample)
            found[sample] = is_correct(sample, solve_rate)


@given(st.integers(0, 6), st.integers(1, 4), extras, st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_extra_rollouts_are_asked_until_enough_are_correct(num, num_samples, extra, solve_rate):
    ids = [f"p{i}" for i in range(num)]
    found, asked = run_to_the_end(ids, num_samples, extra, solve_rate)
    assert len(asked) == len(set(asked))
    per_problem = Counter(id for id, _ in found)
    assert {id for id, _ in found} == set(ids)
    num_extra, share = len(found) - num * num_samples, extra.budget_share
    budget = None if share is None else int(share * num + 1e-9)
    assert num_extra >= 0 and (budget is None or num_extra <= budget)
    for id in ids:
        assert {i for other, i in found if other == id} == set(range(per_problem[id]))
        assert num_samples <= per_problem[id] <= num_samples + extra.max_samples
        correct = [found[id, i] for i in range(per_problem[id])]
        before = per_problem[id] - 1 - (per_problem[id] - num_samples - 1) % extra.batch
        if per_problem[id] > num_samples:  # it was asked on because it had too few
            assert sum(correct[:before]) < extra.until_correct
        is_served = sum(correct) >= extra.until_correct
        is_spent = num_extra == budget
        assert is_served or is_spent or per_problem[id] == num_samples + extra.max_samples


@given(
    st.integers(1, 5), st.integers(1, 3), extras, st.integers(1, 7), st.integers(0, 99),
)  # fmt: skip
def test_whenever_it_is_killed_the_same_rollouts_are_asked(num, num_samples, extra, chunk, seed):
    ids = [f"p{i}" for i in range(num)]
    undisturbed, _ = run_to_the_end(ids, num_samples, extra, 0.4)
    order = random.Random(seed)
    other_ids = order.sample(ids, num)
    found, asked = run_to_the_end(other_ids, num_samples, extra, 0.4, chunk, order)
    assert found == undisturbed and len(asked) == len(set(asked))


@given(st.integers(0, 5), st.integers(1, 4), st.sampled_from([0.0, 0.5]))
def test_without_extra_every_problem_is_asked_as_often(num, num_samples, solve_rate):
    ids = [f"p{i}" for i in range(num)]
    found, asked = run_to_the_end(ids, num_samples, ExtraConfig(), solve_rate)
    assert asked == [(id, i) for id in ids for i in range(num_samples)] == list(found)


def test_a_budget_goes_to_the_least_solved_first():
    found = {("never", 0): False, ("never", 1): False, ("once", 0): True, ("once", 1): False}
    extra = ExtraConfig(max_samples=4, until_correct=2, batch=2, budget_share=1.5)
    wanted = choose_samples(["once", "never"], 2, extra, found)
    assert wanted[4:] == [("never", 2), ("never", 3), ("once", 2)]


def test_guided_self_improvement_needs_one_number():
    """Until 4 are correct, at most 8 more."""
    found, _ = run_to_the_end(["p"], 5, ExtraConfig(max_samples=8), 0.0)
    assert len(found) == 13
    found, _ = run_to_the_end(["p"], 5, ExtraConfig(max_samples=8), 1.0)
    assert len(found) == 5


# -- blank probes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "is_correct", "is_asked"),
    [(("a.png",), True, True), ((), True, False), (("a.png",), False, False)],
)
def test_only_what_has_pictures_and_was_solved_is_asked_blank(images, is_correct, is_asked):
    asked = [Problem("p", "How many?", "1", images)]
    assert bool(choose_blanks(asked, {("p", 0): False, ("p", 1): is_correct})) is is_asked
