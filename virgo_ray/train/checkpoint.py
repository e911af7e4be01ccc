"""In-round checkpoints of one fit, so that an interrupted fit goes on instead of starting again.

A checkpoint is written to a temporary directory, described by `meta.json` (sizes and checksums of
its files), flushed and renamed; the last two are kept, and a damaged one is passed over with a
warning. It belongs to one plan, start and number of ranks: any other fit ignores it. All of this
runs on rank 0; the other ranks only write their files. Knows no tensors.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)

META_NAME = "meta.json"
NUM_KEPT = 2
CHECKED_BYTES = 16 * 1024**2  # at each end of a file: enough to see a torn write, at any size


@dataclass(frozen=True)
class Position:
    """Where a fit stands: `step` optimizer steps are done. `fit` says which fit it is."""

    fit: str
    step: int
    first_loss: float
    last_loss: float


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
        """Make an empty temporary directory; leftovers of killed tries go."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for leftover in self._directory.glob("tmp_step_*"):
            shutil.rmtree(leftover)
        self.temporary(step).mkdir()

    def commit(self, position: Position) -> None:
        """Describe, flush and rename what the ranks wrote; drop all but the last two."""
        temporary = self.temporary(position.step)
        files = {name: _describe(temporary / name) for name in _file_names(temporary)}
        meta = {"position": asdict(position), "files": files}
        (temporary / META_NAME).write_text(json.dumps(meta, indent=1))
        for name in (*files, META_NAME):
            _flush(temporary / name)
        final = self.path(position.step)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in self._newest_first()[NUM_KEPT:]:
            shutil.rmtree(old)

    def latest(self) -> Position | None:
        """The newest whole checkpoint of this fit, or None."""
        for directory in self._newest_first():
            try:
                position = _read(directory)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning(
                    "checkpoint %s is damaged (%s): falling back to the one before or the start",
                    directory,
                    error,
                )
                continue
            if position.fit == self._fit:
                return position
            log.warning(
                "checkpoint %s belongs to another plan, start or number of ranks: ignored",
                directory,
            )
        return None

    def clear(self) -> None:
        """Remove all of it: the fit is published."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self._directory.glob("step_*"), reverse=True)


def _read(directory: Path) -> Position:
    meta = json.loads((directory / META_NAME).read_text())
    for name, expected in meta["files"].items():
        found = _describe(directory / name)
        if found != expected:
            raise ValueError(f"{name} is {found}, expected {expected}")
    return Position(**meta["position"])


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


def _flush(file: Path) -> None:
    with file.open("rb") as f:
        os.fsync(f.fileno())
