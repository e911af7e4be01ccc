"""The shipped configs of reinforcement, and the controls whose rewards say nothing."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from virgo_ray.config import RewardsConfig, find_contradictions, load_config
from virgo_ray.data.ingest import survey
from virgo_ray.model.prompts import Prompter
from virgo_ray.selection.advantages import make_groups

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from control_rewards import control, flipped, shuffled  # noqa: E402
from group_parts import make_members  # noqa: E402


def groups_of(*statuses):
    named = {f"p{n}": make_members(s, problem=f"p{n}") for n, s in enumerate(statuses)}
    return make_groups(named, RewardsConfig())


def test_flipped_rewards_are_the_opposite_where_there_is_signal():
    mixed, dead = control(groups_of("cwwo", "ccc"), flipped)
    assert mixed.rewards == (0.0, 1.0, 1.0) and dead.rewards == (1.0, 1.0, 1.0)


def test_shuffled_rewards_stay_in_their_group_and_say_nothing_of_it():
    groups = groups_of(*["ccwwwwww"] * 200)
    given = control(groups, shuffled)
    assert given == control(groups, shuffled)
    assert all(Counter(g.rewards) == {1.0: 2, 0.0: 6} for g in given)
    assert [m for g in given for m, _ in g.members] == [m for g in groups for m, _ in g.members]
    first = sum(g.rewards[0] for g in given)  # 50 expected; its standard deviation is 6
    assert 25 < first < 75


@pytest.mark.parametrize("name", ["tiny_grpo", "tiny_dpo", "grpo_single_node"])
def test_a_config_of_reinforcement_contradicts_nothing_and_learns_from_groups_alone(name):
    cfg = load_config(str(ROOT / f"configs/{name}.yaml"))
    assert find_contradictions(cfg) == [] and cfg.train.objective.is_reinforcement
    assert not cfg.seed_round and cfg.train.seed_share == cfg.train.seed_floor == 0
    assert cfg.train.carry_optimizer and cfg.train.schedule == "constant"


def test_the_longer_puzzles_have_room_for_a_whole_response():
    small = [f"data.{name}.num=8" for name in ("train", "heldout", "seed_thoughts")]
    cfg = load_config(str(ROOT / "configs/tiny_grpo.yaml"), ["model.path=tiny", *small])
    longest = max(survey(cfg, Prompter(cfg.model, cfg.prompt)).num_tokens["train"])
    assert longest + cfg.explore.sampling.max_tokens <= cfg.model.max_length
