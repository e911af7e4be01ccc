"""Where every actor runs: one placement group, checked before it is made and waited for in time.

Guarantees that what does not fit is refused at once, with a table of asked and available; that
rollout workers and trainer ranks never wait for each other's resources; and that an actor sees
exactly its own GPUs. The GPUs of one engine are neighbours on one node, whatever is free there.
Colocated, a GPU belongs to an engine and to a trainer rank; disaggregated, engines choose first and
trainer ranks get what they leave. Does not know who sleeps while the other works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from virgo_ray.config import Config
from virgo_ray.errors import PlacementError

Options = dict[str, Any]  # keyword arguments of `ray.remote`

# Ray's share of a GPU that an actor claims inside its bundle. It only has to leave room for the
# second actor of a colocated bundle: which devices an actor sees is set by CUDA_VISIBLE_DEVICES.
GPU_SHARE = 0.4
MIN_CPUS = 0.001  # a bundle must hold something, even with placement.cpus_per_worker=0
ACTORS_PER_GPU = 2  # an engine and a trainer rank


@dataclass(frozen=True)
class Demand:
    """What a config asks of a cluster, in GPUs and Ray CPUs."""

    gpus: int
    is_shared: bool  # engines and trainer ranks have the same GPUs
    gpu_cpus: float  # CPUs of each GPU's bundle
    cpu_actors: int  # rollout workers and trainer ranks without a GPU
    actor_cpus: float
    verifiers: int

    @property
    def cpus(self) -> float:
        without_gpu = self.cpu_actors + self.verifiers
        return self.gpus * self.gpu_cpus + without_gpu * self.actor_cpus


@dataclass(frozen=True)
class Device:
    """A bundle's GPU: the node it is on, its id there, and the bundle's index."""

    node: str
    gpu: int
    bundle: int


class Placement:
    """Options with which `ray.remote` puts each actor in its place. Made by `make_placement`."""

    def __init__(
        self,
        group: PlacementGroup,
        rollout: list[Options],
        trainer: list[Options],
        verifier: Options,
    ) -> None:
        self._group = group
        self._rollout = rollout
        self._trainer = trainer
        self._verifier = verifier

    def rollout_options(self, worker: int) -> Options:
        return dict(self._rollout[worker])

    def trainer_options(self, rank: int) -> Options:
        return dict(self._trainer[rank])

    def verifier_options(self) -> Options:
        """The same for all: anywhere in the cluster."""
        return dict(self._verifier)

    def release(self) -> None:
        """Give the resources back; ends actors that still use them."""
        remove_placement_group(self._group)


def demand(cfg: Config, has_trainer: bool = True) -> Demand:
    """Count what `cfg` asks for; without a trainer, engines and verifiers alone.

    Colocated engines and trainers share GPUs (the larger number counts), disaggregated ones do not
    (the sum counts).
    """
    num_ranks = cfg.train.num_workers if has_trainer else 0
    rollout_gpus = cfg.rollout.num_workers * cfg.rollout.gpus_per_worker
    trainer_gpus = num_ranks * cfg.train.gpus_per_worker
    is_shared = cfg.placement.mode == "colocated"
    cpu_actors = (0 if rollout_gpus else cfg.rollout.num_workers) + (
        0 if trainer_gpus else num_ranks
    )
    actor_cpus = max(cfg.placement.cpus_per_worker, MIN_CPUS)
    return Demand(
        gpus=max(rollout_gpus, trainer_gpus) if is_shared else rollout_gpus + trainer_gpus,
        is_shared=is_shared,
        gpu_cpus=ACTORS_PER_GPU * actor_cpus,
        cpu_actors=cpu_actors,
        actor_cpus=actor_cpus,
        verifiers=cfg.verify.num_workers,
    )


def check_feasible(cfg: Config, resources: Mapping[str, float], has_trainer: bool = True) -> None:
    """Compare `cfg` with `ray.cluster_resources()`.

    Raises:
        PlacementError: not enough; the message holds the table.
    """
    asked = demand(cfg, has_trainer)
    if asked.gpus > resources.get("GPU", 0) or asked.cpus > resources.get("CPU", 0):
        raise PlacementError(
            f"the cluster is too small for this config ({cfg.placement.mode}):\n"
            f"{_table(asked, resources)}\n"
            "lower rollout.num_workers, train.num_workers or their gpus_per_worker, set "
            "placement.mode=colocated so that they share GPUs, or add nodes"
        )


def make_placement(cfg: Config, has_trainer: bool = True) -> Placement:
    """Reserve everything at once; without a trainer there are no options for its ranks.

    Raises:
        PlacementError: not granted within `placement.deadline_s`, or an engine's GPUs are not all
            on one node.
    """
    asked = demand(cfg, has_trainer)
    group = placement_group(_bundles(asked), strategy="PACK")
    try:
        if not group.wait(cfg.placement.deadline_s):
            raise PlacementError(
                f"the cluster did not grant this config's resources within "
                f"placement.deadline_s={cfg.placement.deadline_s:g}:\n"
                f"{_table(asked, ray.available_resources())}\n"
                "wait until other jobs have ended, or stop them (`ray status` shows who holds what)"
            )
        devices = _devices(group, asked.gpus, cfg.placement.deadline_s)
        cpu_seats = [_cpu_seat(group, asked, i) for i in range(asked.cpu_actors)]
        engines, left = take_neighbours(
            devices, cfg.rollout.num_workers, cfg.rollout.gpus_per_worker
        )
        num_ranks = cfg.train.num_workers if has_trainer else 0
        ranks, _ = take_neighbours(
            devices if asked.is_shared else left, num_ranks, cfg.train.gpus_per_worker
        )
        rollout = [_gpu_seat(group, asked, own) for own in engines]
        trainer = [_gpu_seat(group, asked, own) for own in ranks]
    except BaseException:
        remove_placement_group(group)
        raise
    num_rollout = cfg.rollout.num_workers
    rollout = rollout or [cpu_seats.pop(0) for _ in range(num_rollout)]
    verifier = {"num_cpus": asked.actor_cpus, "scheduling_strategy": "SPREAD"}
    return Placement(group, rollout, trainer or cpu_seats, verifier)


def _bundles(asked: Demand) -> list[dict[str, float]]:
    """One per GPU, then one per actor without a GPU. Verifiers stay outside the group."""
    with_gpu = {"GPU": 1.0, "CPU": asked.gpu_cpus}
    without = {"CPU": asked.actor_cpus}
    return [*([with_gpu] * asked.gpus), *([without] * asked.cpu_actors)]


def _devices(group: PlacementGroup, num_gpus: int, deadline_s: float) -> list[Device]:
    """Ask every bundle for its GPU; sorted, so that neighbours share a node."""
    refs = [
        _which_gpu.options(scheduling_strategy=_strategy(group, bundle)).remote()
        for bundle in range(num_gpus)
    ]
    try:
        found = ray.get(refs, timeout=deadline_s)
    except ray.exceptions.GetTimeoutError as error:
        raise PlacementError(
            f"{num_gpus} GPU bundles were granted but not all answered within "
            f"placement.deadline_s={deadline_s:g}; look for a sick node with `ray status`"
        ) from error
    return in_order([Device(node, gpu, bundle) for bundle, (node, gpu) in enumerate(found)])


def in_order(devices: Sequence[Device]) -> list[Device]:
    """Neighbours beside each other; nodes with most of the granted GPUs first, so that engines
    over several find room before ranks of one GPU are seated."""
    sizes = Counter(device.node for device in devices)
    return sorted(devices, key=lambda d: (-sizes[d.node], d.node, d.gpu))


def take_neighbours(
    devices: Sequence[Device], num_actors: int, gpus_per_actor: int
) -> tuple[list[list[Device]], list[Device]]:
    """The GPUs of each of `num_actors`, and those that are left; no groups for actors without.

    >>> devices = [Device("a", 0, 0), Device("b", 0, 1), Device("b", 1, 2)]
    >>> engines, left = take_neighbours(devices, 1, 2)
    >>> [[device.bundle for device in own] for own in engines], [device.bundle for device in left]
    ([[1, 2]], [0])

    Raises:
        PlacementError: an actor's GPUs would not all be on one node.
    """
    if not gpus_per_actor:
        return [], list(devices)
    groups: list[list[Device]] = []
    for _, on_node in groupby(devices, key=lambda d: d.node):
        own = list(on_node)
        starts = range(0, len(own) - gpus_per_actor + 1, gpus_per_actor)
        groups += [own[i : i + gpus_per_actor] for i in starts]
    if len(groups) < num_actors:
        sizes = Counter(device.node for device in devices)
        granted = ", ".join(f"{num} on {node[:8]}" for node, num in sizes.items())
        raise PlacementError(
            f"{num_actors} actors with {gpus_per_actor} GPUs each were asked for, expected all "
            f"GPUs of an actor on one node; room for {len(groups)} was granted ({granted}): choose "
            "gpus_per_worker so that it divides the GPUs of every node"
        )
    taken = {device.bundle for group in groups[:num_actors] for device in group}
    return groups[:num_actors], [d for d in devices if d.bundle not in taken]


@ray.remote(num_cpus=0, num_gpus=1)
def _which_gpu() -> tuple[str, int]:
    context = ray.get_runtime_context()
    return context.get_node_id(), int(context.get_accelerator_ids()["GPU"][0])


def _gpu_seat(group: PlacementGroup, asked: Demand, devices: Sequence[Device]) -> Options:
    visible = ",".join(str(d.gpu) for d in devices)
    return {
        "num_cpus": asked.actor_cpus,
        "num_gpus": GPU_SHARE,
        "scheduling_strategy": _strategy(group, devices[0].bundle),
        "runtime_env": {
            "env_vars": {
                "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
                "CUDA_VISIBLE_DEVICES": visible,
            }
        },
    }


def _cpu_seat(group: PlacementGroup, asked: Demand, index: int) -> Options:
    return {
        "num_cpus": asked.actor_cpus,
        "num_gpus": 0,
        "scheduling_strategy": _strategy(group, asked.gpus + index),
    }


def _strategy(group: PlacementGroup, bundle: int) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)


def _table(asked: Demand, available: Mapping[str, float]) -> str:
    rows = [("resource", "asked", "available")]
    for name, number in (("GPU", asked.gpus), ("CPU", asked.cpus)):
        rows.append((name, f"{number:g}", f"{available.get(name, 0):g}"))
    return "\n".join(f"  {name:<10}{asked_:>10}{has:>12}" for name, asked_, has in rows)
