"""Writes that cannot commit a file that is not whole.

Lance's writer to local disks does not notice when the last bytes of a data file find no room: it
would commit a version that nobody can read. So every write here is made in two steps: the files
first, then, once each has the size that Lance says it wrote, the version that names them. What was
written and not committed is an orphan that a later cleaning removes. Object stores take a file
whole or not at all.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments
from lance.optimize import Compaction

from virgo_ray.files import flush
from virgo_ray.store.dataset import StoreLocation
from virgo_ray.store.schema import SCHEMA

SMALL_FRAGMENT_ROWS = 1024
MAX_SMALL_FRAGMENTS = 64  # then they are merged: every version lists all fragments
MERGING: Any = {"target_rows_per_fragment": 4096, "batch_size": 256}


def append(
    dataset: lance.LanceDataset, rows: list[dict[str, Any]], location: StoreLocation
) -> lance.LanceDataset:
    """Add rows of SCHEMA as one new version, all or none.

    Raises:
        OSError: the file system or object store refused; nothing is committed.
    """
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(dataset.schema.metadata))
    fragments = write_fragments(table, dataset, mode="append")
    require_whole(fragments, location)
    operation = lance.LanceOperation.Append(fragments)
    return lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)


def replace_columns(
    dataset: lance.LanceDataset,
    keys: list[str],
    rows: pa.RecordBatchReader,
    location: StoreLocation,
) -> tuple[lance.LanceDataset, int]:
    """Overwrite the columns of `rows` where the keys are the same; (dataset, rows changed).

    Raises:
        OSError: as `append`.
    """
    merge = dataset.merge_insert(keys).when_matched_update_all()
    transaction, stats = merge.execute_uncommitted(rows)
    operation: Any = transaction.operation
    require_whole([*operation.updated_fragments, *operation.new_fragments], location)
    changed = lance.LanceDataset.commit(dataset, transaction, read_version=dataset.version)
    return changed, stats["num_updated_rows"]


def merge_small_fragments(
    dataset: lance.LanceDataset, location: StoreLocation, at_least: int = MAX_SMALL_FRAGMENTS
) -> None:
    """Merge files of few rows, as a new version, if there are `at_least` that many of them.

    Raises:
        OSError: as `append`.
    """
    rows = [f.metadata.physical_rows for f in dataset.get_fragments()]
    if sum(num < SMALL_FRAGMENT_ROWS for num in rows) < at_least:
        return
    results = [task.execute(dataset) for task in Compaction.plan(dataset, MERGING).tasks]
    require_whole([f for result in results for f in result.new_fragments], location)
    if results:
        Compaction.commit(dataset, results)


def require_whole(fragments: Iterable[FragmentMetadata], location: StoreLocation) -> None:
    """Every data file of these fragments has the size that was written.

    Raises:
        OSError: one is shorter or gone.
    """
    if not location.is_local:
        return
    for file in (file for fragment in fragments for file in fragment.files):
        path = Path(location.uri) / "data" / file.path
        size = path.stat().st_size
        if file.file_size_bytes is not None and size != file.file_size_bytes:
            raise OSError(
                errno.ENOSPC,
                f"a file has {size} bytes, expected {file.file_size_bytes}: no space?",
                str(path),
            )


def sync(dataset: lance.LanceDataset, location: StoreLocation, synced: set[str]) -> None:
    """Force this version's files to the disk, so that a ledger that names it survives a power cut.

    Lance leaves that to the operating system. `synced` holds the data files that are done; new ones
    are added. Of object stores nothing is needed.

    Raises:
        OSError: the file system refused.
    """
    if not location.is_local:
        return
    root = Path(location.uri)
    files = [f.path for fragment in dataset.get_fragments() for f in fragment.metadata.files]
    fresh = [name for name in files if name not in synced]
    names = (f"{2**64 - 1 - dataset.version}.manifest", f"{dataset.version}.manifest")
    manifests = [root / "_versions" / name for name in names]
    folders = [root / name for name in ("data", "_deletions", "_versions", ".")]
    deletions = [*(root / "_deletions").glob("*")]
    for path in (*(root / "data" / name for name in fresh), *deletions, *manifests, *folders):
        if path.exists():
            flush(path)
    synced.update(fresh)
