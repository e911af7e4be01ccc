"""Pairs of right and wrong things of nearly the same length: what a preference then says is not
about length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def pair_nearest(
    right: Sequence[tuple[T, int]], wrong: Sequence[tuple[T, int]], most: int | None = None
) -> list[tuple[T, T]]:
    """At most `most` pairs of (thing, its length), the nearest in length first; None: all.

    Nothing is in two pairs. Of equally near ones those that are given earlier come first.

    >>> pair_nearest([("a", 10), ("b", 30)], [("x", 28), ("y", 31), ("z", 12)])
    [('b', 'y'), ('a', 'z')]
    """
    gaps = sorted(
        (abs(length - other), i, j)
        for i, (_, length) in enumerate(right)
        for j, (_, other) in enumerate(wrong)
    )
    pairs: list[tuple[T, T]] = []
    free = (set(range(len(right))), set(range(len(wrong))))
    for _, i, j in gaps:
        if most is not None and len(pairs) == most:
            break
        if i in free[0] and j in free[1]:
            free[0].remove(i)
            free[1].remove(j)
            pairs.append((right[i][0], wrong[j][0]))
    return pairs
