"""In-round checkpoints of one fit, so that an interrupted fit goes on instead of starting again.

A checkpoint is written to a temporary directory, described by `meta.json` (sizes and checksums of
its files), flushed and renamed, so a kill leaves none half-written; the last two are kept. One that
was damaged later is an error that names what is left, and stays where it is. A checkpoint belongs
to one plan, start and number of ranks: any other fit ignores it. All of this runs on rank 0; the
other ranks only write their files. Knows no tensors.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from virgo_ray.errors import TrainingError
from virgo_ray.files import disk_errors, rename_durably

log = logging.getLogger(__name__)

META_NAME = "meta.json"
NUM_KEPT = 2
CHECKED_BYTES = 16 * 1024**2  # at each end of a file: enough to see a torn write, at any size


@dataclass(frozen=True)
class Position:
    """Where a fit stands: `step` optimizer steps are done. `fit` says which fit it is.

    `recent` is what the last steps reported: a driver that died with this fit may not have heard.
    """

    fit: str
    step: int
    first_loss: float
    last_loss: float
    recent: list[dict[str, float]] = field(default_factory=list)


class CheckpointStore:
    """The checkpoints of one fit, in one directory."""

    def __init__(self, directory: Path, fit: str) -> None:
        self._directory = directory
        self._fit = fit

    def path(self, step: int) -> Path:
        return self._directory / f"step_{step:06d}"

    def temporary(self, step: int) -> Path:
        """Where the ranks write their files before `commit`."""
        return self._directory / f"tmp_step_{step:06d}"

    def begin(self, step: int) -> None:
        """Make an empty temporary directory; leftovers of killed tries go.

        Raises:
            TrainingError: the file system refused.
        """
        with self._write_errors():
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
        with self._write_errors():
            files = {name: _describe(temporary / name) for name in _file_names(temporary)}
            meta = {"position": asdict(position), "files": files}
            (temporary / META_NAME).write_text(json.dumps(meta, indent=1))
            final = self.path(position.step)
            shutil.rmtree(final, ignore_errors=True)
            rename_durably(temporary, final)
            for old in self._newest_first()[NUM_KEPT:]:
                shutil.rmtree(old)

    def latest(self) -> Position | None:
        """The newest checkpoint of this fit, or None.

        Raises:
            TrainingError: it is damaged; says which one is whole. Nothing is deleted.
        """
        damaged = ""
        for directory in self._newest_first():
            try:
                position = _read(directory, self._fit)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                damaged = damaged or f"checkpoint {directory} is damaged ({error})"
                continue
            if position is None:
                log.warning(
                    "checkpoint %s belongs to another plan, start or number of ranks: ignored",
                    directory,
                )
            elif damaged:
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

    def clear(self) -> None:
        """Remove all of it: the fit is published."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _write_errors(self) -> AbstractContextManager[None]:
        what = f"no checkpoint could be written to {self._directory}"
        return disk_errors(TrainingError, what, "those before are intact")

    def _newest_first(self) -> list[Path]:
        return sorted(self._directory.glob("step_*"), reverse=True)


def _read(directory: Path, fit: str) -> Position | None:
    """The position of a whole checkpoint; None if it is of another fit."""
    meta = json.loads((directory / META_NAME).read_text())
    position = Position(**meta["position"])
    if position.fit != fit:
        return None
    for name, expected in meta["files"].items():
        found = _describe(directory / name)
        if found != expected:
            raise ValueError(f"{name} is {found}, expected {expected}")
    return position


def _describe(file: Path) -> dict[str, int]:
    """Size and checksum of both ends of a file."""
    size = file.stat().st_size
    with file.open("rb") as f:
        checksum = zlib.crc32(f.read(CHECKED_BYTES))
        if size > CHECKED_BYTES:
            f.seek(max(CHECKED_BYTES, size - CHECKED_BYTES))
            checksum = zlib.crc32(f.read(), checksum)
    return {"size": size, "crc32": checksum}


def _file_names(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())
