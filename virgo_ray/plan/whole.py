"""The plan of a run: every part put together, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from virgo_ray.config import Config
from virgo_ray.plan.cards import Card
from virgo_ray.plan.disk import Disk, disk
from virgo_ray.plan.engines import (
    ASLEEP_BYTES,
    RANK_CONTEXT_BYTES,
    EngineMemory,
    engine_memory,
)
from virgo_ray.plan.host import Item, on_cpu_node, on_gpu_node
from virgo_ray.plan.push import Push, plan_push
from virgo_ray.plan.ranks import MicroBatch, Rank, RankMemory
from virgo_ray.plan.seats import Seats
from virgo_ray.plan.work import Material, Phase, phases
from virgo_ray.train.shape import ModelShape


@dataclass(frozen=True)
class Machine:
    """What the plan is for: no card for a run on CPUs; host memory of a node where it is known."""

    card: Card | None
    host_bytes: int | None


@dataclass(frozen=True)
class GpuPhase:
    """The fullest GPU at the peak of one phase, by who holds it."""

    name: str
    ranks: int
    engines: int
    other: int  # CUDA, NCCL, what sleeps: assumed

    @property
    def total(self) -> int:
        return self.ranks + self.engines + self.other


@dataclass(frozen=True)
class RunPlan:
    """All that `virgo-ray plan` says; `problems` is empty where the run fits."""

    shape: ModelShape
    machine: Machine
    seats: Seats
    batch: MicroBatch
    rank: RankMemory
    engine: EngineMemory | None
    push: Push
    gpu_phases: tuple[GpuPhase, ...]
    host: tuple[Item, ...]
    disk: Disk
    material: Material
    phases: tuple[Phase, ...]
    longest_that_fits: int | None  # tokens of one example
    problems: tuple[str, ...]

    @property
    def is_fitting(self) -> bool:
        return not self.problems

    @property
    def gpu_peak(self) -> int:
        return max((phase.total for phase in self.gpu_phases), default=0)


def plan_run(
    cfg: Config,
    shape: ModelShape,
    directory: Path,
    machine: Machine,
    seats: Seats,
    material: Material,
) -> RunPlan:
    """Compute everything for a config whose GPUs per worker are settled."""
    rank = rank_of(cfg, shape)
    batch = largest_batch(cfg, shape, material)
    memory = rank.memory(batch)
    card = machine.card if cfg.train.gpus_per_worker or cfg.rollout.gpus_per_worker else None
    engine = engine_memory(cfg, shape, card.memory) if card else None
    work = phases(cfg, shape, material, engine, card)
    fits = [p for p in work if p.name.startswith("fit")]
    examples = max((round(p.tokens / _epochs(cfg)) for p in fits), default=0)
    push = plan_push(cfg, shape, seats)
    on_gpus = gpu_phases(cfg, memory, engine, push) if engine else ()
    host = (
        on_gpu_node(cfg, rank, seats, engine, examples)
        if engine
        else on_cpu_node(cfg, shape, memory, examples, seats.nodes.num)
    )
    longest = longest_fitting(cfg, rank, shape, card) if card else None
    plan = RunPlan(
        shape, machine, seats, batch, memory, engine, push, on_gpus, tuple(host),
        disk(cfg, shape, directory, _responses(work)), material, tuple(work), longest, (),
    )  # fmt: skip
    return _judged(cfg, plan, card)


def rank_of(cfg: Config, shape: ModelShape) -> Rank:
    is_gpu = bool(cfg.train.gpus_per_worker)
    train, model = cfg.train, cfg.model
    return Rank(shape, train, model.dtype, train.num_workers, is_gpu, model.head_dtype)


def largest_batch(cfg: Config, shape: ModelShape, material: Material) -> MicroBatch:
    """The longest micro-batch there may be: a full one, or one example that is longer still.

    Every token that is no prompt is a target; the traces of a later round are as long as their
    sampling lets them be.
    """
    limit = cfg.model.max_length
    trace = cfg.explore.sampling.max_tokens + material.train.longest if cfg.rounds else 0
    longest = min(limit, max(material.seeds.longest, trace))
    return _batch(cfg, shape, max(cfg.train.micro_batch_tokens, longest))


def _batch(cfg: Config, shape: ModelShape, tokens: int) -> MicroBatch:
    pixels = cfg.model.max_pixels or 0
    patches = shape.patches_per_token * min(pixels // shape.token_pixels, tokens)
    return MicroBatch(tokens, tokens, patches)


def gpu_phases(
    cfg: Config, rank: RankMemory, engine: EngineMemory, push: Push
) -> tuple[GpuPhase, ...]:
    """The fullest GPU: colocated it holds an engine and a rank in turn, and in a push both."""
    is_shared = cfg.placement.mode == "colocated"
    asleep = ASLEEP_BYTES if is_shared else 0
    context = RANK_CONTEXT_BYTES
    awake = 0 if is_shared else engine.awake
    idle = RANK_CONTEXT_BYTES if is_shared else 0  # a rank keeps its process between fits
    return (
        GpuPhase("engine: load", 0, engine.weights + engine.step, idle),
        GpuPhase("engine: sampling", 0, engine.awake, idle),
        GpuPhase("engine: asleep", 0, 0 if is_shared else awake, asleep),
        GpuPhase("fit: load", rank.load, 0, asleep + context),
        GpuPhase("fit: largest micro-batch", rank.micro_batch, 0, asleep + context),
        GpuPhase("fit: update", rank.update, 0, asleep + context),
        GpuPhase("fit: publish", rank.publish, 0, asleep + context),
        GpuPhase("push: buckets", push.sender, engine.weights + push.receiver, idle),
        GpuPhase("push: engine is probed", 0, engine.awake, idle),
    )


def longest_fitting(cfg: Config, rank: Rank, shape: ModelShape, card: Card) -> int:
    """Tokens of the longest micro-batch for which a card has room; 0: none."""
    asleep = ASLEEP_BYTES if cfg.placement.mode == "colocated" else 0
    room = card.usable - asleep - RANK_CONTEXT_BYTES
    low, high = 0, 1 << 22
    while low < high:
        middle = (low + high + 1) // 2
        if rank.memory(_batch(cfg, shape, middle)).peak <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _epochs(cfg: Config) -> float:
    """Times that a later round's fit goes through its examples."""
    if cfg.train.objective.steps:
        return 1
    return cfg.train.stop_epoch or cfg.train.num_epochs


def _responses(work: list[Phase]) -> tuple[int, int]:
    """Tokens that the explorations and the evaluations of the whole run write."""
    evaluated = sum(p.times * p.response_tokens for p in work if p.name == "evaluate")
    return sum(p.times * p.response_tokens for p in work) - evaluated, evaluated


def _judged(cfg: Config, plan: RunPlan, card: Card | None) -> RunPlan:
    """The plan with what does not fit, in words."""
    problems = [plan.seats.problem] if plan.seats.problem else []
    if card and plan.engine:
        problems += _on_card(cfg, plan, card, plan.engine)
    needed = sum(item.bytes for item in plan.host)
    if plan.machine.host_bytes is not None and needed > plan.machine.host_bytes:
        problems.append(
            f"a node needs {needed / 1e9:.0f} GB of host memory, it has "
            f"{plan.machine.host_bytes / 1e9:.0f}"
        )
    return RunPlan(**{**vars(plan), "problems": tuple(problems)})


def _on_card(cfg: Config, plan: RunPlan, card: Card, engine: EngineMemory) -> list[str]:
    found = []
    fullest = max(plan.gpu_phases, key=lambda phase: phase.total)
    if fullest.total > card.usable:
        found.append(
            f"{fullest.name} needs {fullest.total / 1e9:.0f} GB of a GPU, a program has "
            f"{card.usable / 1e9:.0f} of {card.name}'s {card.memory / 1e9:.0f}"
        )
    if engine.kv_tokens < cfg.model.max_length:
        found.append(
            f"the KV cache of an engine holds {engine.kv_tokens:,} tokens, less than one sequence "
            f"of model.max_length={cfg.model.max_length}: vLLM does not start"
        )
    return found
