"""What a run's data say, row by row, so that data which change under a run are noticed.

A fingerprint of every record that is used is kept in the run directory: of its texts, and of what
its pictures look like. At every later start the data must be the same, wherever they lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from virgo_ray.config.stored import LEDGER_NAME
from virgo_ray.data.near_duplicates import PerceptualHash
from virgo_ray.data.rows import MAX_SHOWN
from virgo_ray.errors import DataError
from virgo_ray.files import disk_errors, write_atomically
from virgo_ray.records import Problem, SeedThought

NAME = "contents.json"
Contents = dict[str, dict[str, str]]  # fingerprints by source and id


def fingerprint_record(record: Problem | SeedThought, hashes: Mapping[str, PerceptualHash]) -> str:
    """Of everything that a record says; the paths of its pictures do not count."""
    problem = record.problem if isinstance(record, SeedThought) else record
    thought = record.thought if isinstance(record, SeedThought) else ""
    texts = (problem.question, problem.context, problem.answer, *problem.options, thought)
    digest = hashlib.sha256(json.dumps([*texts, problem.answer_type.value]).encode())
    for path in problem.images:
        digest.update(hashes[path].bits.to_bytes(8, "big") + hashes[path].thumbnail)
    return digest.hexdigest()[:16]


def contents_of(
    records: Mapping[str, Iterable[Problem | SeedThought]], hashes: Mapping[str, PerceptualHash]
) -> Contents:
    """The fingerprints of the records of each source, by id."""
    return {
        key: {
            (r.problem if isinstance(r, SeedThought) else r).id: fingerprint_record(r, hashes)
            for r in found
        }
        for key, found in records.items()
    }


def keep_contents(contents: Contents, run_dir: Path) -> None:
    """Write them for a new run; for one that has begun, compare.

    Raises:
        DataError: the data of a run have changed since it began; the file cannot be written.
    """
    path = run_dir / "data" / NAME
    if (run_dir / LEDGER_NAME).exists() and path.exists():
        refuse_changes(json.loads(path.read_text()), contents, path)
        return
    way_out = "choose another with run_dir=PATH"
    with disk_errors(DataError, f"{path} cannot be written", way_out=way_out):
        write_atomically(path, json.dumps(contents, indent=0))


def refuse_changes(before: Contents, now: Contents, path: Path) -> None:
    """
    Raises:
        DataError: a record is new, gone, or says something else.
    """
    changes = [
        f"{key}: {id!r} {_change(before.get(key, {}).get(id), now.get(key, {}).get(id))}"
        for key in sorted(before.keys() | now.keys())
        for id in sorted(before.get(key, {}).keys() | now.get(key, {}).keys())
        if before.get(key, {}).get(id) != now.get(key, {}).get(id)
    ]
    if changes:
        more = f"\n  ... and {len(changes) - MAX_SHOWN} more" if len(changes) > MAX_SHOWN else ""
        raise DataError(
            f"the data changed since the run began: {len(changes)} records\n  "
            + "\n  ".join(changes[:MAX_SHOWN])
            + more
            + f"\nput them back as they were ({path} has their fingerprints), or start a new run "
            "with run_dir=PATH: traces of the old ones would be trained under the new ones' names"
        )


def _change(before: str | None, now: str | None) -> str:
    if before is None:
        return "is new"
    return "is gone" if now is None else "says or shows something else"
