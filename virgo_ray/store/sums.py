"""Checksums of a store's files, so that a bit that flips on the disk is found and not learned.

Lance keeps none. A data file never changes once it is written, so each is hashed once, when a round
is sealed, and compared when the store is opened for writing. What was appended since the last seal
is not hashed yet. `checksums.json` lies in the dataset's directory and moves with it. Object stores
check what they keep themselves.

A damaged fragment can be dropped: its rows are gone, all others stay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lance

from virgo_ray.errors import TraceStoreError
from virgo_ray.files import write_atomically
from virgo_ray.store.dataset import StoreLocation

SUMS_NAME = "checksums.json"


@dataclass(frozen=True)
class Damage:
    """A fragment of which a file is not what was written; `num_rows` are lost with it."""

    fragment: int
    file: str
    why: str
    num_rows: int

    def __str__(self) -> str:
        return f"{self.file} {self.why} ({self.num_rows} rollouts)"


def write_sums(dataset: lance.LanceDataset, location: StoreLocation) -> None:
    """Hash the files of this version that have no checksum yet.

    Raises:
        OSError: the file system refused.
    """
    if not location.is_local:
        return
    root = Path(location.uri)
    known = {name: digest for name, digest in read_sums(root).items() if (root / name).is_file()}
    names = [name for _, name, _ in _files(dataset)]
    fresh = {name: sha256_of(root / name) for name in names if name not in known}
    if fresh:
        write_atomically(root / SUMS_NAME, json.dumps(known | fresh, indent=1, sort_keys=True))


def read_sums(root: Path) -> Mapping[str, str]:
    """{file: sha256} as far as they are known.

    Raises:
        TraceStoreError: the file of the checksums is damaged itself.
    """
    path = root / SUMS_NAME
    if not path.is_file():
        return {}
    try:
        sums: dict[str, str] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise TraceStoreError(
            f"{path} is damaged: {error}; delete it, then the next seal of a round makes it anew"
        ) from error
    return sums


def find_damage(dataset: lance.LanceDataset, location: StoreLocation) -> list[Damage]:
    """Every fragment of this version with a file that is gone, cut off or changed.

    Raises:
        OSError: a file cannot be read at all.
    """
    if not location.is_local:
        return []
    root = Path(location.uri)
    sums, rows = read_sums(root), {f.fragment_id: f.metadata.num_rows for f in fragments(dataset)}
    found: dict[int, Damage] = {}
    for fragment, name, size in _files(dataset):
        if fragment not in found and (why := _fault(root / name, size, sums.get(name))):
            found[fragment] = Damage(fragment, name, why, rows[fragment])
    return list(found.values())


def refuse_damaged(dataset: lance.LanceDataset, location: StoreLocation) -> None:
    """Raises TraceStoreError where a file is not what was written, and what can be done."""
    if damage := find_damage(dataset, location):
        raise TraceStoreError(
            f"{location.uri} is damaged in {len(damage)} of {len(fragments(dataset))} fragments: "
            f"{'; '.join(map(str, damage[:4]))}. Nothing was changed. Restore the files from a "
            "copy, or drop what is damaged with `virgo-ray traces repair RUN --write`; the same "
            "command then asks again for what the round it is in lacks"
        )


def drop_fragments(dataset: lance.LanceDataset, damage: Sequence[Damage]) -> lance.LanceDataset:
    """A new version without these fragments; nothing of them is read.

    Raises:
        OSError: the file system refused.
    """
    ids = [part.fragment for part in damage]
    operation = lance.LanceOperation.Delete([], ids, "damaged")
    return lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)


def fragments(dataset: lance.LanceDataset) -> list[lance.LanceFragment]:
    found: list[lance.LanceFragment] = dataset.get_fragments()
    return found


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(dataset: lance.LanceDataset) -> Iterator[tuple[int, str, int | None]]:
    """(fragment, file, size that Lance says it wrote) of this version; names are relative."""
    for fragment in fragments(dataset):
        for file in fragment.metadata.files:
            yield fragment.fragment_id, f"data/{file.path}", file.file_size_bytes
        # Beside it may lie those of older versions, which tags keep: they are not read here.
        if name := fragment.deletion_file():
            yield fragment.fragment_id, name, None


def _fault(path: Path, size: int | None, digest: str | None) -> str:
    """What is wrong with a file; empty for a whole one."""
    if not path.is_file():
        return "is gone"
    found = path.stat().st_size
    if size is not None and found != size:
        return f"has {found} bytes, expected {size}"
    if digest is not None and sha256_of(path) != digest:
        return "is not what was written: its checksum differs"
    return ""
