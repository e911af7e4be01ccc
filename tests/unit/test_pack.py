"""Packing: what every Plan guarantees, for any examples, ranks and limits."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virgo_ray.config import TrainConfig
from virgo_ray.errors import DataError
from virgo_ray.records import Example, Plan
from virgo_ray.train.pack import arrange, num_tokens, pack, row_tokens, step_examples
from virgo_ray.train.padded import arrange_padded
from virgo_ray.train.work import TOKENS

lengths = st.lists(st.integers(2, 400), min_size=1, max_size=60)
ways = st.fixed_dictionaries({"packing": st.booleans(), "zero_stage": st.sampled_from([2, 3])})
ranks = st.sampled_from([1, 2, 4, 8])


def examples_of(sizes: list[int]) -> list[Example]:
    return [
        Example(str(i), (1,), (2,) * (n // 2), ("picture",) if n % 3 else (), num_tokens=n)
        for i, n in enumerate(sizes)
    ]


def plan_of(sizes: list[int], num_workers: int, seed: int = 0, **train: object) -> Plan:
    raw = {"batch_size": 8, "micro_batch_tokens": 300, "num_workers": num_workers, **train}
    return pack(examples_of(sizes), TrainConfig.model_validate(raw), random.Random(seed))


def ids_per_step(plan: Plan) -> list[Counter[str]]:
    return [Counter(e.id for e in step_examples(plan, s)) for s in range(len(plan.steps))]


@given(sizes=lengths, num_workers=ranks, seed=st.integers(0, 99), way=ways)
@settings(max_examples=120, deadline=None)
def test_every_rank_has_the_same_number_of_micro_batches_none_empty(sizes, num_workers, seed, way):
    for step in plan_of(sizes, num_workers, seed, **way).steps:
        assert len(step) == num_workers
        assert len({len(rank) for rank in step}) == 1
        assert all(micro_batch for rank in step for micro_batch in rank)
        assert sum(len(micro_batch) for rank in step for micro_batch in rank) == 8


@given(sizes=lengths, num_workers=ranks, seed=st.integers(0, 99), way=ways)
@settings(max_examples=120, deadline=None)
def test_no_micro_batch_is_over_the_token_limit_unless_it_is_one_long_example(
    sizes, num_workers, seed, way
):
    plan = plan_of(sizes, num_workers, seed, **way)
    for micro_batch in (m for step in plan.steps for rank in step for m in rank):
        examples = [plan.examples[i] for i in micro_batch]
        assert len(micro_batch) == 1 or row_tokens(examples, way["packing"]) <= 300


@given(sizes=lengths, seed=st.integers(0, 99), limit=st.integers(10, 2000), way=ways)
@settings(max_examples=60, deadline=None)
def test_the_examples_of_a_step_do_not_depend_on_ranks_limit_packing_or_stage(
    sizes, seed, limit, way
):
    alone = ids_per_step(plan_of(sizes, 1, seed))
    for num_workers in (1, 2, 4, 8):
        plan = plan_of(sizes, num_workers, seed, micro_batch_tokens=limit, **way)
        assert ids_per_step(plan) == alone


@given(sizes=lengths, num_epochs=st.floats(0.1, 3.0), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_example_is_seen_once_per_epoch(sizes, num_epochs, seed):
    plan = plan_of(sizes, 2, seed, num_epochs=num_epochs)
    seen = sum(ids_per_step(plan), Counter())
    total = seen.total()
    assert num_epochs * len(sizes) <= total < num_epochs * len(sizes) + 8
    whole_epochs = total // len(sizes)
    assert all(whole_epochs <= seen[str(i)] <= whole_epochs + 1 for i in range(len(sizes)))


@given(sizes=lengths, budget=st.integers(1, 20_000), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_steps_stop_as_soon_as_the_token_budget_is_reached(sizes, budget, seed):
    plan = plan_of(sizes, 2, seed, num_tokens=budget, num_epochs=1.0)
    tokens = [num_tokens(plan, step) for step in range(len(plan.steps))]
    assert sum(tokens) >= budget > sum(tokens[:-1])


@given(sizes=st.lists(st.integers(50, 250), min_size=64, max_size=64), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_ranks_carry_nearly_equal_work_with_little_padding(sizes, seed):
    ranks = arrange_padded(range(64), sizes, num_ranks=4, max_tokens=1000)
    padded = [sum(len(m) * max(sizes[i] for i in m) for m in rank) for rank in ranks]
    assert max(padded) <= 1.25 * min(padded)
    assert sum(padded) <= 1.25 * sum(sizes)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    sizes = [20 + i for i in range(40)]
    assert plan_of(sizes, 2, seed=1) == plan_of(sizes, 2, seed=1)
    assert plan_of(sizes, 2, seed=1).steps != plan_of(sizes, 2, seed=2).steps


def test_epochs_come_in_different_orders():
    first, second = ids_per_step(plan_of([10] * 16, 1, num_epochs=2.0))[::2]
    assert first != second


def test_two_halves_of_equal_length_give_one_micro_batch_per_rank():
    assert arrange_padded(range(4), [10, 10, 10, 10], num_ranks=2, max_tokens=100) == (
        ((0, 1),),
        ((2, 3),),
    )


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(DataError, match="0 examples"):
        pack([], TrainConfig(), random.Random(0))


def test_an_example_without_targets_is_an_error():
    with pytest.raises(DataError, match="'x'"):
        pack([Example(id="x", prompt_ids=(1,), target_ids=())], TrainConfig(), random.Random(0))


def test_a_batch_that_is_no_multiple_of_the_ranks_is_an_error():
    loads = [TOKENS.load(e) for e in examples_of([10, 10, 10])]
    with pytest.raises(DataError, match="over 2 ranks"):
        arrange([0, 1, 2], loads, TrainConfig(num_workers=2))


def test_a_plan_that_stops_early_keeps_the_learning_rate_of_all_epochs():
    sizes = [10] * 20
    whole = plan_of(sizes, 2, num_epochs=10)
    half = plan_of(sizes, 2, num_epochs=10, stop_epoch=5)
    assert len(whole.steps) == 25 and whole.scheduled_steps is None
    assert half.steps == whole.steps[:13] and half.scheduled_steps == 25


@pytest.mark.parametrize("train", [{"stop_epoch": 11}, {"stop_epoch": 5, "num_tokens": 9}])
def test_a_stop_is_within_the_epochs(train):
    with pytest.raises(ValueError, match="expected at most num_epochs"):
        TrainConfig.model_validate({"num_epochs": 10, **train})
