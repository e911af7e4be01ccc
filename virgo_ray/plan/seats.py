"""Which actors a config asks for, and on which node and GPU each would sit.

The rules are those of `actors/placement.py`; the nodes are only thought of. Knows no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.actors.placement import Demand, demand
from virgo_ray.actors.seats import Device, in_order, take_neighbours
from virgo_ray.config import Config
from virgo_ray.errors import ConfigError, PlacementError

Group = tuple[str, ...]  # "node 1: 0, 1"


@dataclass(frozen=True)
class Nodes:
    """What a cluster would have; 0 GPUs: CPUs alone."""

    num: int
    gpus: int  # of each

    @property
    def num_gpus(self) -> int:
        return self.num * self.gpus


@dataclass(frozen=True)
class Seats:
    """The GPUs of every engine and rank, as "2/5": the sixth of node 2. None on the CPU."""

    demand: Demand
    nodes: Nodes
    engines: tuple[Group, ...]
    ranks: tuple[Group, ...]
    problem: str  # why they do not all find room, or nothing

    @property
    def ranks_per_node(self) -> int:
        return self._most_on_a_node(self.ranks)

    @property
    def engines_per_node(self) -> int:
        return self._most_on_a_node(self.engines)

    def _most_on_a_node(self, groups: tuple[Group, ...]) -> int:
        homes = [group[0].split("/")[0] for group in groups]
        return max((homes.count(home) for home in homes), default=0)


def find_nodes(cfg: Config, gpus: int | None, num: int | None) -> Nodes:
    """What the command says of the cluster; nodes that it does not count are as many as needed.

    Raises:
        ConfigError: GPUs are asked for and nobody says how many a node has.
    """
    asked = demand(cfg)
    if not asked.gpus:
        return Nodes(num or 1, 0)
    if not gpus:
        raise ConfigError(
            f"this config asks for {asked.gpus} GPUs; say what a node has with --gpus 8 --card h100"
        )
    return Nodes(num or -(-asked.gpus // gpus), gpus)


def find_seats(cfg: Config, nodes: Nodes) -> Seats:
    """Seat every actor of a config whose GPUs per worker are settled."""
    asked = demand(cfg)
    devices = in_order(
        [
            Device(f"{node:04d}", str(gpu), node * nodes.gpus + gpu)
            for node in range(nodes.num)
            for gpu in range(nodes.gpus)
        ]
    )[: asked.gpus]
    if len(devices) < asked.gpus:
        problem = f"{asked.gpus} GPUs are asked for, {nodes.num_gpus} are there"
        return Seats(asked, nodes, (), (), problem)
    try:
        engines, left = take_neighbours(
            devices, cfg.rollout.num_workers, cfg.rollout.gpus_per_worker or 0
        )
        ranks, _ = take_neighbours(
            devices if asked.is_shared else left,
            cfg.train.num_workers,
            cfg.train.gpus_per_worker or 0,
        )
    except PlacementError as error:
        return Seats(asked, nodes, (), (), str(error))
    return Seats(asked, nodes, _named(engines), _named(ranks), "")


def _named(groups: list[list[Device]]) -> tuple[Group, ...]:
    return tuple(tuple(f"{int(d.node)}/{d.gpu}" for d in group) for group in groups)
