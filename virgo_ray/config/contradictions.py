"""Keys that contradict each other: each value is possible, and together they can never do anything.

A contradiction names its keys, what they say and what to set. It is found before anything starts,
on what a user asks for: a run that was begun by an earlier version goes on with what it has. Where
a key is compared with its default, an untouched default contradicts nothing. Knows no data, no
model and no machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from virgo_ray.config.describing import flatten
from virgo_ray.config.explore import HARD_PASS_RATE, SamplingConfig
from virgo_ray.config.reinforcing import contradict_objective
from virgo_ray.config.section import Section
from virgo_ray.config.verify import FORMATS
from virgo_ray.config.whole import Config
from virgo_ray.errors import ConfigError

# Right bfloat16 implementations differ by 0.3 nats at single tokens.
LEAST_BFLOAT16_DIFF = 0.1
# The method of `quantization` with which an engine on a CPU was started and pushed to. With fp8 its
# start ends for want of a kernel; the rest was not seen to start. An 8-bit cache of keys and values
# works there, where the CPU has AVX-512 or AMX.
ON_CPUS = "int8_per_channel_weight_only"
# Examples of a rank in a step: the fewer, the less their lengths even out between ranks.
FEW_A_RANK, ENOUGH_A_RANK = 4, 8
# What makes vLLM take a prompt in several parts, or could.
PREFILL_IN_PARTS = {
    "max_num_batched_tokens", "max_num_scheduled_tokens", "long_prefill_token_threshold",
    "enable_chunked_prefill",
}  # fmt: skip


@dataclass(frozen=True)
class Contradiction:
    """Dotted keys that cannot hold together, and a sentence about them."""

    keys: tuple[str, ...]
    text: str


def refuse_contradictions(cfg: Config, begun_with: Mapping[str, Any] | None = None) -> list[str]:
    """Refuse keys that contradict each other; returns what is let through with a warning.

    Args:
        begun_with: dotted keys and values of a run that has begun. What has been so from its
            beginning is let through.

    Raises:
        ConfigError: there are contradictions; all of them are listed.
    """
    flat, old = flatten(cfg), begun_with or {}
    found = find_contradictions(cfg)
    is_new = [any(key not in old or old[key] != flat.get(key) for key in c.keys) for c in found]
    new = [c.text for c, refused in zip(found, is_new, strict=True) if refused]
    if new:
        raise ConfigError("keys that contradict each other:\n  " + "\n  ".join(new))
    return [c.text for c in found]


def find_contradictions(cfg: Config) -> list[Contradiction]:
    """All contradictions of a config, in the order of its sections."""
    return [
        *_places(cfg), *_precision(cfg), *_greedy_samples(cfg), *_numbers_of_samples(cfg),
        *_lengths(cfg), *_thoughts(cfg), *_seeds(cfg), *_gates(cfg), *_unused(cfg),
        *_quantised(cfg), *_reduced(cfg), *_without_gpus(cfg), *_unwritten(cfg),
        *_unkept(cfg), *_adapters(cfg),
        *(Contradiction(keys, text) for keys, text in contradict_objective(cfg)),
    ]  # fmt: skip


def refuse_without_gpus(cfg: Config) -> None:
    """Refuse keys that need GPUs, once it is known that there are none.

    Raises:
        ConfigError: there are such keys; all of them are listed.
    """
    if found := list(_without_gpus(cfg)):
        raise ConfigError("keys that need GPUs:\n  " + "\n  ".join(c.text for c in found))


def find_weaknesses(cfg: Config) -> list[str]:
    """What is possible and wastes most of the machine, or its memory: noted at the start, never
    refused."""
    return [*_few_a_rank(cfg), *_long_pairs(cfg)]


def _long_pairs(cfg: Config) -> list[str]:
    longest, limit = 2 * cfg.model.max_length, cfg.train.micro_batch_tokens
    if cfg.train.objective.name != "dpo" or longest <= limit:
        return []
    return [
        f"train.micro_batch_tokens={limit} with train.objective.name=dpo: the two rollouts of a "
        f"pair are one micro-batch of up to {longest} tokens (twice model.max_length), longer than "
        "that if need be; a lower model.max_length bounds the memory"
    ]


def _few_a_rank(cfg: Config) -> list[str]:
    ranks, batch = cfg.train.num_workers, cfg.train.batch_size
    if ranks == 1 or batch // ranks >= FEW_A_RANK:
        return []
    fewer = max(
        (n for n in range(1, ranks) if batch % n == 0 and batch // n >= ENOUGH_A_RANK), default=1
    )
    return [
        f"train.batch_size={batch} over train.num_workers={ranks} leaves {batch // ranks} examples "
        "a rank and step, and every rank waits for the one with the longest; "
        f"train.batch_size={ENOUGH_A_RANK * ranks} (another recipe), or train.num_workers={fewer} "
        "where memory allows, would keep them busy"
    ]


def _places(cfg: Config) -> Iterator[Contradiction]:
    engines, ranks = cfg.rollout.gpus_per_worker, cfg.train.gpus_per_worker
    if engines is not None and ranks is not None and bool(engines) != bool(ranks):
        yield Contradiction(
            ("rollout.gpus_per_worker", "train.gpus_per_worker"),
            f"rollout.gpus_per_worker={engines} with train.gpus_per_worker={ranks} puts one side "
            "on GPUs and the other on the CPU, whose numbers differ; expected both 0 or neither: "
            "leave them out, and they are derived from the cluster",
        )


def _precision(cfg: Config) -> Iterator[Contradiction]:
    limit = cfg.push.max_logprob_diff
    if cfg.model.dtype == "bfloat16" and limit is not None and limit < LEAST_BFLOAT16_DIFF:
        yield Contradiction(
            ("model.dtype", "push.max_logprob_diff"),
            f"push.max_logprob_diff={limit:g} with model.dtype=bfloat16: right weights differ by "
            f"more, so every push would fail; expected at least {LEAST_BFLOAT16_DIFF:g}: leave it "
            "out, or set model.dtype=float32",
        )


def _adapters(cfg: Config) -> Iterator[Contradiction]:
    if cfg.push.transport == "adapter" and cfg.train.lora is None:
        yield Contradiction(
            ("push.transport", "train.lora"),
            "push.transport=adapter without train.lora: there are no adapters to send; expected "
            "push.transport=auto, or train.lora.rank set",
        )


def _quantised(cfg: Config) -> Iterator[Contradiction]:
    """The probe of a float32 run lets engines be 0.001 nats away; eight bits are more."""
    if cfg.model.dtype != "float32" or cfg.push.max_logprob_diff is not None:
        return
    for name in ("quantization", "kv_cache_dtype"):
        value = cfg.rollout.engine_args.get(name, "auto")
        if value != "auto":
            yield Contradiction(
                (f"rollout.engine_args.{name}", "model.dtype", "push.max_logprob_diff"),
                f"rollout.engine_args.{name}={value} with model.dtype=float32: engines would be "
                "farther from the trainer than the 0.001 nats that the probe lets pass, so every "
                "push would fail; expected model.dtype=bfloat16, or push.max_logprob_diff set",
            )


def _reduced(cfg: Config) -> Iterator[Contradiction]:
    """A float32 run asks for exact sums, and its gradients would be rounded on their way."""
    value = cfg.train.deepspeed.get("communication_data_type", "fp32")
    if cfg.model.dtype == "float32" and value != "fp32":
        yield Contradiction(
            ("train.deepspeed.communication_data_type", "model.dtype"),
            f"train.deepspeed.communication_data_type={value} with model.dtype=float32 rounds "
            "gradients between ranks that are float32 on each; expected fp32, or "
            "model.dtype=bfloat16",
        )


def _without_gpus(cfg: Config) -> Iterator[Contradiction]:
    """Where GPUs are left to the cluster, this is asked again when it is known what it has."""
    if cfg.train.liger and cfg.train.gpus_per_worker == 0:
        yield Contradiction(
            ("train.liger", "train.gpus_per_worker"),
            "train.liger=true with ranks on the CPU: its kernels run on GPUs only; expected "
            "train.liger=false",
        )
    parts = sorted(PREFILL_IN_PARTS & cfg.rollout.engine_args.keys())
    if parts and cfg.rollout.gpus_per_worker == 0:
        yield Contradiction(
            (f"rollout.engine_args.{parts[0]}", "rollout.gpus_per_worker"),
            f"rollout.engine_args.{parts[0]} with engines on the CPU: they take every prompt "
            "whole, because PyTorch cannot wind its random generator back there; leave it out",
        )
    method = cfg.rollout.engine_args.get("quantization", ON_CPUS)
    if method != ON_CPUS and cfg.rollout.gpus_per_worker == 0:
        yield Contradiction(
            ("rollout.engine_args.quantization", "rollout.gpus_per_worker"),
            f"rollout.engine_args.quantization={method} with engines on the CPU: no engine "
            f"has started with it there; expected {ON_CPUS}, or leave it out",
        )


def _greedy_samples(cfg: Config) -> Iterator[Contradiction]:
    num = cfg.explore.num_samples + cfg.explore.extra.max_samples if cfg.rounds else 0
    if num > 1 and (key := _greedy_key(cfg.explore.sampling, cfg.explore.temperatures)):
        yield Contradiction(
            (f"explore.{key}", "explore.num_samples", "explore.extra.max_samples"),
            f"explore.{key}={_at(cfg, 'explore', key)} makes the {num} rollouts of a problem "
            "(explore.num_samples and explore.extra.max_samples) the same one; expected a "
            "temperature above 0 and top_k other than 1, or explore.num_samples=1 without extra "
            "ones",
        )
    if cfg.evaluate.k > 1 and (key := _greedy_key(cfg.evaluate.sampling)):
        yield Contradiction(
            (f"evaluate.{key}", "evaluate.k"),
            f"evaluate.{key}={_at(cfg, 'evaluate', key)} makes the evaluate.k={cfg.evaluate.k} "
            "samples of a problem the same one; expected a temperature above 0 and top_k other "
            "than 1, or evaluate.k=1",
        )


def _greedy_key(sampling: SamplingConfig, temperatures: tuple[float, ...] = ()) -> str:
    """The key that makes sampling greedy; empty if none does."""
    if sampling.top_k == 1:
        return "sampling.top_k"
    if temperatures:
        return "temperatures" if 0 in temperatures else ""
    return "" if sampling.temperature else "sampling.temperature"


def _at(cfg: Config, section: str, key: str) -> Any:
    value = flatten(cfg)[f"{section}.{key}"]
    return f"{value:g}" if isinstance(value, float) else value


def _numbers_of_samples(cfg: Config) -> Iterator[Contradiction]:
    explore, select = cfg.explore, cfg.select
    least, most = explore.num_samples, explore.num_samples + explore.extra.max_samples
    asked = ("explore.num_samples", "explore.extra.max_samples")
    if select.policy == "improved" and select.min_correct > most:
        yield Contradiction(
            ("select.min_correct", *asked),
            f"select.min_correct={select.min_correct} can never be met with {most} rollouts of a "
            "problem (explore.num_samples and explore.extra.max_samples); expected at most as many",
        )
    until = explore.extra.until_correct
    if (
        explore.extra.max_samples
        and until > most
        and not _is_default(explore.extra, "until_correct")
    ):
        yield Contradiction(
            ("explore.extra.until_correct", *asked),
            f"explore.extra.until_correct={until} can never be met with {most} rollouts of a "
            "problem (explore.num_samples and explore.extra.max_samples); expected at most as many",
        )
    rates = {i / n for n in range(least, most + 1) for i in range(n + 1)}
    is_hard = select.policy == "faithful" and select.split == "hard"
    if is_hard and not any(HARD_PASS_RATE <= rate < select.min_pass_rate for rate in rates):
        yield Contradiction(
            ("select.split", "select.min_pass_rate", *asked),
            f"select.split=hard takes pass rates from {HARD_PASS_RATE:g} up to "
            f"select.min_pass_rate={select.min_pass_rate:g}, and {least} rollouts of a problem "
            "have none between; expected more samples (5 in the paper), or a higher min_pass_rate",
        )


def _lengths(cfg: Config) -> Iterator[Contradiction]:
    seeds, longest = cfg.data.seed_thoughts, cfg.model.max_length
    if seeds.max_tokens is not None and seeds.min_tokens > seeds.max_tokens:
        yield Contradiction(
            ("data.seed_thoughts.min_tokens", "data.seed_thoughts.max_tokens"),
            f"data.seed_thoughts.min_tokens={seeds.min_tokens} with max_tokens={seeds.max_tokens} "
            "lets no thought pass; expected at most max_tokens",
        )
    elif seeds.min_tokens >= longest:
        yield Contradiction(
            ("data.seed_thoughts.min_tokens", "model.max_length"),
            f"data.seed_thoughts.min_tokens={seeds.min_tokens} lets no thought pass that fits "
            f"model.max_length={longest}; expected less",
        )


def _thoughts(cfg: Config) -> Iterator[Contradiction]:
    tags = FORMATS[0] if cfg.prompt.thought_format == "tags" else FORMATS[1]
    known = [(f.begin_thought, f.end_thought) for f in cfg.verify.formats]
    if (tags.begin_thought, tags.end_thought) not in known:
        yield Contradiction(
            ("prompt.thought_format", "verify.formats"),
            f"prompt.thought_format={cfg.prompt.thought_format} teaches thoughts between "
            f"{tags.begin_thought} and {tags.end_thought}, which verify.formats does not know, so "
            "no answer would count as a thought; expected these tags among verify.formats",
        )


def _seeds(cfg: Config) -> Iterator[Contradiction]:
    """No seed thoughts, and the default floor, which puts back as many as the share leaves out."""
    train = cfg.train
    shares = train.seed_share if isinstance(train.seed_share, tuple) else (train.seed_share,)
    if 0 in shares and _is_default(train, "seed_floor"):
        yield Contradiction(
            ("train.seed_share", "train.seed_floor"),
            f"train.seed_share={_at(cfg, 'train', 'seed_share')} leaves a round without seed "
            f"thoughts, and train.seed_floor={train.seed_floor:g}, the default, puts them back; "
            "expected train.seed_floor=0 for traces alone, a floor below 1 for some seed thoughts, "
            "or no seed_share",
        )


def _gates(cfg: Config) -> Iterator[Contradiction]:
    """A limit that was chosen for a figure that nobody measures."""
    if cfg.gates is None:
        return
    evaluate = cfg.evaluate
    needs = {
        "max_perception_fall": ("evaluate.perception", evaluate.perception is not None, "a source"),
        "max_text_fall": ("evaluate.text", evaluate.text is not None, "a source"),
        "max_blank_image_rise": ("evaluate.blank_image", evaluate.blank_image, "true"),
        "min_distinct_share": ("evaluate.k", evaluate.k > 1, "2 or more"),
    }
    for name, (key, is_measured, expected) in needs.items():
        limit = getattr(cfg.gates, name)
        if is_measured or limit is None or _is_default(cfg.gates, name):
            continue
        yield Contradiction(
            (f"gates.{name}", key),
            f"gates.{name}={limit:g} limits what is not measured; expected {key} to be {expected}, "
            f"or gates.{name}=null",
        )


def _unused(cfg: Config) -> Iterator[Contradiction]:
    weight = cfg.select.blank_solved_weight
    if not cfg.explore.blank_probe and not _is_default(cfg.select, "blank_solved_weight"):
        yield Contradiction(
            ("select.blank_solved_weight", "explore.blank_probe"),
            f"select.blank_solved_weight={weight:g} weighs what is not asked; expected "
            "explore.blank_probe=true, or no such key",
        )


def _unwritten(cfg: Config) -> Iterator[Contradiction]:
    """Weights that are not written can come from the trainer's memory alone."""
    every, key = cfg.weights.publish_every, "weights.publish_every"
    if every > 1 and cfg.push.transport == "disk":
        yield Contradiction(
            (key, "push.transport"),
            f"{key}={every} with push.transport=disk: engines would read weights that are not "
            f"written; expected another transport, such as auto, or {key}=1",
        )
    if every > 1 and cfg.train.restart_from == "previous" and not cfg.train.resident:
        yield Contradiction(
            (key, "train.resident"),
            f"{key}={every} with train.restart_from=previous: every fit would load weights that "
            f"are not written; expected train.resident=true, or {key}=1",
        )


def _unkept(cfg: Config) -> Iterator[Contradiction]:
    """An optimizer that is carried on lies beside weights that are written."""
    every, key = cfg.weights.publish_every, "weights.publish_every"
    if every > 1 and cfg.train.carry_optimizer:
        yield Contradiction(
            (key, "train.carry_optimizer"),
            f"{key}={every} with train.carry_optimizer=true: weights that are not written could "
            "not be trained again, for want of the optimizer that they were trained with; expected "
            f"{key}=1, or train.carry_optimizer=false",
        )
    planned, num = cfg.train.schedule_steps, cfg.train.objective.steps
    if planned and num and cfg.train.schedule != "constant" and planned < cfg.rounds * num:
        yield Contradiction(
            ("train.schedule_steps", "train.objective.num_steps", "rounds"),
            f"train.schedule_steps={planned} with rounds={cfg.rounds} of {num} optimizer steps: "
            "the learning rate is zero before the last round; expected at least "
            f"{cfg.rounds * num}",
        )


def _is_default(section: Section, name: str) -> bool:
    default = type(section).model_fields[name].default
    return bool(getattr(section, name) == default)
