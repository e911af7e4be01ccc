"""Keys that cannot hold together with an objective that learns from groups of rollouts.

A policy gradient is that of the expected reward only where a group is a plain sample of the weights
that are trained: nothing may choose its members by their outcome, and their probabilities must be
known. What breaks that is refused here, and never corrected silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from virgo_ray.config.objective import ObjectiveConfig
from virgo_ray.config.section import Section
from virgo_ray.config.whole import Config

Found = Iterator[tuple[tuple[str, ...], str]]
NAME = "train.objective.name"
LEAST_TEMPERATURE = 0.01  # vLLM raises what is below, but above 0, to this


def contradict_objective(cfg: Config) -> Found:
    """Keys and a sentence of every contradiction with `train.objective`."""
    yield from _idle_options(cfg.train.objective)
    yield from _unmeasured_gates(cfg)
    if cfg.train.objective.is_reinforcement:
        yield from _groups(cfg)
        yield from _spread(cfg)
    if cfg.train.objective.is_on_policy:
        yield from _on_policy(cfg)
        yield from _temperatures(cfg)


def _idle_options(objective: ObjectiveConfig) -> Found:
    """Options of another objective than the one that is named."""
    default = ObjectiveConfig()
    for name in ("reward_weighted", "dpo", "grpo"):
        if name != objective.name and getattr(objective, name) != getattr(default, name):
            yield (
                (NAME, *_changed(f"train.objective.{name}", getattr(objective, name))),
                f"train.objective.{name} is set with {NAME}={objective.name}, which does not read "
                f"it; expected {NAME}={name}, or no such keys",
            )
    if objective.name == "dpo" and objective.max_advantage != default.max_advantage:
        yield (
            (NAME, "train.objective.max_advantage"),
            f"train.objective.max_advantage is set with {NAME}=dpo, which has no advantages; "
            "expected another objective, or no such key",
        )
    for key in ("rewards", "num_steps", "max_advantage", "max_refills"):
        is_set = getattr(objective, key) != getattr(default, key)
        if is_set and not objective.is_reinforcement:
            yield (
                (NAME, f"train.objective.{key}"),
                f"train.objective.{key} is set with {NAME}=imitation, which learns from no "
                "groups; expected another objective, or no such key",
            )


def _unmeasured_gates(cfg: Config) -> Found:
    """Limits of what fits of this objective do not say."""
    if cfg.gates is None:
        return
    objective = cfg.train.objective
    if cfg.gates.min_entropy is not None and objective.name in ("imitation", "dpo"):
        yield (
            (NAME, "gates.min_entropy"),
            f"gates.min_entropy={cfg.gates.min_entropy:g} with {NAME}={objective.name}, whose fits "
            "do not measure entropy; expected reward_weighted, rloo or grpo, or no such key",
        )
    if cfg.gates.max_kl is not None:
        is_measured = objective.name == "grpo" and objective.has_reference
        if not is_measured or objective.steps == 1:
            yield (
                (NAME, "gates.max_kl"),
                f"gates.max_kl={cfg.gates.max_kl:g} with {NAME}={objective.name} of "
                f"{objective.steps or 'no given number of'} steps: it is measured in the last "
                "step before its update, by grpo with old_logprobs=trainer or kl above 0, and is 0 "
                "in a first step; expected grpo with num_steps of 2 or more, or no such key",
            )


def _groups(cfg: Config) -> Found:
    """Groups are all samples of a problem, asked for whatever comes out."""
    name, explore = cfg.train.objective.name, cfg.explore
    if explore.extra.max_samples:
        yield (
            (NAME, "explore.extra.max_samples"),
            f"explore.extra.max_samples={explore.extra.max_samples} with {NAME}={name}: extra "
            "rollouts go to problems with few correct ones, so a group's size depends on its "
            "outcome and its mean is biased; expected 0, and a larger explore.num_samples",
        )
    if explore.num_samples < 2 and cfg.rounds:
        yield (
            (NAME, "explore.num_samples"),
            f"explore.num_samples={explore.num_samples} with {NAME}={name}: a group of one has "
            "nothing to be compared with; expected at least 2, usually 8",
        )


def _temperatures(cfg: Config) -> Found:
    """Every temperature that a round may be sampled at."""
    name, explore = cfg.train.objective.name, cfg.explore
    key = "temperatures" if explore.temperatures else "sampling.temperature"
    least = min(explore.temperatures or (explore.sampling.temperature,))
    if 0 < least < LEAST_TEMPERATURE:
        yield (
            (NAME, f"explore.{key}"),
            f"explore.{key} has {least:g} with {NAME}={name}: vLLM samples at "
            f"{LEAST_TEMPERATURE:g} then, and the trainer would score at {least:g}; expected at "
            f"least {LEAST_TEMPERATURE:g}",
        )


def _spread(cfg: Config) -> Found:
    """What the trainer cannot do with an objective."""
    train = cfg.train
    objective = train.objective
    if objective.name == "dpo" and not train.packing:
        yield (
            (NAME, "train.packing"),
            f"train.packing=false with {NAME}=dpo: the two rollouts of a pair are one packed row; "
            "expected train.packing=true",
        )
    if objective.name == "rloo" and (objective.num_steps or 1) > 1:
        yield (
            (NAME, "train.objective.num_steps"),
            f"train.objective.num_steps={objective.num_steps} with {NAME}=rloo: after the first "
            "step the weights are not those that sampled, and nothing bounds how far a negative "
            f"advantage drives a probability down; expected 1, or {NAME}=grpo",
        )
    if objective.steps and (train.num_tokens or train.stop_epoch):
        key = "num_tokens" if train.num_tokens else "stop_epoch"
        yield (
            (NAME, "train.objective.num_steps", f"train.{key}"),
            f"train.{key} with {NAME}={objective.name}, whose fit is of {objective.steps} steps "
            f"over all examples once; expected no train.{key}",
        )
    if (objective.has_reference or objective.is_on_policy) and train.lora and train.lora.dropout:
        yield (
            (NAME, "train.lora.dropout"),
            f"train.lora.dropout={train.lora.dropout:g} with {NAME}={objective.name}: "
            "probabilities with dropout are not those that sampled or those of the start weights; "
            "expected train.lora.dropout=0",
        )


def _on_policy(cfg: Config) -> Found:
    """The gradient is taken at the weights, and of the distribution, that sampled."""
    name, sampling = cfg.train.objective.name, cfg.explore.sampling
    neutral: dict[str, Any] = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    for key, none in neutral.items():
        if (value := getattr(sampling, key)) != none:
            yield (
                (NAME, f"explore.sampling.{key}"),
                f"explore.sampling.{key}={value:g} with {NAME}={name}: it changes the "
                "probabilities that tokens are drawn with, which the trainer does not repeat; "
                f"expected {none:g}",
            )
    if cfg.train.restart_from == "base":
        yield (
            (NAME, "train.restart_from"),
            f"train.restart_from=base with {NAME}={name}: rollouts are of the weights before, and "
            "a fit that starts elsewhere does not raise their reward; expected "
            "train.restart_from=previous (dpo and reward_weighted may start from the base)",
        )
    if cfg.teacher is not None:
        yield (
            (NAME, "teacher"),
            f"a teacher with {NAME}={name}: the probabilities of its tokens are not those of the "
            "weights that are trained; expected no teacher (dpo and reward_weighted may have one)",
        )


def _changed(prefix: str, section: Section) -> list[str]:
    """Dotted names of the keys of a section that are not at their defaults."""
    default = type(section)()
    return [
        f"{prefix}.{key}"
        for key in type(section).model_fields
        if getattr(section, key) != getattr(default, key)
    ]
