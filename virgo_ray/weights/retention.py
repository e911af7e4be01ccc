"""Drops the tensors of old versions, so that a long run does not fill the disk.

A rule over committed rounds says which; the driver applies it when a round is complete, and once
more at each start. Guarantees: no version goes that the run can still be asked for
(`find_needed`); whatever happens in between, the note in the directory comes before the first file
goes, and a next call finishes what it names. Only files that the manifest names go, so what others
put there stays; descriptions, probes and records stay too. It cannot know of other runs that name a
version as their `model.path` or `teacher.path`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from virgo_ray.config import WeightsConfig
from virgo_ray.errors import WeightsError
from virgo_ray.files import disk_errors, flush
from virgo_ray.model.dropped import DroppedNote, read_note
from virgo_ray.records import Round, Weights
from virgo_ray.weights.contents import OPTIMIZER_ROOT, read_version_below
from virgo_ray.weights.manifest import read_manifest
from virgo_ray.weights.publish import version_dir
from virgo_ray.weights.remade import make_note, read_needs, with_needs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Freed:
    """A version that lost its tensors, and how many bytes that gave back."""

    version: int
    num_bytes: int


class Retention:
    """The versions in `root` under the rule of `cfg`."""

    def __init__(self, cfg: WeightsConfig, root: Path) -> None:
        self._cfg = cfg
        self._root = root
        self._dropped: set[int] = set()  # for good, as this object saw

    def apply(self, rounds: Sequence[Round], begun: Weights | None) -> list[Freed]:
        """Drop what `choose_droppable` names and is not dropped yet; returns what that freed.

        Raises:
            WeightsError: the file system refused.
        """
        freed = []
        with disk_errors(WeightsError, "an optimizer could not be dropped", "it goes later"):
            drop_optimizers(self._root.parent, rounds)
        if self._cfg.keep_last is None:
            return []
        needed = find_needed(rounds, begun, {})
        below = self._find_below(needed)
        needs = self._find_needs(needed | set(below.values()))
        for version in choose_droppable(self._cfg, rounds, begun, below, needs):
            if version in self._dropped:
                continue
            directory = version_dir(self._root, version)
            what, way_out = f"{directory} could not be dropped", "check the file system"
            with disk_errors(WeightsError, what, "what is left of it goes later", way_out):
                num_bytes = self._drop(directory, rounds[-1].label)
                note = read_note(directory)
            if note is not None and not note.is_remade:
                self._dropped.add(version)
            if num_bytes:
                freed.append(Freed(version, num_bytes))
        return freed

    def _find_below(self, versions: Iterable[int]) -> dict[int, int]:
        found = {v: read_version_below(version_dir(self._root, v)) for v in versions if v}
        return {version: below for version, below in found.items() if below is not None}

    def _find_needs(self, versions: Iterable[int]) -> dict[int, set[int]]:
        """Of these versions, and of those that they are made again from, and so on."""
        found: dict[int, set[int]] = {}
        left = {*versions} - {0}
        while left:
            needs = read_needs(self._root, left)
            found |= needs
            left = {v for of in needs.values() for v in of} - found.keys()
        return found

    def _drop(self, directory: Path, label: str | int) -> int:
        """Returns the bytes that went now; of a version that somebody removed or damaged, none."""
        if not directory.is_dir():
            return 0
        note = read_note(directory)
        if note is None or not note.is_readable:
            note = self._note_of(directory, label)
            if note is None:
                return 0
            self._save(note, directory)
        files = [file for name in note.files if (file := directory / name).is_file()]
        num_bytes = sum(file.stat().st_size for file in files)
        for file in files:
            self._remove(file)
        if files:
            flush(directory)
        return num_bytes

    def _note_of(self, directory: Path, label: str | int) -> DroppedNote | None:
        try:
            manifest = read_manifest(directory, may_be_dropped=True)
        except WeightsError as error:
            log.warning("weights.keep_last: left alone, for %s", error)
            return None
        why = f"weights.keep_last={self._cfg.keep_last} after round {label}"
        return make_note(manifest, why, is_remade=False)

    # Steps of their own, so that a test can end the process before and after each.

    def _save(self, note: DroppedNote, directory: Path) -> None:
        note.save(directory)

    def _remove(self, file: Path) -> None:
        file.unlink(missing_ok=True)


def drop_optimizers(run_dir: Path, rounds: Sequence[Round]) -> None:
    """Remove the optimizers (`train.carry_optimizer`) of versions that no fit starts from any more.

    A next fit starts from the newest round, from the last accepted one, or, where the newest is not
    evaluated yet and may be rejected, from the last that was.
    """
    kept = {r.weights.version for r in _starts(rounds)}
    gone = {f"v{version:04d}" for version in {r.weights.version for r in rounds} - kept}
    root = run_dir / OPTIMIZER_ROOT
    for directory in [*root.iterdir()] if root.is_dir() else []:
        if directory.name in gone:
            shutil.rmtree(directory)


def _starts(rounds: Sequence[Round]) -> list[Round]:
    """The newest round, the last accepted and the last accepted that was evaluated."""
    accepted = [r for r in rounds if not r.is_rejected]
    judged = [r for r in accepted if r.evaluation is not None]
    return [rounds[-1], accepted[-1], *judged[-1:]]


def choose_droppable(
    cfg: WeightsConfig,
    rounds: Sequence[Round],
    begun: Weights | None = None,
    below: Mapping[int, int] | None = None,
    needs: Mapping[int, Iterable[int]] | None = None,
) -> list[int]:
    """The versions that go, the oldest first. `rounds` are the base and every trained round, in
    order; `begun` are the weights of an exploration that has begun; `below` says, of versions with
    adapters of their own, on which version these belong; `needs`, of those without tensors, which
    versions they are made again from.

    Example: `keep_last=1`, rounds 0 to 4 accepted, round 2 the best: versions 1, 2 and 4 go (those
    of rounds 0, 1 and 3).
    """
    if cfg.keep_last is None:
        return []
    trained = [r for r in rounds if r.number is not None and r.weights.version > 0]
    kept = {r.weights.version for r in trained[-cfg.keep_last :]}
    kept |= with_needs(find_needed(rounds, begun, below or {}), needs or {})
    if cfg.keep_every is not None:
        kept |= {r.weights.version for r in trained if (r.number or 0) % cfg.keep_every == 0}
    return sorted({r.weights.version for r in trained} - kept)


def find_needed(
    rounds: Sequence[Round], begun: Weights | None, below: Mapping[int, int]
) -> set[int]:
    """Versions that never go.

    The newest is served, and may be judged again by other limits. The last accepted one is served
    after a rejection, asked in the next exploration, and where the next fit starts. Before the
    newest is evaluated, that is one that was accepted before; with `evaluate.every`, rounds
    before. An exploration is finished with the weights that it was begun with. The best is what the
    run was for. Where a fit goes on with the adapters of one of these, it reads the weights below
    them, too.
    """
    judged = [r for r in rounds if not r.is_rejected and r.evaluation is not None]
    kept = [*_starts(rounds), *_best(judged)]
    versions = {r.weights.version for r in kept} | ({begun.version} if begun else set())
    return versions | {below[version] for version in versions if version in below}


def _best(judged: Iterable[Round]) -> list[Round]:
    """The accepted round with the highest pass@1 on held-out problems, the newest of equal ones."""
    scored = [(r.evaluation.pass_at_1, n, r) for n, r in enumerate(judged) if r.evaluation]
    return [max(scored)[2]] if scored else []
