"""Placement arithmetic and refusals, without a cluster; one CPU placement on a real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from virgo_ray.actors import placement, seats
from virgo_ray.actors.memory import GIB, host_memory
from virgo_ray.actors.placement import check_feasible, demand, make_placement, settle_gpus
from virgo_ray.actors.seats import Device, Seat, in_order, take_neighbours
from virgo_ray.config import Config, derive_gpus, load_config
from virgo_ray.errors import ConfigError, PlacementError
from virgo_ray.node import packages
from virgo_ray.node.driver import Driver

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


def test_engines_that_need_more_memory_than_there_is_are_refused() -> None:
    fifteen = config("rollout.num_workers=15")
    with pytest.raises(PlacementError, match=r"kv_cache_gib") as caught:
        check_feasible(fifteen, {"CPU": 2.0, "memory": 16.0 * GIB})
    lines = [line.split() for line in str(caught.value).splitlines()]
    assert ["memory", "18.3", "GiB", "16.0", "GiB"] in lines
    check_feasible(fifteen, {"CPU": 2.0, "memory": 32.0 * GIB})
    check_feasible(config(), {"CPU": 2.0, "memory": 6.0 * GIB})


def test_memory_that_is_likely_to_be_short_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_feasible(config("rollout.num_workers=15"), {"CPU": 2.0, "memory": 20.0 * GIB})
    assert "may need more memory than the cluster has: about 24.2 GiB, 20.0 GiB" in caplog.text


def test_weights_and_states_of_a_training_count(tmp_path: Path) -> None:
    save_file({"w": np.zeros((1024, 1024), np.float16)}, tmp_path / "model.safetensors")
    shards = tmp_path / "model-2.safetensors"
    shards.write_bytes((tmp_path / "model.safetensors").read_bytes())
    model = (f"model.path={tmp_path}", "model.dtype=bfloat16", "train.num_workers=1")
    big, tiny = host_memory(config(*model)), host_memory(config(*model, f"model.path={CONFIGS}"))
    assert big.least - tiny.least == pytest.approx(3 * 2 * 2**21 / GIB)
    assert big.likely - tiny.likely == pytest.approx((3 * 2 + 16) * 2**21 / GIB)
    (tmp_path / "torn.safetensors").write_bytes(b"123")
    with pytest.raises(ConfigError, match=r"torn\.safetensors"):
        host_memory(config(*model))


def test_actors_with_gpus_need_no_counted_memory() -> None:
    assert host_memory(gpu_config("colocated", 8, 1, 8)).least < 1


def test_a_cluster_that_adds_nodes_is_asked_and_not_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = gpu_config("disaggregated", 2, 4, 8)
    scaling = cfg.placement.model_copy(update={"autoscaling": True})
    check_feasible(cfg.model_copy(update={"placement": scaling}), {"CPU": 1.0})
    assert "asked for more nodes" in caplog.text and "GPU" in caplog.text
    with pytest.raises(PlacementError, match=r"placement\.autoscaling=true"):
        check_feasible(cfg, {"CPU": 1.0})


@pytest.mark.parametrize("name", ["single_node.yaml", "grpo_single_node.yaml", "iterative.yaml"])
def test_the_shipped_gpu_configs_fit_what_they_ask_for(name: str) -> None:
    cfg = derive_gpus(load_config(str(CONFIGS / name), ["run_dir=/tmp/never"]), 64)
    asked = demand(cfg)
    assert asked.gpus == cfg.train.num_workers and asked.is_shared
    check_feasible(cfg, {"GPU": asked.gpus, "CPU": asked.cpus})


@pytest.mark.parametrize(
    ("is_cpu", "said", "num_gpus", "expected"),
    [
        (True, [], 0, (0, 0)),
        (True, [], 8, (0, 0)),
        (False, [], 8, (1, 1)),
        (False, ["rollout.gpus_per_worker=4"], 8, (4, 1)),
        (False, ["rollout.gpus_per_worker=4"], 0, (4, 1)),
        (True, ["rollout.gpus_per_worker=1"], 8, "runs on the CPU only"),
        (False, ["rollout.gpus_per_worker=0"], 8, "runs on GPUs only"),
        (False, [], 0, r"=None, 0 GPUs in the cluster\), and .* GPUs only"),
    ],
)
def test_actors_get_gpus_where_cluster_and_packages_have_them(
    monkeypatch: pytest.MonkeyPatch,
    is_cpu: bool,
    said: list[str],
    num_gpus: int,
    expected: tuple[int, int] | str,
) -> None:
    monkeypatch.setattr(placement, "has_cpu_packages", lambda: is_cpu)
    monkeypatch.setattr(placement, "has_engine_packages", lambda: True)
    if isinstance(expected, str):
        with pytest.raises(PlacementError, match=expected):
            settle_gpus(config(*said), {"GPU": num_gpus})
        return
    placed = settle_gpus(config(*said), {"GPU": num_gpus})
    assert (placed.rollout.gpus_per_worker, placed.train.gpus_per_worker) == expected


def test_without_any_engine_it_is_said_that_none_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "_version", lambda name: "")
    with pytest.raises(PlacementError, match=r"no vllm is installed.*--cpu"):
        settle_gpus(config(), {})


def devices(*nodes: str) -> list[Device]:
    return [Device(node, gpu=str(i), bundle=i) for i, node in enumerate(nodes)]


def gpus(groups: list[list[Device]]) -> list[list[int]]:
    return [[int(device.gpu) for device in group] for group in groups]


def test_an_actor_over_several_gpus_sees_neighbours_of_one_node() -> None:
    groups, left = take_neighbours(devices("a", "a", "b", "b"), 2, 2)
    seats = [Seat(None, 0.1, 0, group).options for group in groups]
    assert [visible_gpus(seat) for seat in seats] == ["0,1", "2,3"] and left == []
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
    """One CPU, and two GPUs whose names the node was given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f3a,MIG-12cd")
        ray.init(
            address="local", num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False,
            object_store_memory=100 * 1024**2,
        )  # fmt: skip
    yield
    ray.shutdown()


def test_a_seat_names_its_gpu_as_the_node_does_and_can_ask_anew_beside_its_actors(
    cluster: None,
) -> None:
    placed = make_placement(gpu_config("colocated", 2, 1, 2))
    seats = [placed.rollout_seat(i) for i in range(2)]
    names = [visible_gpus(seat.options) for seat in seats]
    assert sorted(names) == ["GPU-8f3a", "MIG-12cd"]

    class Holder:  # local, so that Ray sends it to processes that cannot import this file
        def sees(self) -> str:
            return os.environ["CUDA_VISIBLE_DEVICES"]

    # Both actors of a bundle hold their share while another asks which GPU it is.
    options = [seats[0].options, placed.trainer_options(0)]
    holders = [ray.remote(**each)(Holder).remote() for each in options]
    assert ray.get([h.sees.remote() for h in holders], timeout=60) == [names[0], names[0]]
    answers = ray.get(seats[0].ask(), timeout=60)
    seats[0].settle(answers)
    assert visible_gpus(seats[0].options) == names[0]
    assert visible_gpus(placed.trainer_options(0)) == names[0]  # asked again
    placed.release()


def visible_gpus(options: dict[str, Any]) -> str:
    return options["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"]


def test_a_seat_takes_the_gpus_of_its_new_node_and_refuses_two_nodes() -> None:
    seat = Seat(None, 0.1, 0, devices("a", "a"))
    seat.settle([("b", "4"), ("b", "5")])
    assert visible_gpus(seat.options) == "4,5"
    with pytest.raises(PlacementError, match=r"on several nodes \(1 on b, 1 on c\)"):
        seat.settle([("b", "4"), ("c", "0")])


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


def test_a_node_whose_driver_is_too_old_is_refused_by_its_name(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seats.refuse_old_driver("a")  # no driver here: nothing is known, nothing refused
    monkeypatch.setattr(seats, "read_driver", lambda: Driver("570.86.15", 12080))
    with pytest.raises(PlacementError, match=r"node a: NVIDIA driver 570\.86\.15 .* 580 or later"):
        seats.refuse_old_driver("a")

    def refuse() -> None:
        raise PlacementError("node a: too old")

    asked = [ray.remote(num_cpus=0)(refuse).remote()]
    monkeypatch.setattr(placement, "ask_bundles", lambda group, bundles: asked)
    with pytest.raises(PlacementError) as error:
        make_placement(gpu_config("colocated", 1, 1, 1))
    assert str(error.value) == "node a: too old"
