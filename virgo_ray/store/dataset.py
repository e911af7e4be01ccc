"""Opens the Lance dataset of a replay buffer, wherever it lies, and brings its schema up to date.

Guarantees: what is opened has this version's schema; a store of an older one is migrated as new
Lance versions, and the version it had before stays under the tag `schema-N`; a newer one is refused
untouched. Credentials of object stores come from the environment, never from a config. Caches are
bounded, so that memory does not grow with the store. Knows no rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from virgo_ray.config import StoreConfig
from virgo_ray.errors import TraceStoreError
from virgo_ray.files import disk_errors
from virgo_ray.store.migrations import steps_after
from virgo_ray.store.schema import SCHEMA, SCHEMA_KEY, SCHEMA_VERSION

OWNER_KEY = "virgo_ray_run"
DATASET_NAME = "buffer.lance"
CACHE_BYTES = 16 << 20  # of manifests and column statistics; Lance's own default is GiBs
MIGRATION_ROWS = 1024


@dataclass(frozen=True)
class StoreLocation:
    """Address of a dataset: a path, or `s3://...`, `gs://...` with Lance's storage options."""

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    @property
    def hint(self) -> str:
        if self.is_local:
            return "check that the file system is mounted, writable and has space"
        return (
            "check the address, store.storage_options (region, endpoint) and the credentials in "
            "the environment (such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )


def locate_store(run_dir: Path | str, cfg: StoreConfig) -> StoreLocation:
    """Where the replay buffer of a run lies."""
    return StoreLocation(cfg.path or str(Path(run_dir) / DATASET_NAME), cfg.storage_options)


def open_for_writing(
    location: StoreLocation, committed_version: int | None, owner: str
) -> lance.LanceDataset:
    """Create or open; migrate if the schema is older. Only whoever holds the run's lock may.

    `committed_version` is what the ledger relies on, `owner` the run's id ("" for nobody's).

    Raises:
        TraceStoreError: gone, damaged, another run's, of a newer schema, or older than committed.
    """
    dataset = _find(location, committed_version)
    if dataset is None:
        if committed_version is not None:
            raise TraceStoreError(
                f"{location.uri} is gone, the ledger relies on its version {committed_version}; "
                f"bring it back ({location.hint}), or start anew with run_dir=PATH"
            )
        metadata = {SCHEMA_KEY: str(SCHEMA_VERSION), OWNER_KEY: owner}
        empty = SCHEMA.with_metadata(metadata).empty_table()
        with refusals(location, "created"):
            lance.write_dataset(empty, **_address(location))
            dataset = _open(location)
    _refuse_foreign(dataset, location, owner)
    if committed_version is not None and dataset.version < committed_version:
        raise TraceStoreError(
            f"{location.uri} is at version {dataset.version}, the ledger relies on "
            f"{committed_version}; restore the directory from a copy, or start anew with "
            "run_dir=PATH"
        )
    with refusals(location, "migrated"):
        _migrate(dataset, location)
    return dataset


def open_for_reading(location: StoreLocation) -> lance.LanceDataset:
    """Open without changing anything; an older schema is left as it is.

    Raises:
        TraceStoreError: there is none, it is damaged, or of a newer schema.
    """
    dataset = _find(location, None)
    if dataset is None:
        raise TraceStoreError(
            f"there is no replay buffer at {location.uri}; expected the directory of a run that "
            f"has sampled something, or {location.hint}"
        )
    _schema_number(dataset, location)
    return dataset


def refuse_vanished(location: StoreLocation) -> None:
    """A store that was there and is not any more must not be begun anew under the same path.

    Raises:
        TraceStoreError: the directory is gone, as when a network file system was lost.
    """
    if location.is_local and not (Path(location.uri) / "_versions").is_dir():
        raise TraceStoreError(
            f"{location.uri} has vanished while it was in use; {location.hint}, then run the same "
            "command again"
        )


def _find(location: StoreLocation, committed_version: int | None) -> lance.LanceDataset | None:
    """The newest version of the dataset; None where there is none."""
    try:
        return _open(location)
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and "was not found" in str(error):
            return None
        raise TraceStoreError(
            f"{location.uri} cannot be opened: {error}. Nothing was changed; "
            f"{_what_is_left(location, committed_version)}; {location.hint}, or restore it "
            "from a copy"
        ) from error


def _what_is_left(location: StoreLocation, committed_version: int | None) -> str:
    if committed_version is None:
        return "nothing of it was committed yet"
    try:
        num_rows = _open(location, committed_version).count_rows()
    except (ValueError, OSError):
        return f"version {committed_version}, which the ledger relies on, cannot be read either"
    return (
        f"version {committed_version}, which the ledger relies on, can still be read and holds "
        f"{num_rows} rollouts: move the newest files of {location.uri}/_versions aside until "
        "it opens"
    )


def _open(location: StoreLocation, version: int | None = None) -> lance.LanceDataset:
    caches: dict[str, Any] = {
        "metadata_cache_size_bytes": CACHE_BYTES,
        "index_cache_size_bytes": CACHE_BYTES,
    }
    return lance.dataset(version=version, **_address(location), **caches)


def _address(location: StoreLocation) -> dict[str, Any]:
    return {"uri": location.uri, "storage_options": dict(location.storage_options) or None}


def refusals(location: StoreLocation, what: str) -> AbstractContextManager[None]:
    """What the file system or object store refuses becomes a TraceStoreError, and so does a file
    that was cut off (Arrow's errors of reading are ValueErrors)."""
    what = f"{location.uri} cannot be {what}"
    return disk_errors(TraceStoreError, what, way_out=location.hint, also=(pa.ArrowInvalid,))


def _refuse_foreign(dataset: lance.LanceDataset, location: StoreLocation, owner: str) -> None:
    found = (dataset.schema.metadata or {}).get(OWNER_KEY.encode(), b"").decode()
    if owner and found and owner != found:
        raise TraceStoreError(
            f"{location.uri} belongs to run {found!r}, this is run {owner!r}; set store.path to a "
            "place of its own, or run_dir to the directory it was made with"
        )


# -- schema ----------------------------------------------------------------------------------------


def _schema_number(dataset: lance.LanceDataset, location: StoreLocation) -> int:
    found = (dataset.schema.metadata or {}).get(SCHEMA_KEY, b"none").decode()
    if not found.isdecimal():
        raise TraceStoreError(
            f"{location.uri} has schema {found!r} with columns {dataset.schema.names}, expected "
            f"one of the versions 1 to {SCHEMA_VERSION}: it is no replay buffer, use another path"
        )
    if int(found) > SCHEMA_VERSION:
        raise TraceStoreError(
            f"{location.uri} has schema version {found}, this virgo_ray reads up to "
            f"{SCHEMA_VERSION}; use the newer virgo_ray that made it. Nothing was changed"
        )
    return int(found)


def _migrate(dataset: lance.LanceDataset, location: StoreLocation) -> None:
    """Step by step; the schema's number is written last, so an interrupted step is done again."""
    before = _schema_number(dataset, location)
    if before < SCHEMA_VERSION and f"schema-{before}" not in dataset.tags.list():
        dataset.tags.create(f"schema-{before}", dataset.version)
    for number, step in steps_after(before):
        if not set(step.adds.names) <= set(dataset.schema.names):
            udf = lance.batch_udf(output_schema=step.adds)(step.compute)
            dataset.add_columns(udf, read_columns=list(step.reads), batch_size=MIGRATION_ROWS)
        dataset.update_schema_metadata({SCHEMA_KEY.decode(): str(number)})
    if dataset.schema.names != SCHEMA.names:
        raise TraceStoreError(
            f"{location.uri} has schema version {SCHEMA_VERSION} with columns "
            f"{dataset.schema.names}, expected {SCHEMA.names}: it was changed by another "
            "program, use a copy from before"
        )
