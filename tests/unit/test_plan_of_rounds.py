"""What a plan says of pushes, resident trainers and objectives that learn from groups."""

from pathlib import Path

import pytest

from virgo_ray.actors.rollouts.choice import Situation, choose_transport
from virgo_ray.config import load_config
from virgo_ray.config.gpus import derive_gpus
from virgo_ray.doctor.cluster import way_of_weights
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.plan.cards import CARDS
from virgo_ray.plan.host import WAITING
from virgo_ray.plan.seats import find_nodes, find_seats
from virgo_ray.plan.whole import Machine, plan_run
from virgo_ray.plan.work import assume_material
from virgo_ray.train.shape import read_shape

CONFIGS = Path(__file__).parents[2] / "configs"
RESIDENT = ("train.resident=true", "train.restart_from=previous", "train.zero_stage=2")


def plan_of(*overrides, gpus=8):
    path = str(CONFIGS / "single_node.yaml")
    overrides = (f"model.path={TINY_DIRECTORY}", *overrides)
    cfg = derive_gpus(load_config(path, list(overrides)), 1)
    shape = read_shape(str(TINY_DIRECTORY), cfg)
    seats = find_seats(cfg, find_nodes(cfg, gpus, None))
    material = assume_material(cfg, shape, None)
    return cfg, plan_run(cfg, shape, TINY_DIRECTORY, Machine(CARDS["h100"], None), seats, material)


@pytest.mark.parametrize(
    "overrides, transport",
    [
        ((), "ipc"),
        (("rollout.num_workers=16", "train.num_workers=16"), "broadcast"),
        (("push.transport=disk",), "disk"),
        (("train.lora.rank=8", "train.freeze_connector=true"), "adapter"),
        (("train.num_workers=4",), "broadcast"),
    ],
)
def test_the_plan_names_the_way_that_a_push_would_take(overrides, transport):
    cfg, plan = plan_of(*overrides)
    chosen = choose_transport(cfg, Situation(plan.seats.nodes.num))
    assert (plan.push.transport, plan.push.why) == (chosen.transport, chosen.why)
    assert plan.push.transport == transport
    buckets = next(phase for phase in plan.gpu_phases if phase.name == "push: buckets")
    is_streamed = transport in ("ipc", "broadcast")
    assert (buckets.ranks > 0, buckets.engines > plan.engine.weights) == (is_streamed,) * 2
    assert transport in way_of_weights(cfg, plan.seats.nodes.num)


def test_a_resident_trainer_waits_in_host_memory_where_it_can_be_moved():
    def waiting(*overrides):
        _, plan = plan_of(*overrides)
        return plan.shape, sum(item.bytes for item in plan.host if item.name == WAITING)

    shape, moved = waiting(*RESIDENT)
    each = 2 * shape.held + 12 * -(-shape.trained // 8)
    assert moved == 8 * each
    assert waiting(*RESIDENT[:2], "train.zero_stage=3")[1] == 0
    assert waiting(*RESIDENT, "placement.mode=disaggregated")[1] == 0
    assert waiting(RESIDENT[2])[1] == 0


def phases(*overrides):
    cfg, plan = plan_of("train.restart_from=previous", *overrides)
    return cfg, plan, {phase.name: phase for phase in plan.phases}


def test_all_rollouts_of_a_group_are_trained_on_once():
    sampling = ("explore.num_problems=64", "explore.num_samples=8", "explore.sampling.top_p=1")
    seeds = ("train.seed_share=0", "train.seed_floor=0")
    sampler = "train.objective.grpo.old_logprobs=sampler"
    grpo = ("train.objective=grpo", sampler, *sampling, *seeds)
    _, _, by_name = phases(*grpo)
    fit = by_name["fit of a later round, at most"]
    assert fit.num == 64 * 8
    assert "log-probabilities of the start" not in by_name
    _, _, by_name = phases(*grpo, "train.objective.grpo.kl=0.01")
    reference = by_name["log-probabilities of the start"]
    assert reference.tokens == by_name["fit of a later round, at most"].tokens == fit.tokens
    assert 0 < reference.hours < by_name["fit of a later round, at most"].hours / 2
    dpo = ("train.objective=dpo", "train.objective.dpo.pairs_per_problem=1", "train.num_epochs=1")
    _, _, by_name = phases(*dpo, *sampling, *seeds)
    assert by_name["fit of a later round, at most"].num == 64 * 2


@pytest.mark.parametrize(
    "overrides, num",
    [((), 12), (("evaluate.every=4",), 5), (("evaluate.every=4", "seed_round=false"), 4)],
)
def test_only_rounds_that_are_due_are_evaluated(overrides, num):
    """The base, and of rounds 0 to 10 with every=4: 0, 4, 8 and 10."""
    _, _, by_name = phases("rounds=10", *overrides)
    assert by_name["evaluate"].times == num
