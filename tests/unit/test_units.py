"""Pairs and the steps of reinforcement when they are packed, and what tells fits apart."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from group_parts import make_members
from hypothesis import given, settings
from hypothesis import strategies as st

from virgo_ray.config import ObjectiveConfig, TrainConfig, load_config
from virgo_ray.errors import TrainingError
from virgo_ray.records import Example, LogProbs, Weights
from virgo_ray.selection.refilling import choose_refills
from virgo_ray.train.batch import _sampled
from virgo_ray.train.job import fingerprint_examples, make_job
from virgo_ray.train.pack import (
    count_portions,
    num_target_tokens,
    num_tokens,
    pack,
    step_examples,
)
from virgo_ray.train.units import find_units

LENGTHS = st.lists(st.integers(2, 300), min_size=1, max_size=30)


def pair(i, size):
    sizes = size, size // 2 + 1
    return [
        Example(f"{i}/{role}", (1,), (2,) * n, num_tokens=n + 1, group=f"{i}", role=role)
        for role, n in zip(("chosen", "rejected"), sizes, strict=True)
    ]


def single(i, size, **fields):
    return Example(str(i), (1,), (2,) * size, num_tokens=size + 1, is_trace=True, **fields)


def plan_of(examples, num_workers, **train):
    raw = {"micro_batch_tokens": 300, "num_workers": num_workers, "batch_size": 8, **train}
    return pack(examples, TrainConfig.model_validate(raw), random.Random(0))


@given(LENGTHS, st.sampled_from([1, 2, 4]), st.sampled_from([None, 1, 3]))
@settings(max_examples=60, deadline=None)
def test_the_two_of_a_pair_lie_behind_each_other_in_one_micro_batch(sizes, num_workers, num_steps):
    examples = [single("s", 9), *(e for i, n in enumerate(sizes) for e in pair(i, n))]
    objective = {"name": "dpo", "num_steps": num_steps}
    plan = plan_of(examples, num_workers, objective=objective)
    for micro_batch in (m for step in plan.steps for rank in step for m in rank):
        own = [plan.examples[i] for i in micro_batch]
        for place, example in enumerate(own):
            if example.role == "chosen":
                assert own[place + 1].role == "rejected"
                assert own[place + 1].group == example.group
        assert sum(e.role == "rejected" for e in own) == sum(e.role == "chosen" for e in own)


@given(LENGTHS, st.sampled_from([1, 2, 4]), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_steps_share_all_examples_once_and_no_filler_counts(sizes, num_workers, num_steps):
    examples = [single(i, n, group="g", weight=-0.5) for i, n in enumerate(sizes)]
    objective = {"name": "grpo", "num_steps": num_steps}
    plan = plan_of(examples, num_workers, objective=objective)
    found = [list(step_examples(plan, s)) for s in range(len(plan.steps))]
    real = [[e for e in step if not e.is_filler] for step in found]
    assert Counter(e.id for step in real for e in step) == Counter(e.id for e in examples)
    assert len(plan.steps) == min(num_steps, max(1, len(sizes) // num_workers))
    assert max(map(len, real)) - min(map(len, real)) <= 1
    assert all(len(step) % num_workers == 0 for step in found)
    assert all(len(step) - len(own) < num_workers for step, own in zip(found, real, strict=True))
    assert sum(p.num_examples for p in count_portions(plan.examples).values()) == len(examples)
    alone = plan_of(examples, 1, objective=objective)
    if len(alone.steps) == len(plan.steps):  # who is in a step does not depend on the ranks
        assert [{e.id for e in s} for s in real] == [
            {e.id for e in step_examples(alone, s)} for s in range(len(alone.steps))
        ]


def test_fillers_do_not_tell_fits_on_other_numbers_of_ranks_apart(tmp_path):
    examples = [single(i, 20, group="g", weight=-0.5) for i in range(7)]
    raw = "train.objective={name: grpo, num_steps: 2}", "train.restart_from=previous"
    jobs = []
    for num_workers in (1, 2):
        cfg = load_config("configs/tiny.yaml", [*raw, f"train.num_workers={num_workers}"])
        plan = pack(examples, cfg.train, random.Random(0))
        jobs.append(make_job(cfg, plan, Weights(1, str(tmp_path)), 2))
    assert any(e.is_filler for s in range(2) for e in step_examples(jobs[1].plan, s))
    assert jobs[0].recipe == jobs[1].recipe and jobs[0].work == jobs[1].work


def test_examples_without_groups_are_packed_as_the_batch_size_says():
    examples = [single(i, 5) for i in range(16)]
    plain = plan_of(examples, 2)
    assert plan_of(examples, 2, objective={"name": "rloo"}) == plain and len(plain.steps) == 2


def test_units_are_single_examples_and_pairs():
    examples = [single(0, 5), *pair(1, 5), *pair(2, 5), single(3, 5)]
    assert find_units(examples) == [(0,), (1, 2), (3, 4), (5,)]


def test_the_fingerprint_of_examples_without_groups_is_what_it_was():
    known = [Example("a", (1, 2), (3,), ("x.png",), 9, 0.5), Example("b", (4,), (5, 6))]
    assert fingerprint_examples(known) == KNOWN
    assert fingerprint_examples([replace(e, temperature=0.5) for e in known]) == KNOWN


KNOWN = "8bbc17907ff26553"


@pytest.mark.parametrize(
    "change",
    [{"old_logprobs": (-0.5, -0.3)}, {"temperature": 0.7}, {"group": "1/b"}, {"role": "chosen"}],
)
def test_what_reinforcement_reads_of_an_example_makes_another_fit(change):
    example = Example("a", (1,), (2, 3), group="1/a", old_logprobs=(-0.5, -0.25))
    assert fingerprint_examples([example]) != fingerprint_examples([replace(example, **change)])


def test_log_probabilities_for_other_tokens_are_refused():
    example = Example("a", (1,), (2, 3), old_logprobs=(-0.5,))
    assert isinstance(example.old_logprobs, LogProbs)
    with pytest.raises(TrainingError, match="has 1 log-probabilities for 2 targets"):
        _sampled(example)


# -- refills -----------------------------------------------------------------------------------


def refills(members, found_of, known="abcdef", name="grpo", **raw):
    found = {(id, i) for id in found_of for i in range(2)}
    cfg = ObjectiveConfig(name=name, **raw)
    return list(choose_refills("ab", "cdef", found, 2, known, members, cfg))


def test_refills_follow_groups_without_signal_one_generation_at_a_time():
    dead = {"a": make_members("cc", "a"), "b": make_members("cw", "b")}
    assert refills(dead, "ab", max_refills=3) == ["c"]
    assert refills(dead, "a", max_refills=3) == []  # b is not judged yet
    again = dead | {"c": make_members("ww", "c")}
    assert refills(again, "abc", max_refills=3) == ["c", "d"]
    assert refills(again, "abc", max_refills=1) == ["c"]
    assert refills(again | {"d": make_members("wc", "d")}, "abcd", max_refills=9) == ["c", "d"]
    assert refills(dead, "ab") == []


def test_refills_end_with_the_reserve():
    members = {id: make_members("oo", id) for id in "abcdef"}
    assert refills(members, "abcdef", max_refills=9) == ["c", "d", "e", "f"]


def test_a_problem_that_was_removed_ends_no_refills_and_gives_none_up():
    dead = {"a": make_members("cc", "a"), "b": make_members("cw", "b")}
    assert refills(dead, "ab", known="bcdef", max_refills=3) == ["c"]
    del dead["b"]
    assert refills(dead, "a", known="acdef", max_refills=3) == ["c", "d"]


def test_groups_without_a_pair_are_followed_by_others_under_dpo():
    members = {"a": make_members("wt", "a"), "b": make_members("cw", "b")}
    raw = {"max_refills": 1, "rewards": {"truncated": -0.5}}
    assert refills(members, "ab", **raw) == []
    assert refills(members, "ab", name="dpo", **raw) == ["c"]


# -- fingerprints of fits ----------------------------------------------------------------------


def recipe(tmp_path, *overrides, **fields):
    examples = [single(i, 20, weight=0.5, **fields) for i in range(4)]
    cfg = load_config("configs/tiny.yaml", ["train.restart_from=previous", *overrides])
    plan = pack(examples, load_config("configs/tiny.yaml").train, random.Random(0))
    return make_job(cfg, plan, Weights(1, str(tmp_path)), 2).recipe


def test_what_acts_through_examples_alone_makes_no_other_fit(tmp_path):
    name = "train.objective.name=grpo"
    plain = recipe(tmp_path, name, group="g")
    for key in ("rewards.wrong=-1", "max_refills=3", "num_steps=2", "max_advantage=2",
                "grpo.standardise=true"):  # fmt: skip
        assert recipe(tmp_path, name, f"train.objective.{key}", group="g") == plain
    for key in ("grpo.kl=0.1", "grpo.clip=cispo", "name=rloo"):
        assert recipe(tmp_path, name, f"train.objective.{key}", group="g") != plain


def test_a_fit_without_groups_is_imitation_whatever_the_objective_is(tmp_path):
    plain = recipe(tmp_path)
    for name in ("rloo", "dpo", "grpo"):
        assert recipe(tmp_path, f"train.objective.name={name}") == plain


def test_fillers_are_in_no_number_of_a_fit():
    examples = [single(i, 20, group="g", weight=-0.5) for i in range(3)]
    plan = plan_of(examples, 2, objective={"name": "grpo", "num_steps": 1})
    assert any(e.is_filler for e in step_examples(plan, 0))
    assert (num_tokens(plan, 0), num_target_tokens(plan, 0)) == (3 * 21, 3 * 20)
