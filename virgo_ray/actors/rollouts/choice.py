"""Which way weights take to the engines. Pure, but for `read_allocator`."""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.config import Config
from virgo_ray.errors import ConfigError
from virgo_ray.weights.offer import ALLOCATOR_VARIABLES, find_expandable


@dataclass(frozen=True)
class Situation:
    """What decides, beside the config.

    `num_nodes` are those of engines and trainers together; `is_expandable`: the allocator's memory
    cannot be shared between processes; `has_failed`: a stream broke since this start.
    """

    num_nodes: int = 1
    is_expandable: bool = False
    has_failed: bool = False


@dataclass(frozen=True)
class Choice:
    transport: str
    why: str


def choose_transport(cfg: Config, now: Situation) -> Choice:
    """What `push.transport` means for weights that a trainer holds.

    Other weights always come from disk: a base, an older round, what an earlier start published.
    """
    asked = cfg.push.transport
    if asked == "ipc" and now.num_nodes > 1:
        return Choice("disk", f"engines and trainers are on {now.num_nodes} nodes now")
    if asked != "auto":
        return Choice(asked, f"push.transport={asked}")
    if now.has_failed:
        return Choice("disk", "a stream failed before, in this start")
    if sends_adapters_alone(cfg):
        return Choice("adapter", "only adapters are trained")
    if has_bare_engines(cfg):
        return Choice("broadcast", "some engines' GPUs have no trainer rank on them")
    if now.num_nodes == 1 and not now.is_expandable:
        return Choice("ipc", "engines and trainers are on one node")
    if now.num_nodes == 1:
        return Choice("broadcast", "expandable segments cannot be shared")
    return Choice("broadcast", f"engines and trainers are on {now.num_nodes} nodes")


def sends_adapters_alone(cfg: Config) -> bool:
    """Whether all weights but the adapters are frozen."""
    train = cfg.train
    return train.lora is not None and train.freeze_vision and train.freeze_connector


def has_bare_engines(cfg: Config) -> bool:
    """Whether engines share GPUs with trainers, but some with none: such a GPU has no memory to
    share."""
    is_shared = bool(cfg.train.gpus_per_worker) and cfg.placement.mode == "colocated"
    num_gpus = cfg.rollout.num_workers * (cfg.rollout.gpus_per_worker or 0)
    return is_shared and cfg.train.num_workers < num_gpus


def refuse_transport(cfg: Config, now: Situation) -> None:
    """Refuse what was asked for and cannot be done where engines and trainers are.

    Raises:
        ConfigError: shared memory over several nodes, with expandable segments, or of engines'
            GPUs without a trainer rank.
    """
    if cfg.push.transport != "ipc":
        return
    if now.num_nodes > 1:
        raise ConfigError(
            f"push.transport=ipc shares memory, but engines and trainers are on {now.num_nodes} "
            "nodes; expected one: set push.transport=broadcast, or auto"
        )
    if now.is_expandable:
        raise ConfigError(
            "push.transport=ipc with expandable_segments:True in "
            f"{' or '.join(ALLOCATOR_VARIABLES)}: such memory cannot be shared between processes; "
            "remove it there, or set push.transport=broadcast"
        )
    if has_bare_engines(cfg):
        raise ConfigError(
            f"push.transport=ipc with train.num_workers={cfg.train.num_workers} and "
            f"{cfg.rollout.num_workers * (cfg.rollout.gpus_per_worker or 0)} GPUs of engines: some "
            "have no trainer rank to share memory with; expected one for each: raise "
            "train.num_workers, or set push.transport=broadcast, or auto"
        )


def read_allocator(cfg: Config) -> bool:
    """Whether this process's variables ask for expandable segments, where GPUs are shared."""
    is_shared = bool(cfg.train.gpus_per_worker) and cfg.placement.mode == "colocated"
    return is_shared and bool(find_expandable())
