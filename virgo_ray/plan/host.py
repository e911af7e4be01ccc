"""What the fullest node holds in its memory. Bytes, each with its basis."""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.actors.memory import ENGINE_GIB, GIB, LIKELY_FACTOR, RANK_GIB, VERIFIER_GIB
from virgo_ray.config import Config
from virgo_ray.plan.engines import PINNED, EngineMemory
from virgo_ray.plan.ranks import BYTES, Rank, RankMemory
from virgo_ray.plan.seats import Seats
from virgo_ray.train.shape import ModelShape
from virgo_ray.train.sizes import PICTURE_AHEAD_BYTES, PICTURE_CACHE_BYTES

GPU_PROCESS_BYTES = 3_000_000_000  # Python, torch and CUDA of one process; assumed
PICTURES_BYTES = PICTURE_CACHE_BYTES + PICTURE_AHEAD_BYTES  # a rank's, in use and ahead
ENGINE_PICTURES_BYTES = 2 * 512 * 1024**2  # an engine's, in both of its processes
PLAN_BYTES_PER_TOKEN = 8  # at most, of examples in driver and each rank (test_tokens.py)
LOCAL_STORE_BYTES = 256 * 1024**2  # Ray's object store of a cluster that the run starts itself

OFFLOADED = "offloaded by ranks"
WAITING = "ranks while engines work"


@dataclass(frozen=True)
class Item:
    """One line of a node's memory."""

    name: str
    bytes: int
    basis: str


def on_gpu_node(
    cfg: Config, rank: Rank, seats: Seats, engine: EngineMemory, plan_tokens: int
) -> list[Item]:
    """The node of rank 0, where engines and ranks have GPUs."""
    engines, ranks = seats.engines_per_node, seats.ranks_per_node
    saved = BYTES[cfg.model.dtype] * rank.shape.saved
    asleep = engines if seats.demand.is_shared else 0
    processes = engines * max(cfg.rollout.gpus_per_worker or 0, 1) + ranks
    pictures = engines * ENGINE_PICTURES_BYTES + ranks * PICTURES_BYTES
    offloaded = ranks * rank.offloaded()
    reading = max(ranks * rank.reading_on_host() - saved, 0)  # rank 0 publishes later
    waiting = ranks * rank.waiting_on_host() if seats.demand.is_shared else 0
    pinned = f"{PINNED:g} times their weights, reported by users of vLLM, not measured"
    return [
        Item(f"engines asleep: {asleep}", asleep * engine.pinned, pinned),
        Item("engines' and ranks' processes", processes * GPU_PROCESS_BYTES, "3 GB each, assumed"),
        Item("caches of pictures", pictures, "their bounds"),
        *([Item(OFFLOADED, offloaded, "train.offload, computed")] if offloaded else []),
        _examples(ranks, plan_tokens),
        *([Item(WAITING, waiting, "train.resident, computed")] if waiting else []),
        Item("rank 0 publishes and pushes", saved, "the whole model"),
        *(
            [Item("ranks while they read weights", reading, "below ZeRO-3; less the line above")]
            if reading
            else []
        ),
        _verifiers(-(-cfg.verify.num_workers // seats.nodes.num)),
    ]


def on_cpu_node(
    cfg: Config, shape: ModelShape, rank: RankMemory, plan_tokens: int, num_nodes: int
) -> list[Item]:
    """A node of a run without GPUs, its actors spread evenly."""
    engines, ranks, verifiers = (
        -(-section.num_workers // num_nodes) for section in (cfg.rollout, cfg.train, cfg.verify)
    )
    engine = BYTES[cfg.model.dtype] * shape.saved + round(cfg.rollout.kv_cache_gib * GIB)
    engine += round(LIKELY_FACTOR * ENGINE_GIB * GIB) + float32_head(cfg, shape)
    trainer = rank.peak + round(LIKELY_FACTOR * RANK_GIB * GIB)
    return [
        Item(f"engines: {engines}", engines * engine, "weights, KV cache, a process as measured"),
        Item(f"trainer ranks: {ranks}", ranks * trainer, "a fit's peak, a process as measured"),
        _examples(ranks, plan_tokens),
        _verifiers(verifiers),
        Item("Ray's object store", LOCAL_STORE_BYTES, "of a cluster that the run starts"),
    ]


def float32_head(cfg: Config, shape: ModelShape) -> int:
    """Bytes of an engine's copy of the output layer, which float32 logits on a CPU take."""
    is_copied = cfg.model.head_dtype == "float32" and cfg.model.dtype != "float32"
    return 4 * shape.vocabulary * shape.hidden if is_copied else 0


def _examples(ranks: int, plan_tokens: int) -> Item:
    size = (ranks + 1) * PLAN_BYTES_PER_TOKEN * plan_tokens
    basis = f"at most {PLAN_BYTES_PER_TOKEN} bytes a token in driver and ranks"
    return Item("examples of a fit", size, basis)


def _verifiers(num: int) -> Item:
    size = round(num * LIKELY_FACTOR * VERIFIER_GIB * GIB)
    return Item(f"verifiers: {num}", size, "as measured on a CPU")
