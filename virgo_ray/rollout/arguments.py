"""What vLLM's engine is made with: the config's keys in vLLM's own names, and what it needs here.

Knows no engine: pure but for the model's directory, which is looked up.
"""

from __future__ import annotations

from typing import Any

from virgo_ray.config import ModelConfig, RolloutConfig
from virgo_ray.model.files import resolve_model
from virgo_ray.rollout.loader import loader_args

EXTENSION = "virgo_ray.rollout.worker_extension.WorkerExtension"  # vLLM imports it in its processes
IMAGE_CACHE_GIB = 0.5  # preprocessed images kept, so that n samples of a problem share the work
# Per step, on a GPU. vLLM's server takes as many on an H100; an engine made in code gets 2,048,
# which is one large picture per step.
GPU_BATCHED_TOKENS = 8192
# Log-probabilities of sampled tokens after bans, penalties and temperature: under the distribution
# that they were drawn from. vLLM's default is that of the raw logits. Those of prompts stay raw.
PROCESSED = {"logprobs_mode": "processed_logprobs"}


def engine_args(model: ModelConfig, rollout: RolloutConfig, can_sleep: bool) -> dict[str, Any]:
    """What `AsyncEngineArgs` is given; `can_sleep` is for engines on GPUs alone."""
    bounds = {"min_pixels": model.min_pixels, "max_pixels": model.max_pixels}
    directory = resolve_model(model.path, model.trust_remote_code)
    common = {
        "model": directory,
        **loader_args(directory, model.trust_remote_code),
        "dtype": model.dtype,
        "hf_overrides": {"head_dtype": model.head_dtype or "model"},
        "max_model_len": model.max_length,
        "trust_remote_code": model.trust_remote_code,
        "mm_processor_kwargs": {k: v for k, v in bounds.items() if v is not None},
        "mm_processor_cache_gb": IMAGE_CACHE_GIB,
        "limit_mm_per_prompt": {"video": 0},
        "max_num_seqs": rollout.max_in_flight,
        "enforce_eager": rollout.enforce_eager,
        "generation_config": "vllm",  # sampling is ours alone, not what lies beside the model
        "worker_extension_cls": EXTENSION,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        "seed": 0,
    }
    placed = _gpu_args(rollout, can_sleep) if rollout.gpus_per_worker else _cpu_args(model, rollout)
    return common | placed | rollout.engine_args  # of which none overrides what is promised


def _cpu_args(model: ModelConfig, rollout: RolloutConfig) -> dict[str, Any]:
    return {
        "kv_cache_memory_bytes": round(rollout.kv_cache_gib * 1024**3),
        "distributed_executor_backend": "uni",
        # Room for every prompt at once, so that none is ever prefilled in parts: that needs the
        # request's random generator to be wound back, which PyTorch cannot do on CPU ("CPU
        # Generator does not use offset"), and the whole engine dies of it.
        "max_num_batched_tokens": rollout.max_in_flight * model.max_length,
    }


def _gpu_args(rollout: RolloutConfig, can_sleep: bool) -> dict[str, Any]:
    num_gpus = rollout.gpus_per_worker or 0
    return {
        "tensor_parallel_size": num_gpus,
        # Left out, vLLM would see that this actor is in a placement group and ask Ray for a
        # whole GPU of it per worker; they are taken, and the start would never end.
        "distributed_executor_backend": "mp" if num_gpus > 1 else "uni",
        "max_num_batched_tokens": GPU_BATCHED_TOKENS,
        "gpu_memory_utilization": rollout.gpu_memory_utilization,
        "enable_sleep_mode": can_sleep,
    }
