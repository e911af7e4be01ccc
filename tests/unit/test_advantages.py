"""From statuses to rewards, from groups to advantages and pairs, from rounds to what they teach."""

import math
from dataclasses import replace

import pytest
from group_parts import Groups, make_members
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from virgo_ray.config import ObjectiveConfig, RewardsConfig
from virgo_ray.errors import DataError
from virgo_ray.records import TEACHER_VERSION, Status
from virgo_ray.selection.advantages import (
    centred,
    leave_one_out,
    make_groups,
    measure_signal,
    standardised,
    weigh_group,
)
from virgo_ray.selection.pairs import choose_pairs
from virgo_ray.selection.reinforcing import choose_lessons
from virgo_ray.selection.rewards import find_reward

REWARDS = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=12)


def group(statuses, cfg=None, **fields):
    members = make_members(statuses, **fields)
    return make_groups({"p": members}, cfg or RewardsConfig())[0]


# -- rewards -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letter", "default"),
    [("c", 1.0), ("w", 0.0), ("n", 0.0), ("t", 0.0), ("r", 0.0), ("o", None), ("e", None)],
)
def test_every_status_has_its_reward_and_what_could_not_be_judged_has_none(letter, default):
    assert find_reward(make_members(letter)[0], RewardsConfig()) == default


def test_all_statuses_are_in_the_table():
    members = [replace(make_members("w")[0], status=status) for status in Status]
    without = {m.status for m in members if find_reward(m, RewardsConfig()) is None}
    assert without == {status for status in Status if status.is_failure_to_judge}


def test_a_status_can_be_worth_less_than_wrong_or_leave_the_group():
    cfg = RewardsConfig(truncated=-0.5, no_answer=None)
    assert find_reward(make_members("t")[0], cfg) == -0.5
    assert group("cwnnt", cfg).rewards == (1.0, 0.0, -0.5)


def test_length_costs_a_correct_rollout_and_no_other():
    cfg = RewardsConfig(length_penalty=0.5, free_tokens=100, ramp_tokens=100)
    found = [find_reward(m, cfg) for m in make_members("cccww", lengths=[9, 150, 999, 9, 999])]
    assert found == [1.0, 0.75, 0.5, 0.0, 0.0]


def test_form_costs_a_correct_rollout_and_no_other():
    cfg = RewardsConfig(format_penalty=0.25)
    found = [find_reward(replace(m, has_form=False), cfg) for m in make_members("cwn")]
    assert found == [0.75, 0.0, 0.0] and find_reward(make_members("c")[0], cfg) == 1.0


def test_a_doubted_rollout_leaves_its_group_or_is_worth_what_is_said():
    doubted = make_members("c", is_doubted=True)[0]
    assert find_reward(doubted, RewardsConfig()) is None
    assert find_reward(doubted, RewardsConfig(doubted=0.25)) == 0.25
    assert find_reward(doubted, RewardsConfig(doubted=0.75, length_penalty=0.5)) == 0.75
    assert find_reward(replace(doubted, num_tokens=9999), RewardsConfig(
        doubted=0.75, length_penalty=0.5)) == 0.5  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"wrong": 1.0}, "wrong=1 is not below"),
        ({"truncated": 0.6, "length_penalty": 0.5}, "truncated=0.6 is not below .* 0.5"),
        ({"wrong": 0.5, "length_penalty": 0.25, "format_penalty": 0.25}, "wrong=0.5 is not below"),
        ({"doubted": 2.0}, "doubted=2 is above correct=1"),
    ],
)
def test_no_other_status_may_be_worth_as_much_as_correct(keys, said):
    with pytest.raises(ValidationError, match=said):
        RewardsConfig(**keys)


# -- advantages ----------------------------------------------------------------------------------


@given(REWARDS)
def test_centred_advantages_sum_to_nothing_and_keep_the_order(rewards):
    found = centred(rewards)
    assert math.fsum(found) == pytest.approx(0.0, abs=1e-9)
    assert sorted(range(len(rewards)), key=lambda i: rewards[i]) == sorted(
        range(len(rewards)), key=lambda i: found[i]
    ) or len(set(rewards)) < len(rewards)


@given(REWARDS, st.floats(0.1, 10), st.floats(-10, 10))
def test_standardised_advantages_do_not_feel_an_affine_map_of_the_reward(rewards, scale, shift):
    assume(max(rewards) - min(rewards) > 0.01)
    mapped = [scale * reward + shift for reward in rewards]
    assert standardised(mapped) == pytest.approx(standardised(rewards), rel=1e-6, abs=1e-9)


@given(REWARDS)
def test_leave_one_out_is_the_centred_one_times_g_over_g_minus_1(rewards):
    num = len(rewards)
    expected = [num / (num - 1) * a for a in centred(rewards)]
    assert leave_one_out(rewards) == pytest.approx(expected)
    others = [(sum(rewards) - r) / (num - 1) for r in rewards]
    by_name = [r - other for r, other in zip(rewards, others, strict=True)]
    assert leave_one_out(rewards) == pytest.approx(by_name, abs=1e-9)


def test_standardised_advantages_of_binary_rewards_are_those_of_the_formula():
    found = standardised([1.0] * 2 + [0.0] * 6)
    deviation = math.sqrt(2 * 6 / 8 / 7)  # N - 1
    assert found == pytest.approx([0.75 / deviation] * 2 + [-0.25 / deviation] * 6)


@pytest.mark.parametrize("statuses", ["cccc", "wwww", "c", "", "co", "coe", "wntr"])
def test_a_group_of_equals_or_of_one_has_no_signal(statuses):
    assert not group(statuses).has_signal


def test_what_could_not_be_judged_changes_no_advantage_of_the_others():
    cfg = ObjectiveConfig(name="grpo")
    assert weigh_group(group("cwwoe"), cfg) == weigh_group(group("cww"), cfg)
    assert [m.sample_index for m, _ in group("ocwe").members] == [1, 2]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"name": "grpo"}, [0.75, -0.25, -0.25, -0.25]),
        ({"name": "grpo", "grpo": {"standardise": True}}, [1.5, -0.5, -0.5, -0.5]),
        ({"name": "rloo"}, [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ({"name": "rloo", "max_advantage": 0.5}, [0.5, -1 / 3, -1 / 3, -1 / 3]),
        ({"name": "reward_weighted"}, [math.exp(0.75), *[math.exp(-0.25)] * 3]),
        (
            {"name": "reward_weighted", "reward_weighted": {"temperature": 0.25}},
            [math.exp(3), *[math.exp(-1)] * 3],
        ),
    ],
)
def test_every_objective_weighs_a_group_by_its_own_formula(raw, expected):
    assert weigh_group(group("cwww"), ObjectiveConfig(**raw)) == pytest.approx(expected)


# -- pairs ---------------------------------------------------------------------------------------


def indices(pairs):
    return [(pair.chosen.sample_index, pair.rejected.sample_index) for pair in pairs]


def test_pairs_are_the_nearest_in_length_and_no_rollout_is_in_two():
    found = group("ccwwn", lengths=[100, 200, 210, 150, 90])
    assert indices(choose_pairs(found, 1)) == [(0, 4)]
    assert indices(choose_pairs(found, 9)) == [(0, 4), (1, 2)]


def test_of_pairs_as_near_the_first_samples_come_first():
    assert indices(choose_pairs(group("wcwc"), 9)) == [(1, 0), (3, 2)]


def test_a_doubted_rollout_is_on_neither_side():
    members = make_members("ccw")
    doubted = (replace(members[0], is_doubted=True), *members[1:])
    found = make_groups({"p": doubted}, RewardsConfig(doubted=0.5))[0]
    assert indices(choose_pairs(found, 9)) == [(1, 2)]


def test_a_rollout_that_left_its_group_is_in_no_pair():
    cfg = RewardsConfig(truncated=None)
    assert indices(choose_pairs(group("cto", cfg), 9)) == []


@given(st.text("cwntroe", max_size=10), st.integers(1, 5), st.randoms())
def test_pairs_hold_a_correct_and_another_rollout_each_once(statuses, most, rng):
    found = group(statuses, lengths=[rng.randrange(1, 300) for _ in statuses])
    pairs = choose_pairs(found, most)
    used = [i for pair in indices(pairs) for i in pair]
    assert len(used) == len(set(used)) and len(pairs) <= most
    assert all(pair.chosen.status is Status.CORRECT for pair in pairs)
    assert all(pair.rejected.status is not Status.CORRECT for pair in pairs)
    num_correct = statuses.count("c")
    num_other = sum(statuses.count(letter) for letter in "wntr")
    assert len(pairs) == min(most, num_correct, num_other)


# -- rounds --------------------------------------------------------------------------------------


def test_a_round_teaches_its_groups_with_signal_and_counts_the_others():
    store = Groups(
        b=make_members("cwo", "b"), a=make_members("cce", "a"), d=make_members("oeo", "d"),
        c=make_members("wwc", "c"),
    )  # fmt: skip
    lessons, signal = choose_lessons(ObjectiveConfig(name="grpo"), 1, store, 1)
    assert [(x.group, x.member.sample_index) for x in lessons] == [
        ("1/b", 0), ("1/b", 1), ("1/c", 0), ("1/c", 1), ("1/c", 2)
    ]  # fmt: skip
    assert (signal.num_groups, signal.num_with_signal, signal.num_single) == (4, 2, 1)
    assert signal.num_left == 5 and signal.share == 0.5
    assert signal.mean_reward == pytest.approx(4 / 7)


def test_a_dead_group_beside_others_changes_nothing():
    alive = {"b": make_members("cwo", "b")}
    dead = {"a": make_members("wwe", "a"), "c": make_members("ccc", "c")}
    for name in ("grpo", "rloo", "dpo", "reward_weighted"):
        cfg = ObjectiveConfig(name=name)
        first, _ = choose_lessons(cfg, 1, Groups(**alive), 1)
        assert choose_lessons(cfg, 1, Groups(**alive, **dead), 1)[0] == first != []


def test_the_two_of_a_pair_follow_each_other_in_a_group_of_their_own():
    store = Groups(p=make_members("ccww", lengths=[10, 20, 11, 21]))
    lessons, _ = choose_lessons(ObjectiveConfig(name="dpo"), 1, store, 1)
    assert [(x.member.sample_index, x.group, x.role, x.weight) for x in lessons] == [
        (0, "1/p/0", "chosen", 1.0), (2, "1/p/0", "rejected", 1.0),
        (1, "1/p/1", "chosen", 1.0), (3, "1/p/1", "rejected", 1.0),
    ]  # fmt: skip


def test_a_round_without_groups_has_a_signal_of_nothing():
    signal = measure_signal({}, [], 0)
    assert (signal.num_groups, signal.share, signal.mean_reward, signal.reward_spread) == (0,) * 4


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_on_policy_objectives_refuse_what_a_teacher_wrote(name):
    store = Groups(p=make_members("cw", weights_version=TEACHER_VERSION))
    with pytest.raises(DataError, match=r"sample 0 of problem 'p' .* written by a teacher"):
        choose_lessons(ObjectiveConfig(name=name), 1, store, 1)
    assert choose_lessons(ObjectiveConfig(name="dpo"), 1, store, 1)[0]


@pytest.mark.parametrize(
    ("options", "is_refused"),
    [
        ({}, True),
        ({"old_logprobs": "sampler"}, True),
        ({"importance": "none"}, False),
    ],
)
def test_rollouts_without_log_probabilities_are_refused_where_these_are_needed(options, is_refused):
    cfg = ObjectiveConfig(name="grpo", grpo=options)
    store = Groups(p=make_members("cw", has_logprobs=False))
    if not is_refused:
        assert choose_lessons(cfg, 1, store, 1)[0]
        return
    with pytest.raises(DataError, match="no log-probabilities stored"):
        choose_lessons(cfg, 1, store, 1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weights_version": 2}, r"sampled with weights v0002, and the fit starts from v0001"),
        ({"is_plain": False}, "sampled with top_p, top_k or a repetition_penalty"),
    ],
)
@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_on_policy_objectives_refuse_what_others_or_other_probabilities_sampled(name, fields, said):
    store = Groups(p=make_members("cw", **fields))
    with pytest.raises(DataError, match=said):
        choose_lessons(ObjectiveConfig(name=name), 1, store, 1)
    for other in ("dpo", "reward_weighted"):
        assert choose_lessons(ObjectiveConfig(name=other), 1, store, 1)[0]


@pytest.mark.parametrize("name", ["reward_weighted", "rloo", "dpo", "grpo"])
def test_a_round_that_was_begun_with_extra_rollouts_is_refused(name):
    store = Groups(p=make_members("cw", "p"), q=make_members("wwww", "q"))
    with pytest.raises(DataError, match=r"from 2 to 4 rollouts of a problem.*explore\.extra"):
        choose_lessons(ObjectiveConfig(name=name), 1, store, 1)


def test_a_group_without_a_pair_has_no_signal_for_dpo():
    rewards = {"truncated": -0.5, "doubted": 0.5}
    store = Groups(
        p=make_members("wt", "p"), q=make_members("cw", "q", is_doubted=True),
        r=make_members("cw", "r"),
    )  # fmt: skip
    for name, num in (("dpo", 1), ("grpo", 3)):
        lessons, signal = choose_lessons(ObjectiveConfig(name=name, rewards=rewards), 1, store, 1)
        assert (signal.num_with_signal, len(lessons)) == (num, 2 * num)


def test_no_rollout_of_a_reward_weighted_round_outweighs_all_others():
    raw = {"rewards": {"correct": 1e4}, "max_advantage": 1e4}
    cfg = ObjectiveConfig(name="reward_weighted", **raw)
    assert weigh_group(group("cwww"), cfg)[0] == pytest.approx(math.exp(0.75))
    best, *_ = weigh_group(group("cwww", cfg.rewards), cfg)
    assert best == pytest.approx(math.exp(20))
