"""Which keys may change on a run that has begun, and from when on a change holds.

Every key of the schema is in exactly one class, by its own name or by that of its section; a test
holds the table complete. A *harmless* key changes no result, only how or where it is computed, or
how far the run goes. A key that holds *later* is accepted and recorded in the ledger with the round
it holds from. The others are *of the run's identity*: another value makes another run.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from virgo_ray.config.places import is_data_place


class Moment(StrEnum):
    """From when on another value of a key holds."""

    ANY = "at any time"
    ROLLOUT = "from the next rollout on"
    EXPLORATION = "from the next exploration on"
    FIT = "from the next fit on"
    NEVER = "never"


# Decisions of `gates` that a run went on from stand. An exploration that has begun is finished as
# it was begun, so it asks every problem alike; what is not asked or judged yet is asked and judged
# as the config says now.
CHANGES: dict[Moment, tuple[str, ...]] = {
    Moment.ANY: (
        "run_dir", "name", "rounds", "evaluate.every", "gates", "wandb", "trackers", "ray",
        "placement", "push",
        "rollout.num_workers", "rollout.gpus_per_worker", "rollout.gpu_memory_utilization",
        "rollout.kv_cache_gib", "rollout.max_in_flight", "rollout.enforce_eager",
        "rollout.start_deadline_s", "rollout.stall_deadline_s", "rollout.heartbeat_deadline_s",
        "rollout.max_restarts", "rollout.min_workers",
        "weights", "benchmarks", "model.trust_remote_code", "store.path", "store.storage_options",
        "data.cache_dir", "data.accept_changes", "explore.max_barren_rounds",
        "verify.num_workers", "verify.batch_size", "verify.max_failure_share",
        "verify.judge.url", "verify.judge.key_env", "verify.judge.budget",
        "verify.judge.num_tries", "verify.judge.deadline_s", "verify.judge.num_parallel",
        "verify.judge.cache",
        "teacher.url", "teacher.key_env", "teacher.budget", "teacher.num_tries",
        "teacher.deadline_s", "teacher.num_parallel",
        "train.num_workers", "train.gpus_per_worker", "train.zero_stage", "train.offload",
        "train.deepspeed", "train.liger", "train.resident",
        "train.micro_batch_tokens", "train.packing", "train.gradient_checkpointing",
        "train.checkpoint_every_s", "train.max_restarts", "train.step_deadline_s",
    ),
    Moment.ROLLOUT: (
        "model.max_length", "rollout.engine_args",
        "verify.deadline_s", "verify.memory_mib", "verify.second_opinions", "verify.judge.model",
        "verify.judge.prompt", "verify.judge.max_tokens", "teacher.path", "teacher.model",
    ),
    Moment.EXPLORATION: (
        "explore.num_problems", "explore.num_samples", "explore.sampling",
        "explore.prefer_unsolved", "explore.unsolved_share", "explore.rate_rounds",
        "explore.extra", "explore.temperatures", "explore.blank_probe",
    ),
    Moment.FIT: (
        "select", "train.objective", "train.lr", "train.warmup_ratio", "train.schedule",
        "train.schedule_steps", "train.carry_optimizer",
        "train.weight_decay", "train.max_grad_norm",
        "train.batch_size", "train.num_epochs", "train.num_tokens", "train.stop_epoch",
        "train.restart_from", "train.freeze_vision", "train.freeze_connector", "train.lora",
        "train.seed_share", "train.seed_floor",
    ),
    Moment.NEVER: (
        "seed", "seed_round", "model.path", "model.dtype", "model.head_dtype",
        "model.min_pixels", "model.max_pixels",
        "prompt", "evaluate.k", "evaluate.sampling", "evaluate.blank_image",
        "evaluate.permute_options", "evaluate.perception", "evaluate.text",
        "store.from", "explore.screen",
        # Held-out answers are judged by these: gates could not compare the rounds before.
        "verify.require_end_tag", "verify.custom", "verify.formats",
        "data.train", "data.heldout", "data.seed_thoughts", "data.strict", "data.near_overlap",
    ),
}  # fmt: skip


def moments_of(key: str) -> list[Moment]:
    """Every class whose entries name a dotted key or a section that it is in: one, for a key.

    Where a source of data lies may change at any time: what the data are is compared by content.

    >>> moments_of("train.lora.rank"), moments_of("gates.margin")
    ([<Moment.FIT: 'from the next fit on'>], [<Moment.ANY: 'at any time'>])
    """
    if is_data_place(key):
        return [Moment.ANY]
    return [m for m, names in CHANGES.items() if any(_is_in(key, name) for name in names)]


def moment_of(key: str) -> Moment:
    """From when on another value of a key holds; a section of several classes, and a key that
    nobody declared, never change."""
    found = moments_of(key)
    return found[0] if len(found) == 1 else Moment.NEVER


def is_harmless(key: str) -> bool:
    """Whether a dotted key may change at any time without a record."""
    return moment_of(key) is Moment.ANY


def describe_changes(keys: Iterable[str]) -> list[str]:
    """A line per class, with those of `keys` that are in it.

    >>> describe_changes(["train.lr", "train.lora.rank", "train.num_workers"])
    ['at any time: train.num_workers', 'from the next fit on: train.lr, train.lora.rank']
    """
    by_moment: dict[Moment, list[str]] = {moment: [] for moment in Moment}
    for key in keys:
        by_moment[moment_of(key)].append(key)
    return [f"{moment}: {', '.join(names)}" for moment, names in by_moment.items() if names]


def _is_in(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")
