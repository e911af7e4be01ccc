"""One rank of the trainer: loads a model, fits it on a Plan, has the result published.

A plain class, without Ray. Guarantees: an interrupted fit goes on from its last checkpoint with the
losses it would have had; a finished one is not repeated, unless it is damaged or was another fit;
nothing non-finite is ever published; memory that a fit took is given back at its end, but for
the new weights in the first rank's host memory, which stay until they are published (`settle`).
All ranks call the same methods with the same arguments and wait for each other in collectives only
(deadline: `train.step_deadline_s`); rank 0 alone writes weights and reports. It does not know where
the plan comes from or who serves the weights.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig

from virgo_ray.config import Config, ModelConfig
from virgo_ray.errors import DroppedWeightsError, TrainingError, WeightsError
from virgo_ray.model.dropped import is_dropped, is_remade, say_dropped
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import TEACHER_VERSION, FitReport, Plan, Weights
from virgo_ray.train import zero
from virgo_ray.train.adapters import Masters, find_masters, origin_of, put_back
from virgo_ray.train.batch import Batcher
from virgo_ray.train.checkpoint import (
    CheckpointStore,
    Position,
    count_repeated,
    is_of_earlier_version,
)
from virgo_ray.train.export import describe
from virgo_ray.train.fit_record import require_same_fit, take_up
from virgo_ray.train.fitting import Fitting, Loaded, Report
from virgo_ray.train.job import Job, make_job
from virgo_ray.train.liger import use_kernels
from virgo_ray.train.loss import TargetLogprobs
from virgo_ray.train.memory import memory_errors
from virgo_ray.train.model import (
    adapters_of,
    fold_adapters,
    format_table,
    full_tensors,
    load_model,
    prepare,
    trainable_table,
    trained_whole,
    unfolded_after,
)
from virgo_ray.train.pack import count_portions, num_target_tokens, num_tokens, real_examples
from virgo_ray.train.probing import as_example, choose_from_plan, choose_rollouts
from virgo_ray.train.process import free_memory
from virgo_ray.train.progress import beating
from virgo_ray.train.publishing import Draft, Publisher
from virgo_ray.train.resident import Held, Resident
from virgo_ray.train.rows import packed_rows
from virgo_ray.train.sending import Sending
from virgo_ray.weights.noise import forget_noise
from virgo_ray.weights.offer import Offer, Stream
from virgo_ray.weights.probe import Probe, ProbeItem, identify, is_probe_of, probe_path
from virgo_ray.weights.probe_items import add_rollouts
from virgo_ray.weights.publish import version_dir
from virgo_ray.weights.streams import join_sender
from virgo_ray.weights.verdict import compare, faults, tolerance_of


class TrainEngine:
    """This process's rank; `zero.join_group` comes first."""

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg
        self._rank = dist.get_rank()
        self._world_size = dist.get_world_size()
        self._weights_root = Path(cfg.run_dir) / "weights"
        self._prompter = Prompter(cfg.model, cfg.prompt)
        self._publisher = Publisher(cfg, self._weights_root, self._prompter.end_id)
        self._resident = Resident()

    def fit(
        self,
        plan: Plan,
        start: Weights,
        version: int,
        report: Report = lambda event: None,
        is_again: bool = False,
    ) -> FitReport:
        """Train from `start` on `plan` and begin to publish as `version`; `settle` waits for that.

        `report` hears of progress, of that in publishing too. What was published before, and is
        whole and of this fit, is returned as it is. `is_again`: `version` was published without its
        tensors and the run goes on from it; they are trained again and put there.

        Raises:
            DroppedWeightsError: `start` has no tensors, and they are not in memory.
            WeightsError: `is_again`, and `version` was another fit.
            TrainingError: non-finite loss or gradient norm, no memory, an unusable example or
                pattern.
            DataError: an image cannot be read.
            What `settle` raises of the fit before.
        """
        self.settle()
        with _memory_given_back():
            masters = self._masters(start, report)
            job = self._job(plan, start, version, masters)
            if (done := self._done(job, report, is_again)) is not None:
                return done
            store = CheckpointStore(
                Path(self._cfg.run_dir) / "checkpoints" / f"round_fit_v{version:04d}",
                job.fit,
                job.work,
            )
            draft = self._fit(job, store, masters, report)
        if self._rank == 0:
            self._publisher.begin(draft, store.clear, report)
        return draft.report

    def settle(self) -> None:
        """Wait until the last fit's version is published; its tensors in memory go then.

        The first rank alone waits.

        Raises:
            WeightsError, TrainingError: it could not be published.
        """
        if self._publisher.settle():
            free_memory()

    def open_push(
        self,
        version: int,
        kind: Stream,
        address: str,
        labels: Sequence[str],
        deadline_s: float,
    ) -> Sending | None:
        """A push of `version` from memory to the receivers that `labels` name, who meet at
        `address`; None where it is not held (on the first rank, from the end of a fit to `settle`).

        Raises:
            WeightsError, TrainingError: its tensors cannot be had.
        """
        held = self._publisher.held
        if held is None or held.draft.job.version != version:
            return None
        return Sending(self._cfg, held, kind, address, labels, deadline_s)

    def join_push(self, offer: Offer) -> None:
        """Take part in a push by ipc from GPUs, as any rank but the first."""
        join_sender(offer, self._rank, "cuda")

    def write_now(self, version: int, report: Report = lambda event: None) -> bool:
        """Put the tensors of `version` on disk, which was published without them, if this process
        still has them; called on the first rank alone, between fits. Returns whether they are
        there."""
        self.settle()
        directory = version_dir(self._weights_root, version)
        with beating("write tensors", report):
            self._publisher.write_now(version)
        return directory.is_dir() and not is_dropped(directory)

    def release(self, report: Report = lambda event: None) -> None:
        """Leave the device to others until the next call."""
        self._resident.release(lambda text: report({"notice": text}))
        free_memory()

    def close(self) -> None:
        """Free what stays in memory between fits."""
        self._resident.close()
        self._publisher.forget()

    def probe_base(
        self, base: Weights, items: Sequence[ProbeItem], report: Report = lambda event: None
    ) -> str:
        """Write the probe of the base model, or of the teacher, with `items`; returns its path.

        `report` hears of every item.

        It is kept if it is there already with these items; a teacher's only if the teacher is still
        the same. The base's weights are those of the run's first start, so that no change of them
        goes unseen.
        """
        self.settle()
        path = probe_path(self._weights_root, base.version)
        is_teacher = base.version == TEACHER_VERSION
        weights_id = identify(Path(base.path)) if is_teacher else ""
        if not zero.broadcast_from_first(is_probe_of(path, weights_id, items)):
            known = self._known(path) if not is_teacher else Probe((), ())
            with _memory_given_back(), self._loaded(base, False, report) as loaded:
                probe = self._probe(loaded, items, report)
                again = self._probe(loaded, known.items, report)
            if said := faults(compare(known, again.logprobs), tolerance_of(self._cfg), {}):
                raise WeightsError(
                    f"{base.path} is not the base that {path} was written for: {'; '.join(said)}. "
                    "Put the weights of the run's first start back there"
                )
            if self._rank == 0:
                probe.save(path, weights_id)
                if base.version == 0:
                    forget_noise(self._weights_root)
        return str(path)

    def _fit(
        self, job: Job, store: CheckpointStore, masters: Masters | None, report: Report
    ) -> Draft:
        began = time.monotonic()
        with self._loaded(job.start, True, report, masters) as loaded:
            first = self._resume(loaded, store, job, report)
            last = Fitting(self._cfg, loaded, store, job, report).run(first)
            plan = job.plan
            result = FitReport(
                weights=Weights(job.version, str(self._weights_root / f"v{job.version:04d}")),
                num_steps=len(plan.steps),
                num_examples=sum(1 for s in range(len(plan.steps)) for _ in real_examples(plan, s)),
                num_tokens=sum(num_tokens(plan, s) for s in range(len(plan.steps))),
                num_target_tokens=sum(num_target_tokens(plan, s) for s in range(len(plan.steps))),
                first_loss=last.first_loss,
                last_loss=last.last_loss,
                seconds=time.monotonic() - began,
                resumed_from_step=first.step,
                portions=count_portions(plan.examples),
            )
            with beating("gather", report), self._kept_unfolded(loaded):
                draft = self._draft(loaded, job, result, masters, report)
            self._keep(loaded, job, result.weights, masters)
            return draft

    def _done(self, job: Job, report: Report, is_again: bool) -> FitReport | None:
        """What is published already, if it is whole and of this job."""
        found: FitReport | WeightsError | None = None
        if self._rank == 0:
            with beating("look for a published version", report):
                found, notice = _taken_up(self._weights_root, job, is_again)
            if notice:
                report({"notice": notice})
        found = zero.broadcast_from_first(found)
        if isinstance(found, WeightsError):
            raise found  # on every rank: none waits for one that stopped
        return found

    # -- loading ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _loaded(
        self,
        weights: Weights,
        is_training: bool,
        report: Report = lambda event: None,
        masters: Masters | None = None,
    ) -> Iterator[Loaded]:
        """The model of `weights` in a DeepSpeed engine; freed on leaving, unless it is kept for the
        next fit. With `masters` its adapters, and what they are on, are those of an earlier fit."""
        loaded = self._taken(weights, report, masters) if is_training else None
        if loaded is None:
            self._resident.close()
            self._require_tensors(weights, report)
            loaded = self._load(weights, is_training, report, masters)
        if is_training:
            self._publisher.forget()
        try:
            yield loaded
        finally:
            if not self._resident.holds(loaded):
                loaded.engine.close()

    def _load(
        self, weights: Weights, is_training: bool, report: Report, masters: Masters | None
    ) -> Loaded:
        train, model_cfg = self._cfg.train, self._cfg.model
        torch.manual_seed(self._cfg.seed)  # adapters start alike on all ranks
        dtype: torch.dtype = getattr(torch, model_cfg.dtype)
        hidden_size = _hidden_size(weights.path, model_cfg)
        config = zero.zero_config(train, dtype, hidden_size, is_training)
        where = f"while {weights.path} is loaded on rank {self._rank}"
        with memory_errors(where, train), beating("load", report):
            with zero.sharded_loading(config):
                model = load_model(weights.path, model_cfg)
                base = load_model(masters.base, model_cfg) if masters else None
            if train.liger:
                use_kernels(model)
            if is_training:
                report({"table": format_table(prepare(model, train))})
            adapters = masters.tensors() if masters else {}
            if base is not None:
                put_back(model, base, adapters)
                del base
            layout = packed_rows(model) if train.packing else None
            module = TargetLogprobs(model, model_cfg.head_dtype)
            engine = zero.ZeroEngine(module, config, train if is_training else None)
        with _closed_on_error(engine):
            if masters:
                with memory_errors(where, train), beating("load", report):
                    engine.set_masters(adapters_of(model), adapters)
            batcher = Batcher(weights.path, model_cfg, engine.device, layout)
            return Loaded(module, engine, batcher)

    def _require_tensors(self, weights: Weights, report: Report) -> None:
        """Those in memory are written where they alone can be loaded."""
        said = ""
        if self._rank == 0:
            with beating("write tensors", report):
                self._publisher.write_now(weights.version)
            said = say_dropped(Path(weights.path))
        if said := zero.broadcast_from_first(said):
            raise DroppedWeightsError(said)  # on every rank: none waits for one that stopped

    def _taken(self, start: Weights, report: Report, masters: Masters | None) -> Loaded | None:
        """What the fit before left in memory, begun anew, if it is exactly `start`."""
        torch.manual_seed(self._cfg.seed)
        where = f"while {start.path} is gone on with on rank {self._rank}"
        with memory_errors(where, self._cfg.train), beating("load", report):
            loaded = self._resident.take(start, masters.origin if masters else None)
        if loaded is not None:
            report({"table": format_table(trainable_table(loaded.module.model))})
        return loaded

    def _keep(self, loaded: Loaded, job: Job, published: Weights, masters: Masters | None) -> None:
        """Hold what was fitted for the next fit, where the config says so."""
        train = self._cfg.train
        if not train.resident:
            return
        origin = masters.origin if masters else None
        if origin is None and train.lora is not None:
            origin = zero.broadcast_from_first(
                origin_of(job.start, train.lora) if self._rank == 0 else None
            )
        self._resident.keep(Held(loaded, published, job.recipe, origin))

    @contextlib.contextmanager
    def _kept_unfolded(self, loaded: Loaded) -> Iterator[None]:
        """Around what folds the adapters: a model that stays goes on with them."""
        with contextlib.ExitStack() as stack:
            if self._cfg.train.resident:
                stack.enter_context(unfolded_after(loaded.module.model))
            yield

    def _resume(self, loaded: Loaded, store: CheckpointStore, job: Job, report: Report) -> Position:
        with beating("look for a checkpoint", report):
            position = zero.broadcast_from_first(_found(store) if self._rank == 0 else None)
            if isinstance(position, TrainingError):
                raise position  # on every rank: none waits for one that stopped
            if position is not None:
                place = store.place(position)
                loaded.engine.load(place)
                if position.fit != job.fit:
                    report({"notice": _taken_over(place, position.step, len(job.plan.steps))})
                return replace(position, fit=job.fit)
        if others := store.others():
            report({"notice": _left_aside(others[-1])})
        return Position(job.fit, 0, math.nan, math.nan)

    # -- what is published -----------------------------------------------------------------------

    def _draft(
        self,
        loaded: Loaded,
        job: Job,
        result: FitReport,
        masters: Masters | None,
        report: Report,
    ) -> Draft:
        """Probe and gather together; the tensors are whole on rank 0 and missing on the others.

        Every item and every gathered bucket is reported.
        """
        model = loaded.module.model
        before = self._known(probe_path(self._weights_root, job.version - 1))
        adapters = loaded.engine.masters(adapters_of(model))
        fold_adapters(model, adapters)  # engines serve them merged and rounded
        probe = self._probe(loaded, self._items(job.plan), report).after(before)
        began = time.monotonic()
        tensors: dict[str, torch.Tensor] = {}
        for bucket in full_tensors(model, keep=self._rank == 0):
            tensors.update(bucket)
            report({"phase": "gather", "num_tensors": len(tensors)})
        return Draft(
            job, result, tensors, describe(model), probe, adapters, masters,
            trained=trained_whole(model), gather_seconds=time.monotonic() - began,
        )  # fmt: skip

    @torch.no_grad()
    def _probe(self, loaded: Loaded, items: Sequence[ProbeItem], report: Report) -> Probe:
        """Log-probabilities of the model in memory, one item at a time; each is reported."""
        loaded.module.eval()
        rows: list[tuple[float, ...]] = []
        for item in items:
            batch = loaded.batcher.collate([as_example(item)])
            logprobs = loaded.engine(batch.inputs, batch.places, batch.targets)
            rows.append(tuple(logprobs.float().tolist()))
            report({"phase": "probe", "num_items": len(rows)})
        return Probe(tuple(items), tuple(rows))

    def _items(self, plan: Plan) -> tuple[ProbeItem, ...]:
        """What every version of this run is asked, the same on all ranks."""
        lengths = self._cfg.push.probe_tokens, self._cfg.model.max_length
        items: tuple[ProbeItem, ...] = ()
        if self._rank == 0:
            kept = add_rollouts(
                self._weights_root, lambda: choose_rollouts(*lengths, plan.examples)
            )
            directory = Path(self._cfg.run_dir).resolve() / "probe"
            items = kept or choose_from_plan(*lengths, self._prompter, plan.examples, directory)
        return zero.broadcast_from_first(items)

    def _known(self, path: Path) -> Probe:
        """The first rank's probe at `path`; one without items where there is none."""
        probe = Probe((), ())
        if self._rank == 0:
            with contextlib.suppress(WeightsError):
                probe = Probe.load(path)
        return zero.broadcast_from_first(probe)

    def _masters(self, start: Weights, report: Report) -> Masters | None:
        """The adapters to go on with, the same on all ranks."""
        found: tuple[Masters | None, str] = (None, "")
        if self._rank == 0 and self._cfg.train.restart_from == "previous":
            found = find_masters(self._cfg, start, self._weights_root)
        masters, notice = zero.broadcast_from_first(found)
        if notice:
            report({"notice": notice})
        return masters

    def _job(self, plan: Plan, start: Weights, version: int, masters: Masters | None) -> Job:
        if not plan.steps or len(plan.steps[0]) != self._world_size:
            ranks = len(plan.steps[0]) if plan.steps else 0
            raise TrainingError(
                f"the plan has {len(plan.steps)} steps for {ranks} ranks, expected at least one "
                f"step for train.num_workers={self._world_size}"
            )
        goes_on = masters.origin.fingerprint if masters else ""
        return make_job(self._cfg, plan, start, version, goes_on)


@contextlib.contextmanager
def _memory_given_back() -> Iterator[None]:
    """Around all of a fit: model and optimizer refer to each other in circles, and until the
    functions that used them have returned, no collection can free them."""
    try:
        yield
    finally:
        free_memory()


@contextlib.contextmanager
def _closed_on_error(engine: zero.ZeroEngine) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.callback(engine.close)
        yield
        stack.pop_all()


def _taken_up(root: Path, job: Job, is_again: bool) -> tuple[FitReport | WeightsError | None, str]:
    """`take_up`, with what it raises as a value that can be sent to the other ranks."""
    try:
        if is_again and is_remade(version_dir(root, job.version)):
            return None, require_same_fit(root, job)
        return take_up(root, job)
    except WeightsError as error:
        return error, ""


def _found(store: CheckpointStore) -> Position | TrainingError | None:
    """Where to go on, or why not, as a value that can be sent to the other ranks."""
    try:
        return store.latest()
    except TrainingError as error:
        return error


def _taken_over(checkpoint: Path, step: int, num_steps: int) -> str:
    return (
        f"this fit goes on after step {step} of {num_steps}: {checkpoint} is of the same work, "
        "spread over other ranks or micro-batches. Losses agree but for rounding"
    )


def _left_aside(checkpoint: Path) -> str:
    step, seconds = count_repeated(checkpoint)
    cost = f" Its {step} steps are done again, about {seconds / 60:.0f} minutes." if step else ""
    if is_of_earlier_version(checkpoint):
        return (
            f"this fit begins at step 0: {checkpoint} was written by an earlier version of this "
            f"program, which alone can go on from it.{cost} It stays until these weights are "
            "published"
        )
    return (
        f"this fit begins at step 0: {checkpoint} was made with other examples, start weights, "
        f"ZeRO stage or keys of `train` that matter to learning.{cost} It stays until this version "
        "is published; set the changed keys back to go on from it"
    )


def _hidden_size(path: str, cfg: ModelConfig) -> int:
    config: Any = AutoConfig.from_pretrained(path, trust_remote_code=cfg.trust_remote_code)
    return int(config.get_text_config().hidden_size)
