"""What a run writes: weights, checkpoints within a fit, the store of rollouts. Bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from virgo_ray.config import Config, TrainConfig
from virgo_ray.plan.ranks import BYTES, MASTER, MOMENTS
from virgo_ray.train.shape import ModelShape
from virgo_ray.weights.contents import DESCRIPTION_SUFFIXES

HEADER_BYTES = 120  # of one tensor, in a file of safetensors, its index and the manifest
# Of scripts/bench_store.py (docs/reliability.md): 8.9 KB a rollout of 2,000 tokens, compacted.
STORED_BYTES_PER_TOKEN = 4.45
ANSWER_BYTES_PER_TOKEN = 12.0  # of an evaluation's answers.jsonl (docs/reliability.md)
NUM_CHECKPOINTS = 3  # two are kept, one is being written
# Of the newest version, of the last accepted one or that was evaluated, and one being written.
NUM_OPTIMIZERS = 3


@dataclass(frozen=True)
class Disk:
    """Bytes that a run takes by its end, and at most in between."""

    version: int
    num_versions: int  # that hold tensors at the same time, at most
    num_trained: int  # that the run makes
    checkpoints: int  # at most, while a fit runs; they go when its version is published
    rollouts: int
    answers: int
    optimizers: int = 0  # that are carried over rounds, at most

    @property
    def round(self) -> int:
        """What one round leaves; of the weights nothing, where old ones go instead."""
        rounds = max(self.num_trained - 1, 1)
        weights = self.version if self.num_versions == self.num_trained else 0
        return weights + (self.rollouts + self.answers) // rounds

    @property
    def peak(self) -> int:
        fits = self.checkpoints + self.optimizers
        return self.num_versions * self.version + fits + self.rollouts + self.answers


def most_versions(cfg: Config) -> int:
    """Versions that hold tensors at the same time, at most.

    Beside `weights.keep_last` and the milestones: the newest, until it is evaluated and an older
    one goes; the best; and, where gates reject rounds, the last accepted;
    with `evaluate.every` the last that was evaluated.

    Example: 20 rounds and a seed round with `keep_last: 2`, `keep_every: 10` and gates: 8.
    """
    trained, rule = cfg.rounds + int(cfg.seed_round), cfg.weights
    if rule.keep_last is None and rule.publish_every == 1:
        return trained
    if rule.keep_last is None:  # the last one, and one that was trained again
        return min(trained, cfg.rounds // rule.publish_every + int(cfg.seed_round) + 2)
    every = rule.keep_every
    milestones = cfg.rounds // every + int(cfg.seed_round) if every is not None else 0
    spare = 2 + int(cfg.gates is not None) + int(cfg.evaluate.every > 1)
    return min(trained, rule.keep_last + milestones + spare)


def version_bytes(shape: ModelShape, dtype: str, directory: Path | None = None) -> int:
    """A published version: whole tensors, adapters in float32, and the files beside them where
    `directory` has them."""
    beside = [p for p in directory.iterdir() if p.is_file()] if directory else []
    files = sum(p.stat().st_size for p in beside if p.suffix in DESCRIPTION_SUFFIXES)
    tensors = BYTES[dtype] * shape.saved + MASTER * shape.adapters
    return tensors + HEADER_BYTES * shape.num_tensors + files


def checkpoint_bytes(shape: ModelShape, train: TrainConfig, dtype: str) -> int:
    """All ranks together: master copies and moments; below ZeRO-3 the trained weights, too."""
    weights = BYTES[dtype] if train.zero_stage < 3 else 0
    return (weights + MASTER + MOMENTS) * shape.trained


def disk(cfg: Config, shape: ModelShape, directory: Path, num_tokens: tuple[int, int]) -> Disk:
    """Of the whole run; `num_tokens` are those of responses in explorations and evaluations."""
    explored, evaluated = num_tokens
    one = checkpoint_bytes(shape, cfg.train, cfg.model.dtype)
    return Disk(
        version=version_bytes(shape, cfg.model.dtype, directory),
        num_versions=most_versions(cfg),
        num_trained=cfg.rounds + int(cfg.seed_round),
        checkpoints=NUM_CHECKPOINTS * one,
        rollouts=round(STORED_BYTES_PER_TOKEN * explored),
        answers=round(ANSWER_BYTES_PER_TOKEN * evaluated),
        optimizers=NUM_OPTIMIZERS * one if cfg.train.carry_optimizer else 0,
    )
