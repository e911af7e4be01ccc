"""Placement arithmetic and refusals, without a cluster; one CPU placement on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from virgo_ray.actors import placement
from virgo_ray.actors.placement import Device, check_feasible, demand, make_placement
from virgo_ray.config import Config, load_config
from virgo_ray.errors import PlacementError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def config(*overrides: str) -> Config:
    return load_config(str(CONFIGS / "tiny.yaml"), overrides)


def gpu_config(mode: str, engines: int, per_engine: int, ranks: int) -> Config:
    return config(
        f"placement.mode={mode}", f"rollout.num_workers={engines}",
        f"rollout.gpus_per_worker={per_engine}", f"train.num_workers={ranks}",
        "train.gpus_per_worker=1", f"train.batch_size={ranks}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "engines", "per_engine", "ranks", "gpus", "offset"),
    [
        ("colocated", 8, 1, 8, 8, 0),
        ("colocated", 2, 4, 4, 8, 0),
        ("colocated", 1, 1, 8, 8, 0),
        ("disaggregated", 2, 4, 8, 16, 8),
        ("disaggregated", 8, 1, 8, 16, 8),
    ],
)
def test_colocated_takes_the_larger_number_of_gpus_and_disaggregated_the_sum(
    mode: str, engines: int, per_engine: int, ranks: int, gpus: int, offset: int
) -> None:
    asked = demand(gpu_config(mode, engines, per_engine, ranks))
    assert (asked.gpus, asked.trainer_offset, asked.cpu_actors) == (gpus, offset, 0)


def test_on_cpu_every_actor_claims_its_fraction() -> None:
    asked = demand(config("placement.cpus_per_worker=0.25", "verify.num_workers=3"))
    assert (asked.gpus, asked.cpu_actors) == (0, 4)
    assert asked.cpus == pytest.approx(0.25 * (2 + 2 + 3))


@pytest.mark.parametrize("mode", ["colocated", "disaggregated"])
def test_without_a_trainer_only_engines_and_verifiers_count(mode: str) -> None:
    asked = demand(gpu_config(mode, 2, 4, 16), has_trainer=False)
    assert (asked.gpus, asked.cpu_actors, asked.verifiers) == (8, 0, 2)
    check_feasible(gpu_config(mode, 2, 4, 16), {"GPU": 8, "CPU": 4}, has_trainer=False)
    assert demand(config("rollout.num_workers=3"), has_trainer=False).cpu_actors == 3


def test_what_does_not_fit_is_refused_with_a_table() -> None:
    cfg = gpu_config("disaggregated", 2, 4, 8)
    with pytest.raises(PlacementError) as caught:
        check_feasible(cfg, {"GPU": 8.0, "CPU": 64.0})
    lines = [line.split() for line in str(caught.value).splitlines()]
    assert ["resource", "asked", "available"] in lines
    assert ["GPU", "16", "8"] in lines


def test_missing_cpus_are_refused_too() -> None:
    with pytest.raises(PlacementError, match="CPU"):
        check_feasible(config("placement.cpus_per_worker=4"), {"CPU": 2.0})
    check_feasible(config(), {"CPU": 2.0})


@pytest.mark.parametrize("name", ["single_node.yaml", "iterative.yaml"])
def test_the_shipped_gpu_configs_fit_what_they_ask_for(name: str) -> None:
    cfg = load_config(str(CONFIGS / name), ["run_dir=/tmp/never"])
    asked = demand(cfg)
    assert asked.gpus > 0
    check_feasible(cfg, {"GPU": asked.gpus, "CPU": asked.cpus})


def devices(*nodes: str) -> list[Device]:
    return [Device(node, gpu=i, bundle=i) for i, node in enumerate(nodes)]


def test_an_engine_over_several_gpus_sees_neighbours_of_one_node() -> None:
    asked = demand(gpu_config("colocated", 2, 2, 4))
    seats = placement._gpu_seats(None, asked, 2, devices("a", "a", "b", "b"))
    visible = [s["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"] for s in seats]
    assert visible == ["0,1", "2,3"]
    assert [s["scheduling_strategy"].placement_group_bundle_index for s in seats] == [0, 2]


def test_an_engine_that_would_span_nodes_is_refused() -> None:
    asked = demand(gpu_config("colocated", 2, 2, 4))
    with pytest.raises(PlacementError, match="on one node"):
        placement._gpu_seats(None, asked, 2, devices("a", "b", "b", "b"))


@given(engines=st.integers(1, 4), per=st.sampled_from([1, 2, 4]), ranks=st.integers(1, 8))
def test_disaggregated_engines_and_trainers_never_share_a_gpu(
    engines: int, per: int, ranks: int
) -> None:
    asked = demand(gpu_config("disaggregated", engines, per, ranks))
    node = [Device("a", i, i) for i in range(asked.gpus)]

    def gpus(seats: list[dict]) -> list[str]:
        visible = [s["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"] for s in seats]
        return [gpu for v in visible for gpu in v.split(",")]

    rollout = gpus(placement._gpu_seats(None, asked, per, node)[:engines])
    trainer = gpus(placement._gpu_seats(None, asked, 1, node[asked.trainer_offset :])[:ranks])
    assert len(rollout) == engines * per and len(trainer) == ranks
    assert len({*rollout, *trainer}) == len(rollout) + len(trainer)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
        object_store_memory=100 * 1024**2,
    )  # fmt: skip
    yield
    ray.shutdown()


def test_a_cpu_placement_gives_every_actor_a_bundle_and_gives_them_back(cluster: None) -> None:
    placed = make_placement(config("placement.cpus_per_worker=0.2"))
    seats = [placed.rollout_options(i) for i in range(2)] + [
        placed.trainer_options(i) for i in range(2)
    ]
    bundles = [s["scheduling_strategy"].placement_group_bundle_index for s in seats]
    assert sorted(bundles) == [0, 1, 2, 3]
    assert placed.verifier_options()["num_cpus"] == 0.2
    assert ray.available_resources()["CPU"] == pytest.approx(0.2)
    placed.release()


def test_a_busy_cluster_is_waited_for_and_then_named(cluster: None) -> None:
    cfg = config("placement.cpus_per_worker=0.3", "placement.deadline_s=0.5")
    with pytest.raises(PlacementError, match=r"placement\.deadline_s=0\.5"):
        make_placement(cfg)
