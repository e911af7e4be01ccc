"""Keys of DeepSpeed and vLLM: which pass, held against the installed versions."""

from __future__ import annotations

import dataclasses

import pytest
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from vllm import AsyncEngineArgs
from vllm.config.cache import CacheDType
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

from virgo_ray.config import (
    TrainConfig,
    derive_gpus,
    find_contradictions,
    load_config,
    refuse_without_gpus,
)
from virgo_ray.config.passthrough import (
    DEEPSPEED,
    ENGINE_ARGS,
    QUANTIZATIONS,
    REFUSED_DEEPSPEED,
    REFUSED_ENGINE_ARGS,
    STAGES,
    ZERO,
)
from virgo_ray.errors import ConfigError

TINY = "configs/tiny.yaml"


def said_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(TINY, overrides)
    return str(caught.value)


def test_every_key_of_deepspeed_is_one_of_the_installed_version_with_a_value_that_it_takes():
    fields = DeepSpeedZeroConfig.model_fields
    known = {*fields, *(field.alias for field in fields.values() if field.alias)}
    zero = {name.removeprefix(ZERO): kind for name, kind in DEEPSPEED.items() if ZERO in name}
    refused = {name.removeprefix(ZERO) for name in REFUSED_DEEPSPEED if ZERO in name}
    assert zero.keys() | refused <= known
    taken = DeepSpeedZeroConfig(stage=3, **{name: kind.example for name, kind in zero.items()})
    for name, kind in zero.items():
        attribute = next(n for n, field in fields.items() if name in (n, field.alias))
        assert getattr(taken, attribute) == kind.example, name
    assert not DEEPSPEED.keys() & REFUSED_DEEPSPEED.keys() and STAGES.keys() <= DEEPSPEED.keys()


def test_every_argument_of_vllm_is_one_of_the_installed_version():
    fields = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert ENGINE_ARGS.keys() | REFUSED_ENGINE_ARGS.keys() <= fields
    assert not ENGINE_ARGS.keys() & REFUSED_ENGINE_ARGS.keys()
    assert set(QUANTIZATIONS) <= set(QUANTIZATION_METHODS)
    dtypes = ("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")
    assert all(ENGINE_ARGS["kv_cache_dtype"].accepts(name) for name in dtypes)
    assert set(dtypes) <= set(CacheDType.__args__)


def test_what_the_run_promises_about_an_engine_is_refused_by_name():
    """Whatever `engine_args` sets, but for what may be another number, must be refused."""
    set_by_us = {
        "model", "dtype", "max_model_len", "trust_remote_code", "mm_processor_kwargs",
        "limit_mm_per_prompt", "max_num_seqs", "enforce_eager", "generation_config",
        "worker_extension_cls", "use_tqdm_on_load", "disable_log_stats", "seed", "load_format",
        "kv_cache_memory_bytes", "distributed_executor_backend", "tensor_parallel_size",
        "gpu_memory_utilization", "enable_sleep_mode", "model_loader_extra_config",
    }  # fmt: skip
    assert set_by_us <= REFUSED_ENGINE_ARGS.keys()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollout.engine_args.load_format=dummy", "load_format is refused: engines serve"),
        ("rollout.engine_args.worker_extension_cls=x.Y", "names code to be run"),
        ("rollout.engine_args.seed=1", "seed is refused: a request is sampled"),
        ("rollout.engine_args.trust_remote_code=true", "model.trust_remote_code sets it"),
        ("rollout.engine_args.block_sise=16", "did you mean 'block_size'?"),
        ("rollout.engine_args.block_size=0", "expected a whole number of at least 1"),
        ("rollout.engine_args.quantization=awq", "expected one of fp8, fp8_per_tensor"),
        ("rollout.engine_args.enable_prefix_caching=1", "expected true or false"),
        ("train.deepspeed.zero_optimization.stage=3", "train.zero_stage sets it"),
        ("train.deepspeed.gradient_clipping=1", "train.max_grad_norm sets it"),
        ("train.deepspeed.optimizer.type=Adam", "optimizer is refused"),
        ("train.deepspeed.zero_optimization.reduce_buket_size=5", "did you mean 'zero_optim"),
        ("train.deepspeed.reduce_bucket_size=5", "did you mean 'zero_optimization.reduce_buck"),
        ("train.deepspeed.zero_optimization.zero_hpz_partition_size=2", "needs zero_stage=3"),
        ("train.deepspeed.communication_data_type=fp8", "expected one of fp32, bf16"),
        ("train.offload=optimizer train.zero_stage=1", "expected zero_stage=2 or 3"),
        ("train.offload=optimizer_and_parameters", "expected zero_stage=3"),
    ],
)
def test_a_refused_or_unknown_key_is_named_with_the_reason(override, words):
    assert words in said_of(*override.split())


def test_what_passes_arrives_nested_as_deepspeed_takes_it_and_whole():
    cfg = load_config(
        TINY,
        [
            "train.zero_stage=3", "train.deepspeed.zero_optimization.reduce_bucket_size=5e6",
            "train.deepspeed.communication_data_type=bf16",
            "rollout.engine_args.mm_encoder_tp_mode=data",
        ],
    )  # fmt: skip
    assert cfg.train.deepspeed == {
        "zero_optimization": {"reduce_bucket_size": 5_000_000}, "communication_data_type": "bf16",
    }  # fmt: skip
    assert cfg.rollout.engine_args == {"mm_encoder_tp_mode": "data"}


def test_a_stage_that_cannot_overlap_may_say_that_it_does_not():
    passed = {"zero_optimization": {"overlap_comm": False}}
    assert TrainConfig(zero_stage=1, deepspeed=passed).deepspeed == passed
    with pytest.raises(ValueError, match="needs zero_stage=2 or 3, not 1"):
        TrainConfig(zero_stage=1, deepspeed={"zero_optimization": {"overlap_comm": True}})


@pytest.mark.parametrize(
    "override", ["train.liger=true", "rollout.engine_args.max_num_batched_tokens=4096"]
)
def test_keys_that_need_gpus_are_refused_as_soon_as_it_is_known_that_there_are_none(override):
    cfg = load_config(TINY, [override])
    assert not find_contradictions(cfg)
    with pytest.raises(ConfigError, match="keys that need GPUs"):
        refuse_without_gpus(derive_gpus(cfg, 0))
    refuse_without_gpus(derive_gpus(cfg, 2))
    key = override.partition(".")[0]
    said = find_contradictions(load_config(TINY, [override, f"{key}.gpus_per_worker=0"]))
    assert any(override.partition("=")[0] in contradiction.text for contradiction in said)


@pytest.mark.parametrize("override", ["quantization=fp8", "kv_cache_dtype=fp8"])
def test_quantised_engines_of_a_float32_model_could_never_pass_the_probe(override):
    named = f"rollout.engine_args.{override}"
    (found,) = find_contradictions(load_config(TINY, [named]))
    assert "every push would fail" in found.text
    for way_out in ("model.dtype=bfloat16", "push.max_logprob_diff=0.5"):
        assert not find_contradictions(load_config(TINY, [named, way_out]))
