"""What would change the verdict: the config with one thing changed, and its peak."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from virgo_ray.config import Config, LoraConfig
from virgo_ray.plan.host import OFFLOADED
from virgo_ray.plan.whole import RunPlan

Replan = Callable[[Config], RunPlan]
Change = tuple[str, Any]


@dataclass(frozen=True)
class Way:
    """One alternative: its keys, a fit's peak on a rank's GPU (on CPUs: its tensors), that of the
    fullest GPU (or node) in any phase, whether all of it fits."""

    keys: str
    fit_peak: int
    peak: int
    is_fitting: bool
    remark: str = ""


def find_ways(cfg: Config, plan: RunPlan, replan: Replan) -> list[Way]:
    """The config as it is, then every alternative that it leaves."""
    found = [Way("as it is", fit_peak_of(plan), peak_of(plan), plan.is_fitting)]
    for changes in _alternatives(cfg, plan):
        other = replan(changed(cfg, changes))
        keys = " ".join(f"{key}={_shown(value)}" for key, value in changes)
        peaks = fit_peak_of(other), peak_of(other)
        found.append(Way(keys, *peaks, other.is_fitting, _remark(other)))
    return found


def peak_of(plan: RunPlan) -> int:
    """Of the fullest GPU; on CPUs of the fullest node."""
    return plan.gpu_peak or sum(item.bytes for item in plan.host)


def fit_peak_of(plan: RunPlan) -> int:
    """Of a rank: with all that shares its GPU, or its tensors alone."""
    fits = [phase.total for phase in plan.gpu_phases if phase.name.startswith("fit")]
    return max(fits, default=plan.rank.peak)


def changed(cfg: Config, changes: list[Change]) -> Config:
    """A copy with other values at dotted keys."""
    for key, value in changes:
        section, name = key.split(".")
        part = getattr(cfg, section).model_copy(update={name: value})
        cfg = cfg.model_copy(update={section: part})
    return cfg


def _alternatives(cfg: Config, plan: RunPlan) -> Iterator[list[Change]]:
    train = cfg.train
    if not train.gradient_checkpointing:
        yield [("train.gradient_checkpointing", True)]
    if train.zero_stage != 3:
        yield [("train.zero_stage", 3)]
    if train.gpus_per_worker:
        yield from _offloading(cfg)
    if train.lora is None:
        yield [("train.lora", LoraConfig()), ("train.freeze_connector", True)]
    if plan.batch.tokens > train.micro_batch_tokens:
        yield [("model.max_length", train.micro_batch_tokens)]
    half = train.micro_batch_tokens // 2
    yield [
        ("train.micro_batch_tokens", half),
        ("model.max_length", min(half, cfg.model.max_length)),
    ]
    if train.zero_stage and train.batch_size % (2 * train.num_workers) == 0:
        yield [("train.num_workers", 2 * train.num_workers)]
    if plan.engine and plan.engine.kv_tokens < cfg.model.max_length:
        yield [("rollout.gpus_per_worker", 2 * (cfg.rollout.gpus_per_worker or 1))]


def _offloading(cfg: Config) -> Iterator[list[Change]]:
    stage = cfg.train.zero_stage
    for place, least in (("optimizer", 2), ("optimizer_and_parameters", 3)):
        if cfg.train.offload == "none":
            staged = [("train.zero_stage", least)] if stage < least else []
            yield [("train.offload", place), *staged]


def _remark(plan: RunPlan) -> str:
    size = sum(item.bytes for item in plan.host if item.name == OFFLOADED)
    return f"{size / 1e9:.0f} GB of a node's host memory" if size else ""


def _shown(value: Any) -> str:
    if isinstance(value, LoraConfig):
        return f"{{rank: {value.rank}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)
