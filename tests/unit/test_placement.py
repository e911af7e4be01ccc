"""Placement arithmetic and refusals, without a cluster; one CPU placement on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from virgo_ray.actors.placement import check_feasible, demand, make_placement
from virgo_ray.actors.seats import Device, Seat, in_order, take_neighbours
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
    ("mode", "engines", "per_engine", "ranks", "gpus"),
    [
        ("colocated", 8, 1, 8, 8),
        ("colocated", 2, 4, 4, 8),
        ("colocated", 1, 1, 8, 8),
        ("disaggregated", 2, 4, 8, 16),
        ("disaggregated", 8, 1, 8, 16),
    ],
)
def test_colocated_takes_the_larger_number_of_gpus_and_disaggregated_the_sum(
    mode: str, engines: int, per_engine: int, ranks: int, gpus: int
) -> None:
    asked = demand(gpu_config(mode, engines, per_engine, ranks))
    assert (asked.gpus, asked.is_shared, asked.cpu_actors) == (gpus, mode == "colocated", 0)


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
    return [Device(node, gpu=str(i), bundle=i) for i, node in enumerate(nodes)]


def gpus(groups: list[list[Device]]) -> list[list[int]]:
    return [[int(device.gpu) for device in group] for group in groups]


def test_an_actor_over_several_gpus_sees_neighbours_of_one_node() -> None:
    groups, left = take_neighbours(devices("a", "a", "b", "b"), 2, 2)
    seats = [Seat(None, 0.1, 0, group).options for group in groups]
    visible = [s["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"] for s in seats]
    assert visible == ["0,1", "2,3"] and left == []
    assert [s["scheduling_strategy"].placement_group_bundle_index for s in seats] == [0, 2]


def test_an_engine_that_would_span_nodes_is_refused() -> None:
    with pytest.raises(PlacementError, match=r"on one node; room for 1 .*1 on a, 3 on b"):
        take_neighbours(devices("a", "b", "b", "b"), 2, 2)


def test_engines_find_room_where_nodes_have_odd_numbers_of_free_gpus() -> None:
    granted = in_order(devices("a", "a", *"bbbbbb", *"cccccc"))
    engines, left = take_neighbours(granted, 2, 4)
    assert gpus(engines) == [[2, 3, 4, 5], [8, 9, 10, 11]]
    assert [int(device.gpu) for device in left] == [6, 7, 12, 13, 0, 1]


@given(
    nodes=st.lists(st.sampled_from("abc"), min_size=1, max_size=24),
    num=st.integers(0, 4),
    size=st.sampled_from([0, 1, 2, 4]),
)
def test_no_gpu_is_given_twice_and_none_is_lost(nodes: list[str], num: int, size: int) -> None:
    granted = in_order(devices(*nodes))
    room = sum(nodes.count(node) // size for node in set(nodes)) if size else 0
    if size and room < num:
        with pytest.raises(PlacementError):
            take_neighbours(granted, num, size)
        return
    groups, left = take_neighbours(granted, num, size)
    assert len(groups) == (num if size else 0)
    assert all(len(group) == size and len({d.node for d in group}) == 1 for group in groups)
    assert sorted(d.bundle for d in [*left, *(d for g in groups for d in g)]) == sorted(
        d.bundle for d in granted
    )


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
    seats = [placed.rollout_seat(i).options for i in range(2)] + [
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
