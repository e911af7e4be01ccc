"""Keys of DeepSpeed and vLLM: which pass, held against the installed versions."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import vllm
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from vllm import AsyncEngineArgs
from vllm.config.cache import CacheDType
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from virgo_ray.config import (
    TrainConfig,
    derive_gpus,
    find_contradictions,
    load_config,
    refuse_without_gpus,
)
from virgo_ray.config.contradictions import ON_CPUS
from virgo_ray.config.passthrough import (
    ATTENTION,
    DEEPSPEED,
    ENGINE_ARGS,
    QUANTIZATIONS,
    REFUSED_DEEPSPEED,
    REFUSED_ENGINE_ARGS,
    STAGES,
    VISION_ATTENTION,
    ZERO,
)
from virgo_ray.errors import ConfigError

ROOT = Path(__file__).parents[2]
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


def test_the_attention_that_may_be_chosen_is_known_to_vllm_for_decoders_and_vision_towers():
    assert set(ATTENTION) | set(VISION_ATTENTION) <= AttentionBackendEnum.__members__.keys()
    source = Path(vllm.__file__).with_name("platforms") / "cuda.py"  # cannot be imported on a CPU
    after = source.read_text(encoding="utf-8").partition("def get_supported_vit_attn_backends")[2]
    listed = after.partition("def ")[0]
    assert set(VISION_ATTENTION) == set(re.findall(r"BackendEnum\.([A-Z_]+)", listed))


def test_the_docs_have_every_key_that_passes_and_every_one_that_is_refused_with_its_reason():
    text = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    lists = {
        "deepspeed": (DEEPSPEED, REFUSED_DEEPSPEED),
        "engine_args": (ENGINE_ARGS, REFUSED_ENGINE_ARGS),
    }
    for name, (allowed, refused) in lists.items():
        (passing,) = re.findall(rf"\n\| `\w+\.{name}` \| values \|\n((?:\|.*\n)+)", text)
        keys = [key for row in passing.splitlines()[1:] for key in quoted(row)]
        assert sorted(keys) == sorted(key.removeprefix(ZERO) for key in allowed)
        (reasons,) = re.findall(rf"\n\| refused in `\w+\.{name}` \| why \|\n((?:\|.*\n)+)", text)
        rows = reasons.splitlines()[1:]
        found = {key: row.split(" | ")[1].removesuffix(" |") for row in rows for key in quoted(row)}
        assert found == refused


def quoted(row: str) -> list[str]:
    """The keys of a row's first cell."""
    return [key for key in re.findall(r"`([\w.]+)`", row.split(" | ")[0]) if key + "." != ZERO]


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
        ("train.deepspeed.zero_optimization.round_robin_gradients=true", "of a checkpoint's param"),
        ("train.deepspeed.zero_optimization=3", "is 3, expected keys in it, such as zero_optim"),
        ("rollout.engine_args.kv_offloading_size=4", "would outlive the weights of a push"),
        ("rollout.engine_args.cpu_offload_gb=4", "was not tried with it"),
        ("rollout.engine_args.optimization_level=true", "expected one of 0, 1, 2, 3"),
        ("rollout.engine_args.mm_processor_cache_gb=.inf", "expected a number of at least 0"),
        ("rollout.engine_args.watermark=.nan", "expected a number from 0 to 1"),
        ("rollout.engine_args.block_size=.inf", "expected a whole number of at least 1"),
        ("rollout.engine_args.attention_backend=TRITON", "expected one of FLASH_ATTN, FLASHINFER"),
        ("train.offload=optimizer train.zero_stage=1", "expected zero_stage=2 or 3"),
        ("train.offload=optimizer_and_parameters", "expected zero_stage=3"),
    ],
)
def test_a_refused_or_unknown_key_is_named_with_the_reason(override, words):
    assert words in said_of(*override.split())


def test_all_that_may_pass_is_listed_only_for_a_key_that_nobody_knows():
    listed = "Expected keys of vLLM among quantization, kv_cache_dtype"
    assert f"(did you mean 'block_size'?). {listed}" in said_of("rollout.engine_args.block_sise=16")
    for wrong in ("block_size=0", "load_format=dummy"):
        assert listed not in said_of(f"rollout.engine_args.{wrong}")
    assert "among" not in said_of("train.deepspeed.zero_optimization=3")


def test_what_passes_arrives_nested_as_deepspeed_takes_it_and_whole():
    cfg = load_config(
        TINY,
        [
            "train.zero_stage=3", "train.deepspeed.zero_optimization.reduce_bucket_size=5e6",
            "train.deepspeed.communication_data_type=bf16", "model.dtype=bfloat16",
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


@pytest.mark.parametrize("method", QUANTIZATIONS)
def test_engines_on_the_cpu_are_quantised_by_the_one_method_that_works_there(method):
    named = f"rollout.engine_args.quantization={method}"
    cfg = load_config(TINY, [named, "model.dtype=bfloat16"])
    refuse_without_gpus(derive_gpus(cfg, 1))
    if method == ON_CPUS:
        refuse_without_gpus(derive_gpus(cfg, 0))
        return
    with pytest.raises(ConfigError, match=f"{method} with engines on the CPU"):
        refuse_without_gpus(derive_gpus(cfg, 0))


def test_gradients_of_a_float32_model_are_not_rounded_between_ranks():
    named = "train.deepspeed.communication_data_type"
    (found,) = find_contradictions(load_config(TINY, [f"{named}=bf16"]))
    assert found.keys == (named, "model.dtype") and "rounds gradients" in found.text
    assert not find_contradictions(load_config(TINY, [f"{named}=bf16", "model.dtype=bfloat16"]))
    assert not find_contradictions(load_config(TINY, [f"{named}=fp32"]))
