"""How much two sequences share, by their runs of a few items. Pure functions.

Three measures of likeness build on it. They differ because what they are for differs:

- `diversity` counts distinct samples of a few hundred held-out problems, tokens in hand. Its figure
  is a gate's: it is exact, and must stay comparable with the rounds before.
- `selection.measures` compares thoughts of a whole run, perhaps a hundred thousand. So it keeps a
  sketch of fixed size of each, made from the text that is read anyway; case does not count.
- `data.overlap` compares short questions, exactly, by words without signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

T = TypeVar("T")


def runs(items: Sequence[T], num: int) -> list[tuple[T, ...]]:
    """All runs of `num` items, in order; a shorter sequence is one run.

    >>> runs("abcd", 3), runs("ab", 3)
    ([('a', 'b', 'c'), ('b', 'c', 'd')], [('a', 'b')])
    """
    return [tuple(items[i : i + num]) for i in range(max(1, len(items) - num + 1))]


def jaccard(one: AbstractSet[object], other: AbstractSet[object]) -> float:
    """Shared of all; of two sets that are not both empty.

    >>> jaccard({1, 2, 3}, {2, 3, 4})
    0.5
    """
    num_shared = len(one & other)
    return num_shared / (len(one) + len(other) - num_shared)
