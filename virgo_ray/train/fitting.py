"""The optimizer steps of one fit, on one rank: from a position to the end of its plan.

Guarantees: nothing moves on a loss or a gradient norm that is not finite; a step's random numbers
depend on the step and the rank alone. Before the first step the micro-batch is tried that should
take the most memory, so that memory hardly ever runs out later; which one that is, is an estimate
(virgo_ray/train/memory.py). All ranks run this side by side and meet in collectives only (deadline:
`train.step_deadline_s`). Knows no files but the checkpoints'.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from virgo_ray.config import Config
from virgo_ray.errors import TrainingError
from virgo_ray.records import Example, sequence_length
from virgo_ray.train import zero
from virgo_ray.train.batch import Batcher
from virgo_ray.train.carrying import find_rate
from virgo_ray.train.checkpoint import CheckpointStore, Position
from virgo_ray.train.feed import Feed
from virgo_ray.train.job import Job
from virgo_ray.train.learning import Learning
from virgo_ray.train.loss import TargetLogprobs, weighted_nll
from virgo_ray.train.memory import describe, growth_of, largest_micro_batch, memory_errors
from virgo_ray.train.model import trainable_table
from virgo_ray.train.pack import num_tokens, step_examples
from virgo_ray.train.process import num_spare_threads
from virgo_ray.train.progress import beating
from virgo_ray.train.shape import measure
from virgo_ray.train.speed import device_values, flops_per_token, looked_up

NUM_RECENT = 100  # steps whose reports a checkpoint repeats: far more than a driver is behind

# {"phase": "load"}, {"notice": "..."}, {"table": "..."}, {"saved_step": 3}, or
# {"step": 3, "loss": 0.5, ...}
Event = dict[str, Any]
Report = Callable[[Event], None]


@dataclass(frozen=True)
class Loaded:
    """A model in memory, ready to be trained or scored."""

    module: TargetLogprobs
    engine: zero.ZeroEngine
    batcher: Batcher


class Fitting:
    """One rank's share of a fit."""

    def __init__(
        self, cfg: Config, loaded: Loaded, store: CheckpointStore, job: Job, report: Report
    ) -> None:
        self._cfg = cfg
        self._loaded = loaded
        self._store = store
        self._job = job
        self._plan = job.plan
        self._report = report
        self._rank = dist.get_rank()
        self._world_size = dist.get_world_size()
        model = loaded.module.model
        table = trainable_table(model)
        itemsize = getattr(torch, cfg.model.dtype).itemsize
        self._growth = growth_of(measure(model, cfg.train), cfg.train, itemsize)
        self._learning = Learning(cfg, job.plan, self._rank, loaded.engine)
        self._flops_per_token = flops_per_token(table, cfg.train, looked_up(model))

    def run(self, position: Position) -> Position:
        """All remaining optimizer steps, with checkpoints in between; returns the last position.

        What a checkpoint's last steps came to is reported again; listeners know steps by number.

        Raises:
            TrainingError: non-finite loss or gradient norm, memory that runs out.
            DataError: an image cannot be read.
        """
        for values in position.recent:
            self._report(dict(values))
        self._take_start(position.step)
        ahead = self._examples(position.step)
        with Feed(self._loaded.batcher, ahead, num_spare_threads()) as feed:
            return self._steps(position, feed)

    def _take_start(self, step: int) -> None:
        """Have the log-probabilities under the start weights, where the objective asks for them."""
        if self._learning.needs_start and step < len(self._plan.steps):
            path = self._store.beside(f"start_{self._job.recipe}.safetensors")
            with memory_errors("while the start weights are scored", self._cfg.train):
                self._learning.take_start(path, step > 0, self._loaded.batcher, self._report)

    def _examples(self, first_step: int) -> Iterator[list[Example]]:
        """Of every micro-batch of this rank from `first_step` on."""
        for step in self._plan.steps[first_step:]:
            for micro_batch in step[self._rank]:
                yield [self._plan.examples[i] for i in micro_batch]

    def _steps(self, position: Position, feed: Feed) -> Position:
        num_steps = len(self._plan.steps)
        if position.step < num_steps:
            self._try_largest()
        saved = time.monotonic()
        for step in range(position.step, num_steps):
            began = time.monotonic()
            is_due = began - saved > self._cfg.train.checkpoint_every_s
            values, is_due = self._step(step, is_due, feed)
            first_loss = values["loss"] if step == 0 else position.first_loss
            seconds = time.monotonic() - began
            values |= self._speed(values, seconds)
            recent = [*position.recent, values][-NUM_RECENT:]
            position = Position(self._job.fit, step + 1, first_loss, values["loss"], recent)
            self._report(dict(values))
            if is_due and step + 1 < num_steps:
                self._checkpoint(position)
                saved = time.monotonic()
        return position

    def _speed(self, values: dict[str, float], seconds: float) -> dict[str, float]:
        """How fast the step before went, and what making its micro-batches had to do with it."""
        tokens, device = values["num_tokens"], self._loaded.engine.device
        return {
            "seconds": seconds,
            "tokens_per_s": tokens / seconds,
            "collate_share": values["collate_seconds"] / seconds,
            "wait_share": values["wait_seconds"] / seconds,
            **device_values(device, tokens * self._flops_per_token, seconds, self._world_size),
        }

    def _try_largest(self) -> None:
        """One forward and backward of this rank's largest micro-batch, for its memory alone.

        Its loss is multiplied by zero: what stays behind in DeepSpeed's buffers, in whatever stage,
        are zeros, and the first step's gradients are to the last bit what they would have been. The
        optimizer's moments are there before, since they are in all later steps. No random state is
        kept: every step seeds its own.
        """
        packing = self._cfg.train.packing
        micro_batch = largest_micro_batch(self._plan, self._rank, packing, self._growth)
        where = f"in the largest micro-batch, tried before step 1: {self._name(micro_batch)}"
        self._report({"phase": "largest micro-batch"})
        torch.manual_seed(self._cfg.seed)
        with memory_errors(where, self._cfg.train):
            self._loaded.engine.allocate()
            batch = self._loaded.batcher.collate([self._plan.examples[i] for i in micro_batch])
            logprobs = self._learning.score(batch)
            self._loaded.engine.backward(weighted_nll(logprobs, batch.weights, 1) * 0.0)

    def _step(
        self, step: int, is_checkpoint_due: bool, feed: Feed
    ) -> tuple[dict[str, float], bool]:
        """One optimizer step; the loss is that of `train.objective` over all ranks' examples.

        Rank 0's clock decides for all whether a checkpoint is due.
        """
        cfg, plan, engine = self._cfg.train, self._plan, self._loaded.engine
        torch.manual_seed(self._cfg.seed + step * self._world_size + self._rank)  # dropout resumes
        total = self._add_gradients(step, feed)
        flag = float(is_checkpoint_due and self._rank == 0)
        mine = [total.item(), flag, *feed.take_seconds(), *self._learning.take_sums()]
        loss_sum, flag, collate_s, wait_s, *sums = zero.sum_over_ranks(mine, total.device)
        self._require_finite("loss", loss_sum, step)
        rate = find_rate(cfg, self._job, step)
        with memory_errors(f"in the update of optimizer step {step + 1} on rank {self._rank}", cfg):
            norm = engine.step(rate, lambda n: self._require_finite("gradient norm", n, step))
        values = {
            "step": step + 1,
            "num_steps": len(plan.steps),
            "loss": loss_sum,
            "lr": rate,
            "grad_norm": norm,
            "num_tokens": num_tokens(plan, step),
            "collate_seconds": collate_s / self._world_size,
            "wait_seconds": wait_s / self._world_size,
            **self._learning.summarise(sums),
        }
        return values, flag > 0

    def _add_gradients(self, step: int, feed: Feed) -> Tensor:
        """Forward and backward of all micro-batches of a step; returns this rank's loss."""
        count = self._learning.count(step)
        mine = self._plan.steps[step][self._rank]
        total = torch.zeros((), device=self._loaded.engine.device)
        for number, micro_batch in enumerate(mine, 1):
            where = f"in micro-batch {number} of {len(mine)} of optimizer step {step + 1}"
            with memory_errors(f"{where}: {self._name(micro_batch)}", self._cfg.train):
                loss = self._learning.loss(feed.take(), micro_batch, count)
                self._loaded.engine.backward(loss)
            total += loss.detach()
        return total

    def _checkpoint(self, position: Position) -> None:
        with beating("checkpoint", self._report):
            save_state(self._loaded.engine, self._store, position)
        self._report({"saved_step": position.step})

    def _name(self, micro_batch: tuple[int, ...]) -> str:
        said = describe(self._plan, micro_batch, self._cfg.train.packing)
        return f"{said}, on rank {self._rank}"

    def _require_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            longest = max(step_examples(self._plan, step), key=sequence_length)
            raise TrainingError(
                f"{what} is {value} at optimizer step {step + 1} of {len(self._plan.steps)}, "
                "expected a finite number; no parameter was changed by it; lower train.lr, or look "
                f"at the step's examples, such as {longest.id!r}"
            )


def save_state(engine: zero.ZeroEngine, store: CheckpointStore, position: Position) -> None:
    """Write model and optimizer as the checkpoint of `position`, on all ranks together.

    Raises:
        TrainingError: the file system refused.
    """
    if zero.is_first_rank():
        store.begin(position.step)
    dist.barrier()  # deadline: the process group's
    with store.write_errors():
        engine.save(store.temporary(position.step))
    dist.barrier()  # deadline: the process group's
    if zero.is_first_rank():
        store.commit(position)
