"""Publishes a version of the weights: all of it or nothing.

A version is written to a draft beside its final directory, described by a manifest, marked DONE,
flushed to disk and renamed. So whoever sees `v0003/` sees it whole, and a process killed at any
moment leaves at most a draft that the next try removes. One process publishes a version at a time
(rank 0 of the trainer group); this module does not know who computes the tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError

from virgo_ray.errors import WeightsError
from virgo_ray.files import disk_errors, draft_of, move_aside, remove_drafts
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


def publish(
    root: Path,
    version: int,
    write: Callable[[Path], object],
    known: Callable[[Path], Mapping[str, str]] = lambda draft: {},
    finish: Callable[[Path], object] = lambda draft: None,
) -> Weights:
    """Let `write(directory)` save a model (safetensors, config, processor, probe), then publish it.

    `known(directory)` says the sha256 of files whose content is still in memory; they are not read
    again. `finish(directory)` is called with the complete draft. A version that is already
    published is returned as it is, without calling `write`.

    Raises:
        WeightsError: `write` left no tensors, or the same tensor twice; or the disk is full.
    """
    if (done := published(root, version)) is not None:
        return done
    final = version_dir(root, version)
    what, intact = f"{final} could not be written", "the versions before are intact"
    with disk_errors(WeightsError, what, intact, also=(SafetensorError,)):
        root.mkdir(parents=True, exist_ok=True)
        _make_way(final)
        with draft_of(final) as draft:
            draft.mkdir()
            write(draft)
            build_manifest(draft, version, known(draft)).save(draft)
            (draft / DONE_NAME).touch()
            finish(draft)
    return Weights(version, str(final))


def _make_way(final: Path) -> None:
    """Remove the drafts of killed tries. A directory without DONE was damaged by somebody else
    (an interrupted copy): it is moved aside, never deleted."""
    remove_drafts(final)
    if final.exists():
        aside = move_aside(final, "damaged")
        log.warning("%s has no %s file: moved aside to %s", final, DONE_NAME, aside)
