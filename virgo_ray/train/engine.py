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
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from virgo_ray.config import Config
from virgo_ray.errors import TrainingError, WeightsError
from virgo_ray.model.dropped import is_dropped, is_remade
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import TEACHER_VERSION, FitReport, Plan, Weights
from virgo_ray.train import zero
from virgo_ray.train.adapters import Masters, find_masters
from virgo_ray.train.carrying import (
    describe_left,
    find_carried,
    is_taken_on,
    leave,
    require_planned,
    state_store,
)
from virgo_ray.train.checkpoint import CheckpointStore, Position
from virgo_ray.train.export import describe
from virgo_ray.train.fit_record import require_same_fit, take_up
from virgo_ray.train.fitting import Fitting, Loaded, Report, save_state
from virgo_ray.train.job import Carried, Job, make_job
from virgo_ray.train.loading import Loader
from virgo_ray.train.model import (
    adapters_of,
    fold_adapters,
    full_tensors,
    trained_whole,
)
from virgo_ray.train.pack import count_portions, num_target_tokens, num_tokens, real_examples
from virgo_ray.train.prober import Prober
from virgo_ray.train.process import free_memory
from virgo_ray.train.progress import beating
from virgo_ray.train.publishing import Draft, Publisher
from virgo_ray.train.resuming import resume
from virgo_ray.train.sending import Sending
from virgo_ray.weights.noise import forget_noise
from virgo_ray.weights.offer import Offer, Stream
from virgo_ray.weights.probe import Probe, ProbeItem, identify, is_probe_of, probe_path
from virgo_ray.weights.publish import version_dir
from virgo_ray.weights.remade import remove_killed_tries
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
        if self._rank == 0:
            remove_killed_tries(self._weights_root)
        self._loader = Loader(cfg, self._publisher)
        self._prober = Prober(cfg, self._weights_root, self._prompter)

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
            job = self._job(plan, start, version, masters, is_again, report)
            store = CheckpointStore(
                Path(self._cfg.run_dir) / "checkpoints" / f"round_fit_v{version:04d}",
                job.fit,
                job.work,
            )
            if (done := self._done(job, report, is_again)) is not None:
                if self._rank == 0:
                    store.clear()  # a process that was killed after it published left them
                return done
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
        self._loader.release(report)
        free_memory()

    def close(self) -> None:
        """Free what stays in memory between fits."""
        self._loader.close()
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
            known = self._prober.known(path) if not is_teacher else Probe((), ())
            with _memory_given_back(), self._loader.loaded(base, False, report) as loaded:
                probe = self._prober.ask(loaded, items, report)
                again = self._prober.ask(loaded, known.items, report)
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
        with self._loader.loaded(job.start, True, report, masters, job.carried) as loaded:
            first = resume(loaded, store, job, report)
            last = Fitting(self._cfg, loaded, store, job, report).run(first)
            self._leave(loaded, job, last, report)
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
                entropy=last.recent[-1].get("entropy") if last.recent else None,
                start_kl=last.recent[-1].get("start_kl") if last.recent else None,
            )
            with beating("gather", report), self._loader.kept_unfolded(loaded):
                draft = self._draft(loaded, job, result, masters, report)
            self._loader.keep(loaded, job, result.weights, masters)
            return draft

    def _leave(self, loaded: Loaded, job: Job, last: Position, report: Report) -> None:
        """Keep the optimizer for the next fit, before the version is published."""
        if job.left is None:
            return
        store = state_store(Path(self._cfg.run_dir), job.version, job.recipe)
        with beating("keep the optimizer", report):
            if self._rank == 0:
                store.clear()  # of a fit of this version that was not published, or moved aside
            save_state(loaded.engine, store, leave(last, job))

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
        before = self._prober.known(probe_path(self._weights_root, job.version - 1))
        adapters = loaded.engine.masters(adapters_of(model))
        fold_adapters(model, adapters)  # engines serve them merged and rounded
        probe = self._prober.ask(loaded, self._prober.items(job.plan), report).after(before)
        began = time.monotonic()
        tensors: dict[str, torch.Tensor] = {}
        for bucket in full_tensors(model, keep=self._rank == 0):
            tensors.update(bucket)
            report({"phase": "gather", "num_tensors": len(tensors)})
        return Draft(
            job, result, tensors, describe(model), probe, adapters, masters,
            trained=trained_whole(model), gather_seconds=time.monotonic() - began,
        )  # fmt: skip

    def _masters(self, start: Weights, report: Report) -> Masters | None:
        """The adapters to go on with, the same on all ranks."""
        found: tuple[Masters | None, str] = (None, "")
        if self._rank == 0 and self._cfg.train.restart_from == "previous":
            found = find_masters(self._cfg, start, self._weights_root)
        masters, notice = zero.broadcast_from_first(found)
        if notice:
            report({"notice": notice})
        return masters

    def _job(
        self,
        plan: Plan,
        start: Weights,
        version: int,
        masters: Masters | None,
        is_again: bool,
        report: Report,
    ) -> Job:
        if not plan.steps or len(plan.steps[0]) != self._world_size:
            ranks = len(plan.steps[0]) if plan.steps else 0
            raise TrainingError(
                f"the plan has {len(plan.steps)} steps for {ranks} ranks, expected at least one "
                f"step for train.num_workers={self._world_size}"
            )
        goes_on = masters.origin.fingerprint if masters else ""
        carried = self._carried(plan, start, masters, report)
        job = make_job(self._cfg, plan, start, version, goes_on, carried)
        require_planned(self._cfg.train, job.num_before, plan)
        if is_again or not is_taken_on(self._cfg, plan):
            return job
        num_steps = job.num_before + len(plan.steps)
        return replace(job, left=describe_left(self._cfg, plan, num_steps))

    def _carried(
        self, plan: Plan, start: Weights, masters: Masters | None, report: Report
    ) -> Carried | None:
        """The optimizer to go on with, the same on all ranks."""
        found: tuple[Carried | None, str] | TrainingError = (None, "")
        if self._rank == 0:
            try:
                found = find_carried(self._cfg, plan, start, masters is not None)
            except TrainingError as error:
                found = error
        found = zero.broadcast_from_first(found)
        if isinstance(found, TrainingError):
            raise found  # on every rank: none waits for one that stopped
        carried, notice = found
        if notice:
            report({"notice": notice})
        return carried


@contextlib.contextmanager
def _memory_given_back() -> Iterator[None]:
    """Around all of a fit: model and optimizer refer to each other in circles, and until the
    functions that used them have returned, no collection can free them."""
    try:
        yield
    finally:
        free_memory()


def _taken_up(root: Path, job: Job, is_again: bool) -> tuple[FitReport | WeightsError | None, str]:
    """`take_up`, with what it raises as a value that can be sent to the other ranks."""
    try:
        if is_again and is_remade(version_dir(root, job.version)):
            return None, require_same_fit(root, job)
        return take_up(root, job)
    except WeightsError as error:
        return error, ""
