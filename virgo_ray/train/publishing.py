"""Publishing behind the fit's back: a trained version is kept whole in host memory until it lies on
disk, or, where it is published without tensors, until the next fit.

Guarantees: `begin` returns at once; a version is published by a thread of its own, all of it or
nothing, and the checkpoints of its fit go after that; what the thread meets is raised by `settle`,
with its own type. The tensors that were kept are let go by `settle`. Meanwhile `held` gives them to
whoever pushes weights. Only the first rank has a Publisher at work; it knows no ranks and no
DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from virgo_ray.config import Config
from virgo_ray.errors import WeightsError
from virgo_ray.model.dropped import is_dropped
from virgo_ray.model.files import resolve_model
from virgo_ray.records import FitReport
from virgo_ray.train.adapters import Masters, origin_of, write_masters
from virgo_ray.train.export import (
    Checkpoint,
    Description,
    make_checkpoint,
    write_card,
    write_model,
)
from virgo_ray.train.fit_record import write_fit
from virgo_ray.train.fitting import Report
from virgo_ray.train.job import Job
from virgo_ray.train.progress import beating
from virgo_ray.weights.hashing import hash_files
from virgo_ray.weights.probe import PROBE_NAME, Probe
from virgo_ray.weights.publish import publish, version_dir
from virgo_ray.weights.remade import keeps_tensors, publish_without, restore

OTHERWISE = (
    "{}: the fit was done again on another machine, or on other ranks, and agrees with the first "
    "but for rounding. The files are those of now; what the ledger says of the version stays"
)


@dataclass(frozen=True)
class Draft:
    """What the first rank keeps of a fit whose model is freed: all that a version is made of.

    `tensors` are whole, on the CPU, under the names of the model in memory, adapters merged;
    `adapters` are float32. `trained` names the tensors that the fit could change without adapters.
    """

    job: Job
    report: FitReport
    tensors: Mapping[str, Tensor]
    about: Description
    probe: Probe
    adapters: Mapping[str, Tensor]
    masters: Masters | None
    trained: frozenset[str]
    gather_seconds: float


@dataclass(frozen=True)
class Held:
    """A draft, and its tensors under the names that they have on disk."""

    draft: Draft
    naming: Future[Checkpoint]

    def tensors(self, timeout_s: float) -> dict[str, Tensor]:
        """All tensors of the published directory.

        Raises:
            WeightsError, TrainingError: there are none; publishing meets the same.
        """
        try:
            return self.naming.result(timeout=timeout_s).tensors
        except TimeoutError as error:
            raise WeightsError(
                f"the tensors of version {self.draft.job.version} were not named within "
                f"{timeout_s:.0f} s; look at the disk that the start weights lie on"
            ) from error


class Publisher:
    """One version at a time: `begin`, then `settle` before the next."""

    def __init__(self, cfg: Config, root: Path, end_id: int) -> None:
        """`root` holds the versions; `end_id` is the token that trained responses end with."""
        self._cfg = cfg
        self._root = root
        self._end_id = end_id
        self._held: Held | None = None
        self._publishing: Future[None] | None = None
        self._unwritten: tuple[int, Callable[[], str]] | None = None  # see `write_now`

    @property
    def held(self) -> Held | None:
        """What is kept in memory: of the last fit, until it is settled."""
        return self._held

    def begin(self, draft: Draft, clear: Callable[[], None], report: Report) -> None:
        """Publish `draft` in another thread, then `clear` what only an interrupted fit needs.

        `report` hears that it goes on.
        """
        assert self._publishing is None, "settle() comes first"
        threads = ThreadPoolExecutor(1, "publish")
        naming = threads.submit(self._name, draft, report)
        self._held = Held(draft, naming)
        self._publishing = threads.submit(self._publish, draft, naming, clear, report)
        threads.shutdown(wait=False)

    def settle(self) -> bool:
        """Wait until the version is published, and let its tensors go; False: there is none.

        Raises:
            WeightsError, TrainingError, ConfigError: it could not be published.
        """
        publishing, self._publishing = self._publishing, None
        if publishing is None:
            return False
        try:
            publishing.result()  # deadline: the group's, by what is reported
        finally:
            self._held = None
        return True

    def _name(self, draft: Draft, report: Report) -> Checkpoint:
        """Names, and tensors that are carried over, are the same in all versions and in the base;
        what a fit of memory starts from need not lie on disk."""
        start = Path(draft.job.start.path)
        if is_dropped(start):
            model = self._cfg.model
            start = Path(resolve_model(model.path, model.trust_remote_code))
        with beating("publish", report):
            return make_checkpoint(draft.tensors, start, self._cfg)

    def _publish(
        self, draft: Draft, naming: Future[Checkpoint], clear: Callable[[], None], report: Report
    ) -> None:
        with beating("publish", report):
            checkpoint = naming.result()  # deadline: it is done, by this same thread
            write = partial(self._write, draft, checkpoint)
            known = partial(hash_files, tensors=checkpoint.tensors)
            place, every = (self._root, draft.job.version), self._cfg.weights.publish_every
            if is_dropped(version_dir(*place)):
                if said := restore(*place, write, known):
                    report({"notice": OTHERWISE.format(said)})
            elif keeps_tensors(self._cfg, draft.job.version):
                publish(*place, write, known)
            else:
                publish_without(*place, write, known, f"weights.publish_every={every}")
                self._unwritten = draft.job.version, partial(restore, *place, write, known)
            clear()

    def write_now(self, version: int) -> bool:
        """Write the tensors of `version`, if it was published without and they are still in memory.

        `settle` comes first. Returns whether that was so.
        """
        if self._unwritten is None or self._unwritten[0] != version:
            return False
        self._unwritten[1]()
        self._unwritten = None
        return True

    def forget(self) -> None:
        """Let go what `write_now` would write."""
        self._unwritten = None

    def _write(self, draft: Draft, checkpoint: Checkpoint, directory: Path) -> None:
        job, lora = draft.job, self._cfg.train.lora
        start = Path(job.start.path)
        write_model(draft.about, checkpoint, start, directory, self._cfg, self._end_id)
        write_card(directory, self._cfg, draft.report, checkpoint.layout)
        draft.probe.save(directory / PROBE_NAME)
        write_fit(directory, draft.report, job)
        if lora is not None:
            origin = draft.masters.origin if draft.masters else origin_of(job.start, lora)
            write_masters(directory, draft.adapters, origin)
