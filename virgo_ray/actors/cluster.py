"""Brings the three pools up on Ray and takes them down again, whatever happened in between.

Feasibility is checked before anything is created. The pools start side by side, because most of
the time goes into importing the engines. Leaving the `with` block ends every process it started.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import ray

from virgo_ray.actors.devices import mean_of_devices
from virgo_ray.actors.head import (
    bare_errors,
    blame_lost_head,
    dying_while_connecting,
    last_words,
    no_cluster,
    refuse_dead_head,
    watch_head,
)
from virgo_ray.actors.placement import check_feasible, make_placement, settle_gpus
from virgo_ray.actors.processes import collect_answers, resident_mib
from virgo_ray.actors.rollouts.pool import RolloutPool
from virgo_ray.actors.trainers.group import TrainerGroup
from virgo_ray.actors.trainers.push import Push
from virgo_ray.actors.verifiers.pool import VerifierPool
from virgo_ray.config import Config, RayConfig
from virgo_ray.errors import ConfigError
from virgo_ray.model.files import resolve_model
from virgo_ray.node.packages import has_cpu_packages
from virgo_ray.records import FitReport, Plan, Weights
from virgo_ray.weights.offer import Stream
from virgo_ray.weights.probe import ProbeItem

OBJECT_STORE_BYTES = 256 * 1024**2  # of a local cluster: records are small, images travel as paths
THREADS_DEADLINE_S = 20.0
# For glibc's allocator, which reads it as a process starts. By default it keeps an arena per thread
# and gives little back: trainers on CPU grew by 1 to 2 MiB a round (docs/reliability.md). A trim
# threshold alone would keep the one for mmap at 128 KiB: every larger tensor then costs page
# faults, and training on CPU takes 1.8 times as long (scripts/bench_malloc.py).
FRUGAL_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(16 * 1024**2),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024**2),
}
Look = Callable[[], dict[str, float]]


def memory_mib(pools: Sequence[RolloutPool | VerifierPool | TrainerGroup]) -> dict[str, float]:
    """Resident memory by actor, MiB; an actor that is busy or dead is left out. For instance
    `{"rss_driver_mib": 512.0, "rss_rollout_worker_0_mib": 1893.4, "rss_trainer_rank_0_mib": 990.1}`
    """
    asked = {name: ref for pool in pools for name, ref in pool.ask_memory().items()}
    return {"rss_driver_mib": resident_mib(with_children=False), **collect_answers(asked)}


def ask_devices(rollouts: RolloutPool, trainer: TrainerGroup) -> dict[str, ray.ObjectRef]:
    """Calls that return how busy every GPU of the run was since the last ones."""
    return {**rollouts.ask_devices(), **trainer.ask_devices()}


def engine_numbers(rollouts: RolloutPool) -> dict[str, float]:
    """What every engine did since the last call: `{"waiting_0": 3.5, "kv_cache_peak_0": 0.4}`."""
    answers = collect_answers(rollouts.ask_stats())
    return {f"{name}_{i}": value for i, found in answers.items() for name, value in found.items()}


def pool_counts(pools: Sequence[RolloutPool | VerifierPool | TrainerGroup]) -> dict[str, float]:
    """Restarts, repeats and latencies over the life of the pools."""
    return {name: value for pool in pools for name, value in pool.metrics().items()}


class ColocatedTrainer:
    """A trainer on shared GPUs: the engines sleep while it trains or scores, it lets go before they
    wake."""

    def __init__(self, trainer: TrainerGroup, rollouts: RolloutPool) -> None:
        self._trainer = trainer
        self._rollouts = rollouts

    def fit(self, plan: Plan, start: Weights, version: int, is_again: bool = False) -> FitReport:
        with self._gpus_to_itself():
            return self._trainer.fit(plan, start, version, is_again)

    def write_now(self, version: int) -> bool:
        self.settle()
        return self._trainer.write_now(version)

    def settle(self) -> None:
        """A fit that must be done again has the GPUs to itself; publishing alone needs none."""
        if not self._trainer.try_settle():
            with self._gpus_to_itself():
                self._trainer.settle()

    def offer(
        self, weights: Weights, kind: Stream, labels: Sequence[str], deadline_s: float
    ) -> Push | None:
        """See `TrainerGroup.offer`."""
        return self._trainer.offer(weights, kind, labels, deadline_s)

    def was_trained_again(self, weights: Weights) -> bool:
        return self._trainer.was_trained_again(weights)

    @property
    def nodes(self) -> frozenset[str]:
        return self._trainer.nodes

    def probe_base(self, base: Weights, items: Sequence[ProbeItem]) -> str:
        with self._gpus_to_itself():
            return self._trainer.probe_base(base, items)

    @contextlib.contextmanager
    def _gpus_to_itself(self) -> Iterator[None]:
        """What fails inside ends the run; nobody wakes then, whose error would hide that one."""
        self._rollouts.sleep()
        yield
        self._trainer.release()
        self._rollouts.wake()


@contextlib.contextmanager
def connect_cluster(cfg: Config) -> Iterator[str]:
    """Join the cluster of `ray.address` or RAY_ADDRESS, or start one here; yields the dashboard.

    Raises:
        ConfigError: nobody answers at that address.
        ClusterError: Ray did not come up.
    """
    with join_cluster(cfg.ray, is_frugal=has_cpu_packages()) as dashboard:
        yield dashboard


def address_of(cfg: RayConfig) -> str:
    """Of the cluster to join; "local": one is started here."""
    return cfg.address or os.environ.get("RAY_ADDRESS") or "local"


def refuse_connected() -> None:
    """A run connects to Ray by itself.

    Raises:
        ConfigError: this process is connected already.
    """
    if ray.is_initialized():
        raise ConfigError(
            "Ray is connected in this process already, expected not: a run joins or starts a "
            "cluster by itself (ray.address). End the run before, or call ray.shutdown()"
        )


@contextlib.contextmanager
def join_cluster(cfg: RayConfig, is_frugal: bool) -> Iterator[str]:
    """As `connect_cluster`; `is_frugal`: what is started here gives memory back (for CPU).

    Raises:
        ConfigError: nobody answers at that address, or this process is connected already.
        ClusterError: Ray did not come up.
    """
    refuse_connected()
    named_by = "ray.address" if cfg.address else "RAY_ADDRESS"
    address = address_of(cfg)
    is_local = address == "local"
    local: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES}
    if cfg.dashboard_port is not None:
        local["dashboard_port"] = cfg.dashboard_port
    if is_local and is_frugal:
        for name, value in FRUGAL_MALLOC.items():
            os.environ.setdefault(name, value)  # what Ray starts here inherits it
    if not is_local:
        refuse_dead_head(address, named_by)
    with last_words():
        try:
            with dying_while_connecting(), bare_errors(address):
                context = ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                    namespace=None,
                    **(local if is_local else {}),
                )
        except (ConnectionError, ValueError) as error:  # it went away just now; no address at all
            raise ConfigError(no_cluster(address, named_by, str(error))) from error
        try:
            with watch_head(is_local):
                yield f"http://{context.dashboard_url}" if context.dashboard_url else "none"
        finally:
            ray.shutdown()


@contextlib.contextmanager
def serve_model(cfg: Config) -> Iterator[tuple[RolloutPool, VerifierPool]]:
    """Engines that serve the model of `cfg` as it is, and verifiers; no trainer."""
    alone = cfg.placement.model_copy(update={"mode": "disaggregated"})  # nobody to sleep for
    cfg = settle_gpus(cfg.model_copy(update={"placement": alone}), ray.cluster_resources())
    check_feasible(cfg, ray.cluster_resources(), has_trainer=False)
    with contextlib.ExitStack() as stack, blame_lost_head():
        placement = make_placement(cfg, has_trainer=False)
        stack.callback(placement.release)
        rollouts = RolloutPool(cfg, placement)
        stack.callback(rollouts.close)
        verifiers = VerifierPool.start(cfg, placement)
        stack.callback(verifiers.close)
        rollouts.come_up()
        rollouts.serve_base(resolve_model(cfg.model.path, cfg.model.trust_remote_code))
        yield rollouts, verifiers


@dataclass(frozen=True)
class Actors:
    """What runs on a cluster for one run; each implements the port of its name."""

    rollouts: RolloutPool
    verifiers: VerifierPool
    trainer: TrainerGroup | ColocatedTrainer


@contextlib.contextmanager
def start_actors(
    cfg: Config,
    on_step: Callable[[dict[str, float]], None],
    watch: Callable[[str, Look], None] = lambda kind, look: None,
    say: Callable[[str], None] = lambda text: None,
    hear: Callable[[int, int], None] = lambda num, total: None,
) -> Iterator[Actors]:
    """The actors of `cfg`, placed and running.

    `watch` is given a kind of metrics record and what says its numbers as they are now; `say` hears
    which parameters a fit trains; `hear` how many of how many engines are up, from a thread.
    """
    cfg = settle_gpus(cfg, ray.cluster_resources())
    check_feasible(cfg, ray.cluster_resources())
    with contextlib.ExitStack() as stack, blame_lost_head():
        placement = make_placement(cfg)
        stack.callback(placement.release)
        starts: list[Future[None]] = []
        threads = ThreadPoolExecutor(2)
        # On leaving, also by Ctrl-C during the start: the pools end their actors, which ends the
        # threads, and only then is the placement given back and the cluster left.
        stack.callback(lambda: wait(starts, THREADS_DEADLINE_S))
        stack.callback(threads.shutdown, wait=False)
        rollouts = RolloutPool(cfg, placement)
        stack.callback(rollouts.close)
        verifiers = VerifierPool.start(cfg, placement)
        stack.callback(verifiers.close)
        trainer = TrainerGroup(cfg, placement, on_step, say)
        stack.callback(trainer.close)
        starts += [threads.submit(rollouts.come_up, hear), threads.submit(trainer.come_up)]
        wait(starts)  # deadline: each start has its own
        for starting in starts:
            starting.result(timeout=0)
        pools = (rollouts, verifiers, trainer)
        watch("memory", lambda: memory_mib(pools))
        watch("pools", lambda: pool_counts(pools))
        watch("phase", lambda: mean_of_devices(collect_answers(ask_devices(rollouts, trainer))))
        watch("engines", lambda: engine_numbers(rollouts))
        is_shared = cfg.placement.mode == "colocated" and bool(cfg.rollout.gpus_per_worker)
        fitting = ColocatedTrainer(trainer, rollouts) if is_shared else trainer
        rollouts.draw_from(fitting, say)
        yield Actors(rollouts, verifiers, fitting)
