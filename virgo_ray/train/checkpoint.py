"""In-round checkpoints of one fit, so that an interrupted fit goes on instead of starting again.

A checkpoint is written to a temporary directory, described by `meta.json` (size and sha256 of each
of its files), flushed and renamed, so a kill leaves none half-written; the last two are kept. One
that was damaged later is an error that names what is left, and stays where it is: nothing is loaded
that `meta.json` does not name, byte for byte. A checkpoint belongs to one plan, start and set-up.
Those of another fit of the same version lie in a directory of their own. A fit of the same work,
only spread otherwise over ranks and micro-batches, goes on from them, and drops them once it has
two newer ones; others are left alone, and go when the version is published. All of this runs on
rank 0; the other ranks only write their files. Knows no tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from virgo_ray.errors import TrainingError
from virgo_ray.files import disk_errors, rename_durably

META_NAME = "meta.json"
NUM_KEPT = 2
MAX_THREADS = 8  # that hash files


@dataclass(frozen=True)
class Position:
    """Where a fit stands: `step` optimizer steps are done. `fit` says which fit got there.

    `recent` is what the last steps reported: a driver that died with this fit may not have heard.
    """

    fit: str
    step: int
    first_loss: float
    last_loss: float
    recent: list[dict[str, float]] = field(default_factory=list)


class CheckpointStore:
    """The checkpoints of one fit, in `directory/fit_...`; other fits have theirs beside it.

    `work` is what fits have in common that can go on from each other's; None: with no other.
    """

    def __init__(self, directory: Path, fit: str, work: str | None = None) -> None:
        self._root = directory
        self._directory = directory / f"fit_{fit}"
        self._fit = fit
        self._work = work

    def path(self, step: int) -> Path:
        return self._directory / f"step_{step:06d}"

    def place(self, position: Position) -> Path:
        """The directory of a position that `latest` found, whichever fit it is of."""
        return self._root / f"fit_{position.fit}" / f"step_{position.step:06d}"

    def beside(self, name: str) -> Path:
        """A file of this version's fits, which goes with their checkpoints."""
        return self._root / name

    def temporary(self, step: int) -> Path:
        """Where the ranks write their files before `commit`."""
        return self._directory / f"tmp_step_{step:06d}"

    def begin(self, step: int) -> None:
        """Make an empty temporary directory; leftovers of killed tries go.

        Raises:
            TrainingError: the file system refused.
        """
        with self.write_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
            for leftover in self._directory.glob("tmp_step_*"):
                shutil.rmtree(leftover)
            self.temporary(step).mkdir()

    def commit(self, position: Position) -> None:
        """Describe, flush and rename what the ranks wrote; drop all but the last two.

        Raises:
            TrainingError: the file system refused; the checkpoints before are intact.
        """
        temporary = self.temporary(position.step)
        with self.write_errors():
            meta = {
                "position": asdict(position),
                "work": self._work,
                "files": _describe_all(temporary),
            }
            (temporary / META_NAME).write_text(json.dumps(meta, indent=1))
            final = self.path(position.step)
            shutil.rmtree(final, ignore_errors=True)
            rename_durably(temporary, final)
            for old in self._newest_first()[NUM_KEPT:]:
                shutil.rmtree(old)

    def write_errors(self) -> AbstractContextManager[None]:
        """Around what a rank writes: a file system that refuses is a TrainingError."""
        what = f"no checkpoint could be written to {self._directory}"
        return disk_errors(TrainingError, what, "those before are intact")

    def latest(self) -> Position | None:
        """The newest checkpoint of this fit, or of another of the same work; or None.

        Raises:
            TrainingError: it is damaged; says which one is whole. Nothing is deleted.
        """
        damaged = ""
        for directory in self._newest_first():
            try:
                position = _read(directory)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                damaged = damaged or f"checkpoint {directory} is damaged ({error})"
                continue
            if damaged:
                raise TrainingError(
                    f"{damaged}. Nothing was changed. {directory} is whole: move the damaged one "
                    f"aside, and the same command goes on from step {position.step}"
                )
            else:
                return position
        if damaged:
            raise TrainingError(
                f"{damaged}. Nothing was changed. No other checkpoint of this fit is whole: move "
                "the damaged one aside, and the same command trains this round from its start"
            )
        return None

    def others(self) -> list[Path]:
        """Checkpoints of this version that cannot be gone on from, the newest last."""
        found = {*self._root.glob("step_*"), *self._root.glob("fit_*/step_*")}
        return sorted(found.difference(self._newest_first()), key=lambda p: p.name)

    def clear(self) -> None:
        """Remove all of it, those of other fits too: the version is published."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        """Checkpoints of this fit and of those of the same work; of equal steps its own first."""
        own = set(self._directory.glob("step_*"))
        beside = set(self._root.glob("fit_*/step_*")) - own
        found = own | {p for p in beside if self._work and _work_of(p) == self._work}
        return sorted(found, key=lambda p: (p.name, p in own), reverse=True)


def count_repeated(checkpoint: Path) -> tuple[int, float]:
    """(steps, about how many seconds) that are done again where `checkpoint` is left aside."""
    try:
        position = Position(**_meta(checkpoint)["position"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0.0
    seconds = [values["seconds"] for values in position.recent if "seconds" in values]
    return position.step, position.step * sum(seconds) / max(len(seconds), 1)


def is_of_earlier_version(checkpoint: Path) -> bool:
    """Whether it was written before checkpoints said which work they are of."""
    try:
        return "work" not in _meta(checkpoint)
    except (OSError, ValueError):
        return False


def _work_of(directory: Path) -> str | None:
    try:
        return _meta(directory).get("work")
    except (OSError, ValueError, AttributeError):
        return None  # without it nobody knows whose it is


def _meta(directory: Path) -> dict[str, Any]:
    return json.loads((directory / META_NAME).read_text())


def _read(directory: Path) -> Position:
    """The position of a whole checkpoint."""
    meta, fit = _meta(directory), directory.parent.name.removeprefix("fit_")
    position = Position(**meta["position"])
    if position.fit != fit:
        raise ValueError(f"it is of fit {position.fit}, expected {fit}")
    found = _describe_all(directory)
    for name in sorted(found.keys() | meta["files"].keys()):
        if found.get(name) != meta["files"].get(name):
            raise ValueError(f"{name} is {found.get(name)}, expected {meta['files'].get(name)}")
    return position


def _describe_all(directory: Path) -> dict[str, dict[str, int | str]]:
    """Size and sha256 of every file but `meta.json`, by name."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != META_NAME)
    num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads) as threads:  # deadline: the group's, files are read only
        described = list(threads.map(_describe, paths))  # hashing lets other threads run
    names = [str(path.relative_to(directory)) for path in paths]
    return dict(zip(names, described, strict=True))


def _describe(file: Path) -> dict[str, int | str]:
    with file.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    return {"size": file.stat().st_size, "sha256": digest}
