"""What a run's data say, row by row, so that data which change under a run are noticed.

A fingerprint of every record that is used is kept in the run directory: of its texts, and of the
pixels of its pictures. At every later start the data must be the same, wherever they lie, or the
user takes the change in (`data.accept_changes`): what was sampled about changed problems is then
left aside, once, and the new fingerprints are kept. Held-out problems never change: rounds that
were measured on other ones could not be compared by any gate.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from virgo_ray.config import Config, flatten, is_data_place, read_stored
from virgo_ray.config.data import EVERY_CHANGE
from virgo_ray.config.stored import LEDGER_NAME
from virgo_ray.data.rows import MAX_SHOWN
from virgo_ray.errors import DataError
from virgo_ray.files import disk_errors, write_atomically
from virgo_ray.records import Problem, SeedThought

NAME = "contents.json"
SAMPLED = "data.train"  # the records that rollouts are stored of
LEARNED = (SAMPLED, "data.seed_thoughts")  # the others are measured on
Contents = dict[str, dict[str, str]]  # fingerprints by source and id
_CONTENTS = TypeAdapter(dict[str, dict[str, str]])
PixelHash = Callable[[str], bytes]  # of the picture at a path, once it is decoded


@dataclass(frozen=True)
class Change:
    """A record that is new, gone, or says something else."""

    source: str
    id: str
    before: str | None
    now: str | None

    def __str__(self) -> str:
        what = "says or shows something else"
        what = "is new" if self.before is None else "is gone" if self.now is None else what
        return f"{self.source}: {self.id!r} {what}"


@dataclass(frozen=True)
class CheckedContents:
    """What a run is about to work with, and what of it changed since the run began."""

    contents: Contents = field(default_factory=dict)
    changes: Sequence[Change] = ()

    @property
    def stale_problems(self) -> list[str]:
        """Ids of problems that rollouts may be stored of, under words that are no longer theirs."""
        return [c.id for c in self.changes if c.source == SAMPLED and c.before is not None]

    def keep(self, run_dir: Path) -> None:
        """Write the fingerprints: from now on these are the run's data.

        Raises:
            DataError: the file cannot be written.
        """
        path = run_dir / "data" / NAME
        way_out = "choose another with run_dir=PATH"
        with disk_errors(DataError, f"{path} cannot be written", way_out=way_out):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(self.contents, indent=0))


def fingerprint_record(record: Problem | SeedThought, pixels: PixelHash) -> str:
    """Of everything that a record says; the paths of its pictures do not count."""
    problem = record.problem if isinstance(record, SeedThought) else record
    thought = record.thought if isinstance(record, SeedThought) else ""
    texts = (problem.question, problem.context, problem.answer, *problem.options, thought)
    digest = hashlib.sha256(json.dumps([*texts, problem.answer_type.value]).encode())
    for path in problem.images:
        digest.update(pixels(path))
    return digest.hexdigest()[:16]


def contents_of(
    records: Mapping[str, Iterable[Problem | SeedThought]], pixels: PixelHash
) -> Contents:
    """The fingerprints of the records of each source, by id."""
    return {
        key: {
            (r.problem if isinstance(r, SeedThought) else r).id: fingerprint_record(r, pixels)
            for r in found
        }
        for key, found in records.items()
    }


def read_contents(path: Path) -> Contents:
    """The fingerprints that a run keeps.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return _CONTENTS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{path} is damaged: {error.errors()[0]['msg']}; expected fingerprints by source and "
            "id. Restore it, or remove it to take the data as they are for the run's"
        ) from error


def check_contents(contents: Contents, cfg: Config, by_looks: Contents) -> CheckedContents:
    """Compare with what the run began with; nothing is written.

    `by_looks` are the fingerprints as they were made at first, of what pictures look like: a run
    that still keeps those is compared by them.

    Raises:
        DataError: the data changed since the run began, and `data.accept_changes` does not say that
            they may; a changed source is one that the run is measured on.
    """
    run_dir = Path(cfg.run_dir)
    path = run_dir / "data" / NAME
    if not (run_dir / LEDGER_NAME).exists():
        return CheckedContents(contents)
    if not path.exists():
        _refuse_other_places(cfg, path)
        return CheckedContents(contents)
    before = read_contents(path)
    changes = [c for c in find_changes(before, contents) if not _is_of_looks(c, by_looks)]
    _refuse_unaccepted(changes, cfg.data.accept_changes, path)
    return CheckedContents(contents, changes)


def _is_of_looks(change: Change, by_looks: Contents) -> bool:
    return change.now is not None and by_looks[change.source][change.id] == change.before


def find_changes(before: Contents, now: Contents) -> list[Change]:
    """Every record that is not what it was, by source and id."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, {}), now.get(key, {})
        ids = (id for id in sorted(old.keys() | new.keys()) if old.get(id) != new.get(id))
        found += [Change(key, id, old.get(id), new.get(id)) for id in ids]
    return found


def _refuse_unaccepted(changes: Sequence[Change], accepted: Sequence[str], path: Path) -> None:
    measured = [c for c in changes if c.source not in LEARNED]
    if measured:
        raise DataError(
            _list_changes(measured)
            + f"\nput them back as they were ({path} has their fingerprints), or start a new run "
            "with run_dir=PATH: rounds that are measured on other problems cannot be compared, so "
            "these changes cannot be taken in"
        )
    others = [c for c in changes if c.id not in accepted and EVERY_CHANGE not in accepted]
    if others:
        ids = sorted({c.id for c in changes})
        names = EVERY_CHANGE if len(ids) > MAX_SHOWN else json.dumps(ids)
        flag = shlex.quote(f"data.accept_changes={names}")
        raise DataError(
            _list_changes(others)
            + f"\nput them back as they were ({path} has their fingerprints), or go on with the "
            f"new ones by adding, once, {flag}: what was sampled about changed problems is then "
            "left aside, and finished rounds stay what they are"
        )


def _list_changes(changes: Sequence[Change]) -> str:
    more = f"\n  ... and {len(changes) - MAX_SHOWN} more" if len(changes) > MAX_SHOWN else ""
    shown = "\n  ".join(map(str, changes[:MAX_SHOWN]))
    return f"the data changed since the run began: {len(changes)} records\n  {shown}{more}"


def _refuse_other_places(cfg: Config, path: Path) -> None:
    """Of a run whose contents were never kept nothing but the places tells its data.

    Raises:
        DataError: they lie somewhere else than they did.
    """
    before, now = flatten(read_stored(Path(cfg.run_dir))), flatten(cfg)
    moved = [k for k in now if is_data_place(k) and before.get(k) != now[k]]
    if moved:
        key = moved[0]
        raise DataError(
            f"{key} was {before.get(key)!r} and is {now[key]!r}, but {path} is missing, so nobody "
            "can tell whether the data are the same; start once with the old place, then move them"
        )
