"""One rank of the trainer: loads a model, fits it on a Plan, publishes the result.

A plain class, without Ray. Guarantees: an interrupted fit goes on from its last checkpoint with the
losses it would have had; a finished one is not repeated; nothing non-finite is ever published.
All ranks call the same methods with the same arguments and wait for each other in collectives only
(deadline: `train.step_deadline_s`); rank 0 alone writes weights and reports. It does not know where
the plan comes from or who serves the weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig

from virgo_ray.config import Config, ModelConfig
from virgo_ray.errors import TrainingError
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Example, FitReport, Plan, Problem, Weights
from virgo_ray.train import zero
from virgo_ray.train.batch import Batcher
from virgo_ray.train.checkpoint import CheckpointStore, Position
from virgo_ray.train.export import read_fit, write_card, write_fit, write_model
from virgo_ray.train.loss import TargetLogprobs, learning_rate, weighted_nll
from virgo_ray.train.model import format_table, full_tensors, load_model, prepare
from virgo_ray.train.pack import num_target_tokens, num_tokens, sequence_length, step_examples
from virgo_ray.train.probing import as_example, items_of_examples, items_of_problems
from virgo_ray.weights.probe import PROBE_NAME, Probe, ProbeItem, probe_path
from virgo_ray.weights.publish import publish, published

NUM_RECENT = 100  # steps whose reports a checkpoint repeats: far more than a driver is behind

log = logging.getLogger(__name__)

Event = dict[str, Any]  # {"phase": "load"} or {"step": 3, "loss": 0.5, ...}


@dataclass(frozen=True)
class Loaded:
    """A model in memory, ready to be trained or scored."""

    module: TargetLogprobs
    engine: zero.ZeroEngine
    batcher: Batcher


@dataclass(frozen=True)
class Job:
    """What one call of `fit` is asked for, and how to recognise it again."""

    plan: Plan
    start: Weights
    version: int
    fit: str  # fingerprint of plan, start and set-up: whose checkpoints these are
    examples: str  # fingerprint of the examples alone: whose published weights these are


class TrainEngine:
    """This process's rank; `zero.join_group` comes first."""

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg
        self._rank = dist.get_rank()
        self._world_size = dist.get_world_size()
        self._weights_root = Path(cfg.run_dir) / "weights"
        self._prompter = Prompter(cfg.model, cfg.prompt)

    def fit(
        self,
        plan: Plan,
        start: Weights,
        version: int,
        report: Callable[[Event], None] = lambda event: None,
    ) -> FitReport:
        """Train from `start` on `plan` and publish as `version`; `report` hears of progress.

        Raises:
            TrainingError: non-finite loss or gradient norm, an unusable example or pattern.
            DataError: an image cannot be read.
        """
        began = time.monotonic()
        job = self._job(plan, start, version)
        done = zero.broadcast_from_first(published(self._weights_root, version))
        if done is not None:
            return read_fit(done, job.examples)
        report({"phase": "load"})
        with self._loaded(start, is_training=True) as loaded:
            store = CheckpointStore(
                Path(self._cfg.run_dir) / "checkpoints" / f"round_fit_v{version:04d}", job.fit
            )
            first = self._resume(loaded, store, job)
            last = self._train(loaded, store, job, first, report)
            report({"phase": "publish"})
            result = FitReport(
                weights=Weights(version, str(self._weights_root / f"v{version:04d}")),
                num_steps=len(plan.steps),
                num_examples=sum(1 for s in range(len(plan.steps)) for _ in step_examples(plan, s)),
                num_tokens=sum(num_tokens(plan, s) for s in range(len(plan.steps))),
                num_target_tokens=sum(num_target_tokens(plan, s) for s in range(len(plan.steps))),
                first_loss=last.first_loss,
                last_loss=last.last_loss,
                seconds=time.monotonic() - began,
                resumed_from_step=first.step,
            )
            self._publish(loaded, job, result)
            if self._rank == 0:
                store.clear()
            return result

    def probe_base(self, base: Weights, problems: Sequence[Problem]) -> str:
        """Write the base model's probe, if it is not there yet; returns its path."""
        path = probe_path(self._weights_root, base.version)
        if not zero.broadcast_from_first(path.exists()):
            items = items_of_problems(problems, self._prompter, self._probe_directory)
            with self._loaded(base, is_training=False) as loaded:
                probe = self._probe(loaded, items)
            if self._rank == 0:
                probe.save(path)
        return str(path)

    # -- loading ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _loaded(self, weights: Weights, is_training: bool) -> Iterator[Loaded]:
        """The model of `weights` in a DeepSpeed engine; freed on leaving."""
        train, model_cfg = self._cfg.train, self._cfg.model
        torch.manual_seed(self._cfg.seed)  # adapters start alike on all ranks
        dtype: torch.dtype = getattr(torch, model_cfg.dtype)
        hidden_size = _hidden_size(weights.path, model_cfg)
        config = zero.zero_config(train, dtype, hidden_size, is_training)
        with zero.sharded_loading(config):
            model = load_model(weights.path, model_cfg)
        if is_training:
            table = format_table(prepare(model, train))
            log.log(logging.INFO if self._rank == 0 else logging.DEBUG, "training\n%s", table)
        module = TargetLogprobs(model)
        engine = zero.ZeroEngine(module, config, train if is_training else None)
        try:
            yield Loaded(module, engine, Batcher(weights.path, model_cfg, engine.device))
        finally:
            engine.close()

    def _resume(self, loaded: Loaded, store: CheckpointStore, job: Job) -> Position:
        position = zero.broadcast_from_first(_found(store) if self._rank == 0 else None)
        if isinstance(position, TrainingError):
            raise position  # on every rank: none waits for one that stopped
        if position is None:
            return Position(job.fit, 0, math.nan, math.nan)
        loaded.engine.load(store.path(position.step))
        return position

    # -- training --------------------------------------------------------------------------------

    def _train(
        self,
        loaded: Loaded,
        store: CheckpointStore,
        job: Job,
        position: Position,
        report: Callable[[Event], None],
    ) -> Position:
        """All remaining optimizer steps, with checkpoints in between.

        What a checkpoint's last steps came to is reported again; listeners know steps by number.
        """
        num_steps = len(job.plan.steps)
        for values in position.recent:
            report(dict(values))
        saved = time.monotonic()
        for step in range(position.step, num_steps):
            began = time.monotonic()
            is_due = began - saved > self._cfg.train.checkpoint_every_s
            values, is_due = self._step(loaded, job.plan, step, is_due)
            first_loss = values["loss"] if step == 0 else position.first_loss
            seconds = time.monotonic() - began
            values |= {"seconds": seconds, "tokens_per_s": values["num_tokens"] / seconds}
            recent = [*position.recent, values][-NUM_RECENT:]
            position = Position(job.fit, step + 1, first_loss, values["loss"], recent)
            report(dict(values))
            if is_due and step + 1 < num_steps:
                self._checkpoint(loaded, store, position)
                saved = time.monotonic()
        return position

    def _step(
        self, loaded: Loaded, plan: Plan, step: int, is_checkpoint_due: bool
    ) -> tuple[dict[str, float], bool]:
        """One optimizer step; the loss is the mean over all target tokens of all ranks.

        Rank 0's clock decides for all whether a checkpoint is due.
        """
        cfg = self._cfg.train
        torch.manual_seed(self._cfg.seed + step * self._world_size + self._rank)  # dropout resumes
        num_targets = num_target_tokens(plan, step)
        total = torch.zeros((), device=loaded.engine.device)
        for micro_batch in plan.steps[step][self._rank]:
            batch = loaded.batcher.collate([plan.examples[i] for i in micro_batch])
            logprobs = loaded.engine(batch.inputs, batch.places, batch.targets)
            loss = weighted_nll(logprobs, batch.weights, num_targets)
            loaded.engine.backward(loss)
            total += loss.detach()
        flag = float(is_checkpoint_due and self._rank == 0)
        loss_sum, flag = zero.sum_over_ranks([total.item(), flag], total.device)
        _require_finite("loss", loss_sum, plan, step)
        num_scheduled = plan.scheduled_steps or len(plan.steps)
        rate = learning_rate(step, num_scheduled, cfg.lr, cfg.warmup_ratio)
        norm = loaded.engine.step(rate)
        _require_finite("gradient norm", norm, plan, step)
        values = {
            "step": step + 1,
            "num_steps": len(plan.steps),
            "loss": loss_sum,
            "lr": rate,
            "grad_norm": norm,
            "num_tokens": num_tokens(plan, step),
        }
        return values, flag > 0

    def _checkpoint(self, loaded: Loaded, store: CheckpointStore, position: Position) -> None:
        if self._rank == 0:
            store.begin(position.step)
        dist.barrier()  # deadline: the process group's
        loaded.engine.save(store.temporary(position.step))
        dist.barrier()  # deadline: the process group's
        if self._rank == 0:
            store.commit(position)

    # -- publishing ------------------------------------------------------------------------------

    def _publish(self, loaded: Loaded, job: Job, result: FitReport) -> None:
        """Probe and gather together; rank 0 writes. No collective while it does."""
        items = items_of_examples(job.plan.examples, self._prompter, self._probe_directory)
        probe = self._probe(loaded, items)
        model = loaded.module.model
        tensors: dict[str, torch.Tensor] = {}
        for bucket in full_tensors(model, keep=self._rank == 0):
            tensors.update(bucket)
        if self._rank != 0:
            return

        def write(directory: Path) -> None:
            start, end_id = Path(job.start.path), self._prompter.end_id
            layout = write_model(model, tensors, start, directory, self._cfg, end_id)
            write_card(directory, self._cfg, result, layout)
            probe.save(directory / PROBE_NAME)
            write_fit(directory, result, job.examples)

        publish(self._weights_root, job.version, write)

    @torch.no_grad()
    def _probe(self, loaded: Loaded, items: Sequence[ProbeItem]) -> Probe:
        """Log-probabilities of the model in memory, one item at a time."""
        loaded.module.eval()
        rows: list[tuple[float, ...]] = []
        for item in items:
            batch = loaded.batcher.collate([as_example(item)])
            logprobs = loaded.engine(batch.inputs, batch.places, batch.targets)
            rows.append(tuple(logprobs.float().tolist()))
        return Probe(tuple(items), tuple(rows))

    @property
    def _probe_directory(self) -> Path:
        return Path(self._cfg.run_dir).resolve() / "probe"

    def _job(self, plan: Plan, start: Weights, version: int) -> Job:
        if not plan.steps or len(plan.steps[0]) != self._world_size:
            ranks = len(plan.steps[0]) if plan.steps else 0
            raise TrainingError(
                f"the plan has {len(plan.steps)} steps for {ranks} ranks, expected at least one "
                f"step for train.num_workers={self._world_size}"
            )
        examples = fingerprint_examples(plan.examples)
        setup = self._cfg.train.model_dump_json(
            exclude={"checkpoint_every_s", "max_restarts", "step_deadline_s"}
        )
        whole = f"{examples} {plan.steps} {start} {version} {setup} {self._cfg.model.dtype}"
        return Job(plan, start, version, hashlib.sha256(whole.encode()).hexdigest()[:16], examples)


def _found(store: CheckpointStore) -> Position | TrainingError | None:
    """Where to go on, or why not, as a value that can be sent to the other ranks."""
    try:
        return store.latest()
    except TrainingError as error:
        return error


def fingerprint_examples(examples: Sequence[Example]) -> str:
    """Hash of what is trained on, in order; paths of images do not count."""
    digest = hashlib.sha256()
    for example in examples:
        for ids in (example.prompt_ids, example.target_ids):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(array("q", ids).tobytes())
        digest.update(f"{example.weight} {len(example.images)}".encode())
    return digest.hexdigest()[:16]


def _require_finite(what: str, value: float, plan: Plan, step: int) -> None:
    if not math.isfinite(value):
        longest = max(step_examples(plan, step), key=sequence_length)
        raise TrainingError(
            f"{what} is {value} at optimizer step {step + 1} of {len(plan.steps)}, expected a "
            f"finite number; lower train.lr or look at the step's examples, such as {longest.id!r}"
        )


def _hidden_size(path: str, cfg: ModelConfig) -> int:
    config: Any = AutoConfig.from_pretrained(path, trust_remote_code=cfg.trust_remote_code)
    return int(config.get_text_config().hidden_size)
