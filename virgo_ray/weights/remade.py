"""Versions that are published without their tensors, and get them later (`weights.publish_every`).

Such a version is complete but for the files that hold tensors: its manifest has their checksums,
and the note beside it says why they are missing. Guarantees: at any moment a version is either
whole or says that it is not; what is put back is compared with the manifest first. A version is
made again from those that its fit read (`read_needs`). Knows no tensors and nobody who trains.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath

from safetensors import SafetensorError

from virgo_ray.config import Config
from virgo_ray.errors import WeightsError
from virgo_ray.files import disk_errors, flush, rename_durably
from virgo_ray.model.dropped import NOTE_NAME, DroppedNote, is_remade
from virgo_ray.records import Weights
from virgo_ray.weights.contents import DESCRIPTION_SUFFIXES, read_start, read_version_below
from virgo_ray.weights.manifest import (
    MANIFEST_NAME,
    Manifest,
    build_manifest,
    read_manifest,
)
from virgo_ray.weights.probe import PICTURES_NAME
from virgo_ray.weights.publish import publish, version_dir

AGAIN = "again-"  # before the name of a version whose tensors are being put back

Write = Callable[[Path], object]
Known = Callable[[Path], Mapping[str, str]]  # see `publish`


def keeps_tensors(cfg: Config, version: int) -> bool:
    """Whether a version is written whole: that of round 0, k, 2k, ... or of the last round."""
    number = version - 1
    return number % cfg.weights.publish_every == 0 or number >= cfg.rounds


def is_heavy(name: str) -> bool:
    """Whether a file of a version holds tensors, by its name: it is neither a description nor a
    picture of the probe.

    >>> [is_heavy(n) for n in ("model.safetensors", "adapters/adapters.safetensors", "vocab.txt")]
    [True, True, False]
    """
    path = PurePath(name)
    return path.parts[0] != PICTURES_NAME and path.suffix not in DESCRIPTION_SUFFIXES


def make_note(manifest: Manifest, why: str, is_remade: bool) -> DroppedNote:
    """What is said of a version whose heavy files go, or never come."""
    files = {name: info.size for name, info in manifest.files.items() if is_heavy(name)}
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return DroppedNote(why, when, sum(files.values()), tuple(files), is_remade)


def publish_without(root: Path, version: int, write: Write, known: Known, why: str) -> Weights:
    """As `publish`, but without the tensors. They are written for their names and checksums, and
    removed before anything is flushed to the disk.

    Raises:
        WeightsError: as `publish`.
    """
    return publish(root, version, write, known, lambda draft: _strip(draft, why))


def _strip(draft: Path, why: str) -> None:
    manifest = read_manifest(draft)
    note = make_note(manifest, why, is_remade=True)
    for name in note.files:
        (draft / name).unlink()
    note.save(draft)


def restore(root: Path, version: int, write: Write, known: Known) -> str:
    """Let `write` save once more the model whose version has no tensors, and put them beside what
    is there. Returns what differs from before; then all files are the new ones. Those of a killed
    try go, of any version.

    Raises:
        WeightsError: the disk is full, or `write` left no tensors.
    """
    final = version_dir(root, version)
    draft = final.with_name(f"{AGAIN}{final.name}")
    what, intact = f"the tensors of {final} could not be written", "what was there is intact"
    with disk_errors(WeightsError, what, intact, also=(SafetensorError,)):
        remove_killed_tries(root)
        draft.mkdir()
        try:
            write(draft)
            new = build_manifest(draft, version, known(draft))
            new.save(draft)
            different = _compare(read_manifest(final, may_be_dropped=True), new)
            names = [name for name in new.files if different or is_heavy(name)]
            for name in [*names, MANIFEST_NAME] if different else names:
                _put(draft / name, final / name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        (final / NOTE_NAME).unlink()
        flush(final)
    return different


def remove_killed_tries(root: Path) -> None:
    """Remove what processes that were killed in `restore` left. Nobody may be in it."""
    for leftover in root.glob(f"{AGAIN}v[0-9]*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _compare(old: Manifest, new: Manifest) -> str:
    """Which heavy files differ, in words; empty where none does."""
    before, now = (
        {name: info for name, info in m.files.items() if is_heavy(name)} for m in (old, new)
    )
    names = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
    return f"{', '.join(names)} of version {old.version} came out otherwise" if names else ""


def _put(file: Path, place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    rename_durably(file, place)


def read_needs(root: Path, versions: Iterable[int]) -> dict[int, set[int]]:
    """Of those that have no tensors and can be made again: the versions that their fits read, which
    are the start and the weights below its adapters."""
    found: dict[int, set[int]] = {}
    for version in versions:
        directory = version_dir(root, version)
        if is_remade(directory):
            found[version] = {*filter(None, (read_start(directory), read_version_below(directory)))}
    return found


def with_needs(versions: Iterable[int], needs: Mapping[int, Iterable[int]]) -> set[int]:
    """`versions`, and all that must be there for those that are made again.

    Example: `with_needs([4], {4: [3], 3: [2]})` is `{2, 3, 4}`; 2 has its tensors.
    """
    found: set[int] = set()
    left = [*versions]
    while left:
        if (version := left.pop()) not in found:
            found.add(version)
            left += needs.get(version, ())
    return found


def find_lost(root: Path, rounds: Iterable[int], wanted: int) -> list[int]:
    """The versions to train again, the oldest first, so that `wanted` has its tensors; `rounds` are
    the versions that the run trained."""
    needs = read_needs(root, rounds)
    return sorted(with_needs([wanted], needs) & needs.keys())
