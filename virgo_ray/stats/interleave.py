"""Taking turns between groups. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def round_robin(groups: Sequence[Sequence[Item]]) -> Iterator[Item]:
    """One of each group, then the next of each; groups that are used up are passed over.

    >>> list(round_robin(["abc", "x", "12"]))
    ['a', 'x', '1', 'b', '2', 'c']
    """
    for index in range(max(map(len, groups), default=0)):
        for group in groups:
            if index < len(group):
                yield group[index]
