"""Takes rollouts out of a replay buffer whose problems are not what they were any more.

Nothing of what a later round counts, chooses or exports then holds them. The version of the store
that does stays for whoever wants to look at it: it is tagged, and tagged versions are never
removed. Tallies of finished rounds are in the ledger and do not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import lance

from virgo_ray.model.blank import BLANK

TAG = "aside"
IDS_AT_ONCE = 1000  # in one condition


def remove_problems(dataset: lance.LanceDataset, ids: Sequence[str]) -> int:
    """Remove the rows of these problems and of their probes; returns how many there were.

    Doing it again changes nothing.

    Raises:
        OSError: the file system or object store refused.
    """
    starts = range(0, len(ids), IDS_AT_ONCE)
    conditions = [_is_about(ids[start : start + IDS_AT_ONCE]) for start in starts]
    counts = {c: num for c in conditions if (num := dataset.count_rows(c))}
    tag = f"{TAG}-{dataset.version}"
    if counts and tag not in dataset.tags.list():
        dataset.tags.create(tag, dataset.version)
    for condition in counts:
        dataset.delete(condition)
    return sum(counts.values())


def _is_about(ids: Sequence[str]) -> str:
    names = [name.replace("'", "''") for id in ids for name in (id, id + BLANK)]
    return "problem_id IN (" + ", ".join(f"'{name}'" for name in names) + ")"
