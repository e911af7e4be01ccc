"""Keys of DeepSpeed and of vLLM that a config may hand through, and why others may not be.

`train.deepspeed` takes keys of DeepSpeed's own JSON, in its nesting; `rollout.engine_args` takes
arguments of vLLM's AsyncEngineArgs. Guarantees: whatever passes stands in a list here, has a value
of the kind that the installed version takes, and cannot override what a run promises. A key that is
unknown or refused is named with the reason. A test holds the lists against the installed versions.
Knows neither library: reading a config loads nothing heavy.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a value may be: in words, as a test, and an example that the library must take."""

    words: str
    accepts: Callable[[Any], bool]
    example: Any


def _is_number(value: Any) -> bool:
    """Whether it is a finite one; true and false are none."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value)


def _whole(least: int) -> Kind:
    words = f"a whole number of at least {least}"
    return Kind(words, lambda value: _is_whole(value) and value >= least, max(least, 64))


def _one_of(*choices: Any) -> Kind:
    words = f"one of {', '.join(map(str, choices))}"
    return Kind(words, lambda value: any(_is_same(value, c) for c in choices), choices[0])


def _is_same(value: Any, choice: Any) -> bool:
    """Equal, where true is not 1."""
    return isinstance(value, bool) == isinstance(choice, bool) and bool(value == choice)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_whole(v) and v > 0 for v in value)


TRUTH = Kind("true or false", lambda value: isinstance(value, bool), True)
SIZES = Kind("a list of whole numbers above 0", _is_sizes, [1, 2, 4])
SHARE = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1, 0.01)
AMOUNT = Kind("a number of at least 0", lambda value: _is_number(value) and value >= 0, 1.0)

ZERO = "zero_optimization."
DEEPSPEED: dict[str, Kind] = {
    "communication_data_type": _one_of("fp32", "bf16"),
    f"{ZERO}overlap_comm": TRUTH,
    f"{ZERO}contiguous_gradients": TRUTH,
    f"{ZERO}reduce_scatter": TRUTH,
    f"{ZERO}reduce_bucket_size": _whole(1),
    f"{ZERO}allgather_bucket_size": _whole(1),
    f"{ZERO}zero_hpz_partition_size": _whole(1),
    f"{ZERO}stage3_prefetch_bucket_size": _whole(0),
    f"{ZERO}stage3_param_persistence_threshold": _whole(0),
    f"{ZERO}stage3_model_persistence_threshold": _whole(0),
    f"{ZERO}stage3_max_live_parameters": _whole(0),
    f"{ZERO}stage3_max_reuse_distance": _whole(0),
    f"{ZERO}stage3_module_granularity_threshold": _whole(0),
    f"{ZERO}stage3_use_all_reduce_for_fetch_params": TRUTH,
    f"{ZERO}stage3_allgather_sequential": TRUTH,
}
# The stages that a key works in, where it is not all of 1, 2 and 3.
STAGES: dict[str, tuple[int, ...]] = {
    **{name: (3,) for name in DEEPSPEED if "stage3" in name or "hpz" in name},
    f"{ZERO}overlap_comm": (2, 3),
}
_BATCHES = "the plan of a fit decides which examples make a step"
_OWN_LOOP = "the trainer has its own: see train.lr, train.warmup_ratio and train.max_grad_norm"
_PRECISION = "model.dtype sets it, and gradients are summed in float32"
_OFFLOAD = "train.offload sets it"
_QUANTISED = (
    "DeepSpeed takes the GPUs that a rank sees, which is one, for those of its node, and the "
    "engines would not compute with the weights that the trainer sees"
)
REFUSED_DEEPSPEED: dict[str, str] = {
    "train_batch_size": _BATCHES,
    "train_micro_batch_size_per_gpu": _BATCHES,
    "gradient_accumulation_steps": _BATCHES,
    "managed_gradient_accumulation": _BATCHES,
    "gradient_clipping": "train.max_grad_norm sets it",
    "optimizer": _OWN_LOOP,
    "scheduler": _OWN_LOOP,
    "zero_allow_untested_optimizer": _OWN_LOOP,
    "zero_force_ds_cpu_optimizer": _OWN_LOOP,
    "prescale_gradients": "the loss is a share of a sum, and its scale is the trainer's",
    "gradient_predivide_factor": "the loss is a share of a sum, and its scale is the trainer's",
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "elasticity": "train.num_workers sets the ranks",
    "autotuning": "a run makes no trial runs",
    "checkpoint": "the trainer writes and checks its own checkpoints",
    "data_efficiency": _BATCHES,
    "curriculum_learning": _BATCHES,
    "compression_training": "published weights are the model's own",
    "activation_checkpointing": "train.gradient_checkpointing sets it",
    "sparse_attention": "the trainer has its own attention",
    "tensor_parallel": "the trainer splits by data alone",
    "pipeline": "the trainer splits by data alone",
    "compile": "the hooks that gather parameters were not tried with it",
    "aio": "nothing is offloaded to a disk",
    "wandb": "the run logs by itself",
    "tensorboard": "the run logs by itself",
    "csv_monitor": "the run logs by itself",
    f"{ZERO}stage": "train.zero_stage sets it",
    f"{ZERO}offload_param": _OFFLOAD,
    f"{ZERO}offload_optimizer": _OFFLOAD,
    f"{ZERO}cpu_offload": _OFFLOAD,
    f"{ZERO}zenflow": "it updates with old gradients",
    f"{ZERO}sub_group_size": "how much an update takes at a time is what `plan` computes",
    f"{ZERO}load_from_fp32_weights": "a fit goes on with the numbers it would have had",
    f"{ZERO}elastic_checkpoint": "the trainer arranges a checkpoint for other ranks by itself",
    f"{ZERO}compute_grad_norm": "a norm that is no number must stop the fit",
    f"{ZERO}round_robin_gradients": (
        "the order of a checkpoint's parameters would depend on the number of ranks"
    ),
    f"{ZERO}ignore_unused_parameters": "a batch of text alone uses the vision tower, too",
    f"{ZERO}stage3_gather_16bit_weights_on_model_save": "the trainer gathers by itself",
    f"{ZERO}zero_quantized_weights": _QUANTISED,
    f"{ZERO}zero_quantized_nontrainable_weights": _QUANTISED,
    f"{ZERO}zero_quantized_gradients": _QUANTISED,
}

# Quantised as they are loaded, at the start and after every push. Formats of quantised checkpoints
# (awq, gptq) are not among them: the trainer publishes plain weights.
QUANTIZATIONS = (
    "fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "mxfp8",
    "int8_per_channel_weight_only", "nvfp4_per_token",
)  # fmt: skip
# Of the names that vLLM has, those for decoders and for vision towers of the models trained here.
ATTENTION = ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION", "CPU_ATTN")
VISION_ATTENTION = ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "TORCH_SDPA")
ENGINE_ARGS: dict[str, Kind] = {
    "quantization": _one_of(*QUANTIZATIONS),
    "kv_cache_dtype": _one_of("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"),
    "attention_backend": _one_of(*ATTENTION),
    "mm_encoder_tp_mode": _one_of("weights", "data"),
    "mm_encoder_attn_backend": _one_of(*VISION_ATTENTION),
    "mm_processor_cache_gb": AMOUNT,
    "max_num_batched_tokens": _whole(1),
    "max_num_scheduled_tokens": _whole(1),
    "long_prefill_token_threshold": _whole(0),
    "enable_chunked_prefill": TRUTH,
    "enable_prefix_caching": TRUTH,
    "disable_chunked_mm_input": TRUTH,
    "disable_cascade_attn": TRUTH,
    "disable_custom_all_reduce": TRUTH,
    "async_scheduling": TRUTH,
    "block_size": _whole(1),
    "num_gpu_blocks_override": _whole(1),
    "watermark": SHARE,
    "cudagraph_capture_sizes": SIZES,
    "max_cudagraph_capture_size": _whole(1),
    "optimization_level": _one_of(0, 1, 2, 3),
    "performance_mode": _one_of("balanced", "interactivity", "throughput"),
    "skip_mm_profiling": TRUTH,
}
_RUN = "the run sets it"
_SAMPLING = "a request is sampled as explore.sampling and evaluate.sampling say, and by its seed"
_SERVED = "engines serve what the trainer published, and read nothing else"
_CODE = "it names code to be run; model.trust_remote_code is the only key that allows any"
_OTHER_MODEL = "the engines' model must be the one that is trained; the probe compares the two"
_PARALLEL = "rollout.num_workers and rollout.gpus_per_worker place the engines"
_UNTRIED = "a push of new weights was not tried with it"
_LOGS = "prompts and answers are in the trace store, and engines log neither"
REFUSED_ENGINE_ARGS: dict[str, str] = {
    "model": "model.path sets it",
    "tokenizer": "model.path sets it",
    "tokenizer_mode": _OTHER_MODEL,
    "skip_tokenizer_init": _OTHER_MODEL,
    "dtype": "model.dtype sets it",
    "max_model_len": "model.max_length sets it",
    "max_num_seqs": "rollout.max_in_flight sets it",
    "gpu_memory_utilization": "rollout.gpu_memory_utilization sets it",
    "cpu_offload_gb": _UNTRIED,
    "kv_offloading_size": "keys and values in host memory would outlive the weights of a push",
    "kv_cache_memory_bytes": "rollout.kv_cache_gib sets it",
    "enforce_eager": "rollout.enforce_eager sets it",
    "mm_processor_kwargs": "model.min_pixels and model.max_pixels set it",
    "trust_remote_code": "model.trust_remote_code sets it",
    "tensor_parallel_size": _PARALLEL,
    "pipeline_parallel_size": _PARALLEL,
    "data_parallel_size": _PARALLEL,
    "distributed_executor_backend": _PARALLEL,
    "seed": _SAMPLING,
    "generation_config": _SAMPLING,
    "override_generation_config": _SAMPLING,
    "logits_processors": _SAMPLING,
    "watermark_config": _SAMPLING,
    "logprobs_mode": _SAMPLING,
    "max_logprobs": _SAMPLING,
    "speculative_config": "a drafted token may be kept by other numbers than the model's own",
    "spec_method": "a drafted token may be kept by other numbers than the model's own",
    "spec_model": "a drafted token may be kept by other numbers than the model's own",
    "spec_tokens": "a drafted token may be kept by other numbers than the model's own",
    "load_format": _SERVED,
    "model_weights": _SERVED,
    "model_loader_extra_config": _SERVED,
    "download_dir": _SERVED,
    "revision": _SERVED,
    "code_revision": _SERVED,
    "tokenizer_revision": _SERVED,
    "ignore_patterns": _SERVED,
    "weight_transfer_config": _SERVED,
    "served_model_name": _RUN,
    "enable_sleep_mode": "placement.mode decides it",
    "disable_log_stats": _RUN,
    "use_tqdm_on_load": _RUN,
    "limit_mm_per_prompt": _RUN,
    "stream_interval": _RUN,
    "enable_lora": "adapters are merged before weights are published",
    "hf_overrides": _OTHER_MODEL,
    "hf_config_path": _OTHER_MODEL,
    "config_format": _OTHER_MODEL,
    "model_class_overrides": _OTHER_MODEL,
    "model_impl": _OTHER_MODEL,
    "quantization_config": f"{_UNTRIED}; `quantization` names a method",
    "video_pruning_rate": _OTHER_MODEL,
    "mm_encoder_only": _OTHER_MODEL,
    "language_model_only": _OTHER_MODEL,
    "hf_token": "no key of a config holds a secret",
    "worker_cls": _CODE,
    "worker_extension_cls": _CODE,
    "scheduler_cls": _CODE,
    "io_processor_plugin": _CODE,
    "reasoning_parser_plugin": _CODE,
    "pt_load_map_location": _CODE,
    "additional_config": _CODE,
    "compilation_config": "it can name code and files; optimization_level sets most",
    "kv_transfer_config": _CODE,
    "ec_transfer_config": _CODE,
    "allowed_local_media_path": "pictures are handed over in memory",
    "allowed_media_domains": "pictures are handed over in memory",
    "enable_log_requests": _LOGS,
    "log_config_file": _LOGS,
    "log_level": _LOGS,
    "otlp_traces_endpoint": _LOGS,
    "collect_detailed_traces": _LOGS,
}


def check_deepspeed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as DeepSpeed takes them, nested as they were.

    Raises:
        ValueError: an unknown or refused key, or a value of another kind; all are listed.
    """
    found = _check(dict(_walk(values)), DEEPSPEED, REFUSED_DEEPSPEED, "DeepSpeed")
    nested: dict[str, Any] = {}
    for name, value in found.items():
        *sections, key = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return nested


def check_engine_args(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as vLLM takes them.

    Raises:
        ValueError: as `check_deepspeed`.
    """
    return _check(values, ENGINE_ARGS, REFUSED_ENGINE_ARGS, "vLLM")


def check_stage(values: Mapping[str, Any], stage: int) -> None:
    """Refuse what does nothing, or fails, in this ZeRO stage.

    Raises:
        ValueError: names the key and the stages that it works in.
    """
    for name, value in _walk(values):
        stages = STAGES.get(name, (1, 2, 3))
        if stage not in stages and value is not False:
            listed = " or ".join(map(str, stages))
            raise ValueError(f"deepspeed.{name} needs zero_stage={listed}, not {stage}")


def _walk(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" not in REFUSED_DEEPSPEED:
            yield from _walk(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check(
    values: Mapping[str, Any], allowed: Mapping[str, Kind], refused: Mapping[str, str], library: str
) -> dict[str, Any]:
    problems = [
        p for name, value in values.items() if (p := _problem(name, value, allowed, refused))
    ]
    known = allowed.keys() | refused.keys() | _sections(allowed)
    unknown = [name for name in values if name not in known]
    hint = f". Expected keys of {library} among {', '.join(allowed)}" if unknown else ""
    if problems:
        raise ValueError("; ".join(problems) + hint)
    return {name: int(v) if _is_whole(v) else v for name, v in values.items()}


def _sections(allowed: Iterable[str]) -> set[str]:
    """
    >>> _sections(["zero_optimization.overlap_comm", "communication_data_type"])
    {'zero_optimization'}
    """
    return {name.rpartition(".")[0] for name in allowed if "." in name}


def _problem(
    name: str, value: Any, allowed: Mapping[str, Kind], refused: Mapping[str, str]
) -> str | None:
    """
    >>> _problem("load_format", "auto", ENGINE_ARGS, REFUSED_ENGINE_ARGS)
    'load_format is refused: engines serve what the trainer published, and read nothing else'
    >>> _problem("block_sise", 16, ENGINE_ARGS, REFUSED_ENGINE_ARGS)
    "block_sise is unknown or not let through (did you mean 'block_size'?)"
    """
    if name in refused:
        return f"{name} is refused: {refused[name]}"
    if name in _sections(allowed):
        inner = next(key for key in allowed if key.startswith(f"{name}."))
        return f"{name} is {value!r}, expected keys in it, such as {inner}"
    if name not in allowed:
        near = difflib.get_close_matches(name, allowed, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{name} is unknown or not let through{hint}"
    if not allowed[name].accepts(value):
        return f"{name} is {value!r}, expected {allowed[name].words}"
    return None
