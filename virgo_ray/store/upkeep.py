"""Removes what nobody needs of a replay buffer, and never a version that matters.

Old Lance versions go together with the files only they use. Versions the ledger names get a tag
first; tagged versions are never removed, and neither is the newest. Called by the one process that
writes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta

import lance

log = logging.getLogger(__name__)

# Somebody who opened the store a moment ago, to look at a living run, can go on reading.
KEEP_FOR = timedelta(hours=1)


def remove_old_versions(
    dataset: lance.LanceDataset, named: Iterable[int], older_than: timedelta = KEEP_FOR
) -> int:
    """Remove versions that nobody names; returns the bytes that became free.

    Where a named version cannot be tagged because it is not there, nothing is removed at all: the
    store is not the one the names are of.
    """
    tagged = {tag["version"] for tag in dataset.tags.list().values()}
    for version in sorted(set(named) - tagged):
        try:
            dataset.tags.create(f"ledger-{version}", version)
        except (ValueError, OSError) as error:
            log.warning(
                "version %d of %s, which the ledger names, cannot be tagged (%s): no old version "
                "is removed",
                version,
                dataset.uri,
                error,
            )
            return 0
    stats = dataset.cleanup_old_versions(older_than=older_than, error_if_tagged_old_versions=False)
    return stats.bytes_removed
