"""The memory of one engine: on its GPUs, and of the host while it sleeps. Bytes.

An engine takes what `rollout.gpu_memory_utilization` gives it; what weights and a step leave of
that is its KV cache. None of this has been measured on a GPU yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.config import Config
from virgo_ray.plan.ranks import BYTES
from virgo_ray.train.shape import ModelShape

# While engines sleep their weights are pinned in host memory, a segment rounded up to a power of
# two; users of vLLM report 1.9 times the weights (vllm#56410, vllm#55206). Not measured here.
PINNED = 1.9
STEP_TOKENS = 8192  # that an engine prefills at a time (rollout/engine.py)
# Arguments that change an engine's memory by what is not known here. Methods of `quantization` keep
# some layers as they are; an engine over several GPUs may hold a whole vision tower on each.
UNCOUNTED = {
    "quantization", "mm_encoder_tp_mode", "num_gpu_blocks_override", "watermark",
    "cudagraph_capture_sizes", "max_cudagraph_capture_size", "skip_mm_profiling",
    "mm_processor_cache_gb",
}  # fmt: skip
# What CUDA, NCCL and vLLM keep of a GPU while the engine sleeps, and CUDA and NCCL of a rank: the
# 6 GB of docs/gpu-checks.md. Assumed, not measured.
ASLEEP_BYTES, RANK_CONTEXT_BYTES = 4_000_000_000, 2_000_000_000


@dataclass(frozen=True)
class EngineMemory:
    """Bytes on each of an engine's GPUs; `pinned` of the host, of the whole engine asleep."""

    weights: int
    step: int
    kv_cache: int  # what is left for it; below 0: nothing
    kv_tokens: int  # that the cache holds
    pinned: int

    @property
    def awake(self) -> int:
        return self.weights + self.step + max(self.kv_cache, 0)


def find_uncounted(cfg: Config) -> list[str]:
    """What engines are told that changes their memory and that `engine_memory` does not count."""
    asked = cfg.rollout.engine_args
    found = [f"{name}={asked[name]}" for name in sorted(UNCOUNTED & asked.keys())]
    if not found:
        return []
    return [
        f"not counted: rollout.engine_args of {', '.join(found)}; engines' weights are counted as "
        "they lie on disk, and the rest of their memory as vLLM takes it by itself"
    ]


def engine_memory(cfg: Config, shape: ModelShape, card_bytes: int) -> EngineMemory:
    """Of an engine over `rollout.gpus_per_worker` GPUs with `card_bytes` each.

    Of `rollout.engine_args` the tokens of a step and an 8-bit cache are counted, the others not:
    see `find_uncounted`.
    """
    passed = cfg.rollout.engine_args
    num_gpus = cfg.rollout.gpus_per_worker or 1
    itemsize = BYTES[cfg.model.dtype]
    whole = itemsize * (shape.saved)
    weights = whole // num_gpus
    tokens = passed.get("max_num_batched_tokens", STEP_TOKENS)
    step = itemsize * tokens * (4 * shape.hidden + 3 * shape.intermediate // num_gpus)
    room = round(cfg.rollout.gpu_memory_utilization * card_bytes) - weights - step
    heads = max(shape.kv_width // num_gpus, shape.kv_head)  # a head of keys is not split
    kept = 1 if passed.get("kv_cache_dtype", "auto").startswith("fp8") else itemsize
    per_token = 2 * kept * shape.num_layers * heads
    return EngineMemory(weights, step, room, max(room, 0) // per_token, round(PINNED * whole))
