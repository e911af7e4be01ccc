"""Publishes a version of the weights: all of it or nothing.

A version is written to a temporary directory beside its final one, described by a manifest, marked
DONE, flushed to disk and renamed. So whoever sees `v0003/` sees it whole, and a process killed at
any moment leaves at most a temporary directory that the next try removes. One process publishes a
version at a time (rank 0 of the trainer group); this module does not know who computes the tensors.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from virgo_ray.errors import WeightsError
from virgo_ray.files import flush
from virgo_ray.records import Weights
from virgo_ray.weights.manifest import DONE_NAME, build_manifest, read_manifest

log = logging.getLogger(__name__)


def version_dir(root: Path, version: int) -> Path:
    """`version_dir(Path("run/weights"), 3)` is `run/weights/v0003`."""
    return root / f"v{version:04d}"


def published(root: Path, version: int) -> Weights | None:
    """The published version, or None where there is none (yet).

    Raises:
        WeightsError: marked DONE, but the manifest is unreadable or of another version.
    """
    final = version_dir(root, version)
    if not (final / DONE_NAME).exists():
        return None
    found = read_manifest(final).version
    if found != version:
        raise WeightsError(f"{final} holds version {found}, expected {version}; was it copied?")
    return Weights(version, str(final))


def publish(root: Path, version: int, write: Callable[[Path], None]) -> Weights:
    """Let `write(directory)` save a model (safetensors, config, processor, probe), then publish it.

    A version that is already published is returned as it is, without calling `write`.

    Raises:
        WeightsError: `write` left no tensors, or the same tensor twice; or the disk is full.
    """
    if (done := published(root, version)) is not None:
        return done
    root.mkdir(parents=True, exist_ok=True)
    final = version_dir(root, version)
    _remove_leftovers(root, final)
    temporary = root / f".{final.name}.tmp-{os.getpid()}"
    temporary.mkdir()
    try:
        write(temporary)
        build_manifest(temporary, version).save(temporary)
        (temporary / DONE_NAME).touch()
        _flush_all(temporary)
        temporary.rename(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise WeightsError(
            f"{final} could not be written: {error}; the versions before are intact. Free space or "
            "check the file system, then run the same command again"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(root)
    return Weights(version, str(final))


def _remove_leftovers(root: Path, final: Path) -> None:
    """Temporary directories of killed tries go. A final one without DONE was damaged by somebody
    else (an interrupted copy): it is moved aside, never deleted."""
    for leftover in root.glob(f".{final.name}.tmp-*"):
        shutil.rmtree(leftover)
    if final.exists():
        names = (root / f"damaged-{final.name}-{n}" for n in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        log.warning("%s has no %s file: moved aside to %s", final, DONE_NAME, aside)
        final.rename(aside)


def _flush_all(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        flush(path)
