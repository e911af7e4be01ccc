"""What a fit is asked for, and how it is recognised again.

Three fingerprints. `recipe` covers what decides which weights come out: examples, their order in
steps, the weights to start from, the keys of `train` that matter to learning. Weights that were
published under it are reused. `fit` also covers how the work is spread over ranks and micro-batches
and is that of a checkpoint. `work` is between them: fits of the same one go on from each other's
checkpoints, on other numbers of ranks and in other micro-batches. None depends on where the run
directory lies. Pure but for reading the start weights; knows no torch.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, TrainConfig
from virgo_ray.records import Example, Plan, Weights
from virgo_ray.weights.manifest import MANIFEST_NAME

# Keys of `train` that change neither weights nor checkpoints. Those that choose examples or steps
# (seed_share, num_epochs ...) act through the plan, restart_from through the start weights, and
# carry_optimizer through the optimizer that is carried on.
UNLEARNED = (
    "checkpoint_every_s", "max_restarts", "step_deadline_s", "batch_size", "num_epochs",
    "num_tokens", "stop_epoch", "seed_share", "seed_floor", "restart_from",
    "resident", "carry_optimizer",
)  # fmt: skip
# Keys of `train.objective` that act through examples alone: through their weights and their choice.
IN_EXAMPLES = {
    "rewards": True, "max_refills": True, "num_steps": True, "max_advantage": True,
    "reward_weighted": True, "dpo": {"pairs_per_problem"}, "grpo": {"standardise"},
}  # fmt: skip
# Keys that spread the same work differently: the same weights but for rounding, other checkpoints.
SPREAD = (
    "num_workers", "gpus_per_worker", "zero_stage", "micro_batch_tokens", "packing",
    "gradient_checkpointing", "offload", "deepspeed", "liger",
)  # fmt: skip
# Where checkpoints of other numbers of ranks can be read (`rearrange.py`); tests load them.
ANY_RANKS = {"float32": (0, 1, 2, 3), "bfloat16": (1, 2, 3)}
LAYOUT = 2  # of checkpoints; a new number where those of before cannot be loaded any more
END_BYTES = 1024**2  # at each end of a file that tell one base model from another


@dataclass(frozen=True)
class Carried:
    """The optimizer that the fit of `version` left: it made `num_steps` since it began anew."""

    version: int
    recipe: str
    num_steps: int


@dataclass(frozen=True)
class Job:
    """One call of `fit`."""

    plan: Plan
    start: Weights
    version: int
    examples: str  # fingerprint of the examples alone
    recipe: str  # whose published weights these are
    fit: str  # whose checkpoints these are
    work: str  # whose checkpoints can be gone on from
    carried: Carried | None = None  # the optimizer that it goes on with
    left: Mapping[str, Any] | None = (
        None  # what is said of the one that it leaves; None: it leaves none
    )

    @property
    def num_before(self) -> int:
        """The optimizer's steps before this fit."""
        return self.carried.num_steps if self.carried else 0


def make_job(
    cfg: Config,
    plan: Plan,
    start: Weights,
    version: int,
    masters: str = "",
    carried: Carried | None = None,
) -> Job:
    """`masters` says which adapters the fit goes on with; empty where none are."""
    examples = fingerprint_examples(plan.examples)
    keys = _learned_keys(cfg.train, any(example.group for example in plan.examples))
    spread = _in_order(cfg.train.model_dump(mode="json", include={*SPREAD}))
    steps = [
        sorted(
            i for rank in step for micro in rank for i in micro if not plan.examples[i].is_filler
        )
        for step in plan.steps
    ]
    learned = (
        examples, steps, plan.scheduled_steps, fingerprint_weights(Path(start.path)), version,
        sorted(keys.items()), cfg.model.dtype, *filter(None, [cfg.model.head_dtype]),
    )  # fmt: skip
    goes_on = (carried.recipe, carried.num_steps) if carried else ()
    recipe = _digest((*learned, *filter(None, [masters]), *goes_on))
    fit = _digest((recipe, plan.steps, list(spread.items()), LAYOUT))
    stage, dtype = cfg.train.zero_stage, cfg.model.dtype
    ranks = None if stage in ANY_RANKS.get(dtype, ()) else cfg.train.num_workers
    where = spread["offload"], list(spread["deepspeed"].items())
    work = _digest((recipe, stage, ranks, where, LAYOUT))
    return Job(plan, start, version, examples, recipe, fit, work, carried)


def _learned_keys(cfg: TrainConfig, has_groups: bool) -> dict[str, Any]:
    """The keys that decide which weights come out. Without groups a fit is imitation, whatever the
    objective is."""
    passed_over: dict[str, Any] = dict.fromkeys((*UNLEARNED, *SPREAD), True)
    passed_over["objective"] = IN_EXAMPLES if has_groups else True
    keys = cfg.model_dump(mode="json", exclude_defaults=True, exclude=passed_over)
    if "objective" in keys:  # a section of which nothing is left says nothing
        keys["objective"] = {k: v for k, v in keys["objective"].items() if v != {}}
    return keys


def fingerprint_examples(examples: Sequence[Example]) -> str:
    """Hash of what is trained on, in order; paths of images do not count."""
    digest = hashlib.sha256()
    for example in examples:
        for ids in (example.prompt_ids, example.target_ids):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(array("q", ids).tobytes())
        digest.update(f"{example.weight} {len(example.images)}".encode())
        if example.group:
            of_group = example.group, example.role, example.temperature
            digest.update(repr(of_group).encode())
            digest.update(array("f", example.old_logprobs).tobytes())
    return digest.hexdigest()[:16]


def fingerprint_weights(directory: Path) -> str:
    """Hash of the weights in a directory, the same wherever it lies.

    Of a published version its manifest, which has checksums; of a base the ends of its files.
    """
    digest = hashlib.sha256()
    manifest = directory / MANIFEST_NAME
    for file in [manifest] if manifest.exists() else sorted(directory.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as f:
            digest.update(f.read(END_BYTES))
            f.seek(max(0, size - END_BYTES))
            digest.update(f.read())
    return digest.hexdigest()[:16]


def _in_order(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys and values, those of mappings below too, whatever order they were written in.

    >>> _in_order({"b": {"d": 1, "c": 2}, "a": 3})
    {'a': 3, 'b': {'c': 2, 'd': 1}}
    """
    return {
        key: _in_order(value) if isinstance(value, Mapping) else value
        for key, value in sorted(values.items())
    }


def _digest(values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]
