"""Where one actor runs: its bundles of the placement group, and the GPUs that they stand for.

Guarantees that an actor sees exactly its own GPUs, also after Ray has moved its bundles to another
node: whoever makes a new actor for a seat asks the bundles for their GPUs anew. The name of a GPU
is what CUDA_VISIBLE_DEVICES takes: a number, or GPU-... or MIG-... where the node is set up with
those. Does not know what the actor does, nor why there is a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from virgo_ray.errors import PlacementError
from virgo_ray.node.driver import Fitness, judge_driver, read_driver

Options = dict[str, Any]  # keyword arguments of `ray.remote`

# Ray's share of a GPU that an actor claims inside its bundle. It only has to leave room for the
# second actor of a colocated bundle: which devices an actor sees is set by CUDA_VISIBLE_DEVICES.
GPU_SHARE = 0.4
# What asking for a bundle's GPU claims: it must fit beside two actors that already hold their share
# of it, or it would wait for them for ever.
ASKING_SHARE = 0.01


@dataclass(frozen=True)
class Device:
    """A bundle's GPU: the node it is on, its name there, and the bundle's index."""

    node: str
    gpu: str
    bundle: int


class Seat:
    """The place of one actor in a placement group.

    `options` are up to date as long as no node was lost. For a new actor: `ask()`, wait, and give
    the answers to `settle`.
    """

    def __init__(
        self, group: PlacementGroup, cpus: float, bundle: int, devices: Sequence[Device] = ()
    ) -> None:
        """Without `devices` the actor has no GPU and sits in `bundle`."""
        self._group = group
        self._cpus = cpus
        self._bundles = tuple(device.bundle for device in devices) or (bundle,)
        self._gpus = tuple(device.gpu for device in devices)

    @property
    def options(self) -> Options:
        """With which `ray.remote` puts an actor here."""
        here = {
            "num_cpus": self._cpus,
            "scheduling_strategy": in_bundle(self._group, self._bundles[0]),
        }
        if not self._gpus:
            return {**here, "num_gpus": 0}
        variables = {
            "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
            "CUDA_VISIBLE_DEVICES": ",".join(self._gpus),
        }
        return {**here, "num_gpus": GPU_SHARE, "runtime_env": {"env_vars": variables}}

    def ask(self) -> list[ray.ObjectRef]:
        """Calls that return (node, name of the GPU) of each bundle; none for a seat without GPU.

        They end once the bundles have a node, which after a loss is when another one has room.
        """
        return ask_bundles(self._group, self._bundles) if self._gpus else []

    def settle(self, answers: Sequence[tuple[str, str]]) -> None:
        """Take note of what the calls of `ask` returned.

        Raises:
            PlacementError: the GPUs are not all on one node.
        """
        nodes = Counter(node for node, _ in answers)
        if len(nodes) > 1:
            granted = ", ".join(f"{num} on {node[:8]}" for node, num in nodes.items())
            raise PlacementError(
                f"{len(answers)} GPUs of one engine were granted on several nodes ({granted}) "
                "after a node was lost; expected one node. Start the same command again: it makes "
                "a new placement"
            )
        self._gpus = tuple(gpu for _, gpu in answers)


class Anywhere:
    """A seat outside of any placement group, without a GPU."""

    options: Options = {"num_cpus": 0}  # noqa: RUF012

    def ask(self) -> list[ray.ObjectRef]:
        return []

    def settle(self, answers: Sequence[tuple[str, str]]) -> None:
        pass


def ask_bundles(group: PlacementGroup, bundles: Sequence[int]) -> list[ray.ObjectRef]:
    """Calls that return (node, name of the GPU) of each bundle.

    They raise PlacementError where a node's driver is too old.
    """
    return [
        _which_gpu.options(scheduling_strategy=in_bundle(group, bundle)).remote()
        for bundle in bundles
    ]


def in_order(devices: Sequence[Device]) -> list[Device]:
    """Neighbours beside each other; nodes with most of the granted GPUs first, so that engines
    over several find room before ranks of one GPU are seated."""
    sizes = Counter(device.node for device in devices)
    return sorted(devices, key=lambda d: (-sizes[d.node], d.node, _rank(d.gpu)))


def take_neighbours(
    devices: Sequence[Device], num_actors: int, gpus_per_actor: int
) -> tuple[list[list[Device]], list[Device]]:
    """The GPUs of each of `num_actors`, and those that are left; no groups for actors without.

    >>> devices = [Device("a", "0", 0), Device("b", "0", 1), Device("b", "1", 2)]
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


def in_bundle(group: PlacementGroup, bundle: int) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)


@ray.remote(num_cpus=0, num_gpus=ASKING_SHARE)
def _which_gpu() -> tuple[str, str]:
    context = ray.get_runtime_context()
    refuse_old_driver(f"{ray.util.get_node_ip_address()} ({context.get_node_id()[:8]})")
    return context.get_node_id(), context.get_accelerator_ids()["GPU"][0]


def refuse_old_driver(node: str) -> None:
    """Look at the driver of this machine, which is called `node`; one that does not say its version
    is let through.

    Raises:
        PlacementError: it is too old for the installed packages.
    """
    driver = read_driver()
    verdict = judge_driver(driver.version, driver.cuda)
    if verdict.fitness is Fitness.TOO_OLD:
        raise PlacementError(f"node {node}: {verdict.text}, or keep the run off it")


def _rank(gpu: str) -> tuple[int, int, str]:
    """Numbers in their order, names after them."""
    return (0, int(gpu), "") if gpu.isdigit() else (1, 0, gpu)
