"""How much two sequences share by their runs of a few items, and how many thoughts are distinct.

Long thoughts hardly ever repeat letter by letter, so two count as the same where they share most of
their runs of tokens. Tokens rather than words: not every language puts spaces between its words.
Pure functions. Three measures of similarity build on `runs`, because they serve different ends:

- `distinct_share` looks at distinct samples of a few hundred held-out problems, tokens in hand. Its
  figure is a gate's: it is exact, and must stay comparable with the rounds before.
- `selection.measures` compares thoughts of a whole run, perhaps a hundred thousand. So it keeps a
  sketch of fixed size of each, made from the text that is read anyway; case does not count.
- `data.near_duplicates` compares short questions, exactly, by words without signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from virgo_ray.stats.tally import mean

RUN = 4  # tokens that are compared at once
SAME = 0.8  # share of common runs from which on two thoughts are the same (Jaccard index)

Tokens = Sequence[int]
T = TypeVar("T")


def runs(items: Sequence[T], num: int) -> list[tuple[T, ...]]:
    """List all runs of `num` items, in order; a shorter sequence is one run.

    >>> runs("abcd", 3), runs("ab", 3)
    ([('a', 'b', 'c'), ('b', 'c', 'd')], [('a', 'b')])
    """
    return [tuple(items[i : i + num]) for i in range(max(1, len(items) - num + 1))]


def jaccard(one: AbstractSet[object], other: AbstractSet[object]) -> float:
    """Jaccard index of two sets that are not both empty: what they share, of all they hold.

    >>> jaccard({1, 2, 3}, {2, 3, 4})
    0.5
    """
    num_shared = len(one & other)
    return num_shared / (len(one) + len(other) - num_shared)


def distinct_share(groups: Iterable[Sequence[Tokens]]) -> float | None:
    """Share of the further samples that are unlike all samples of their problem before them.

    It is averaged over problems with at least two samples, and None if there is no such problem. It
    is 0 if every problem is always answered in the same words, and 1 if that never happens twice.

    >>> distinct_share([[(1, 2, 3, 4, 5), (1, 2, 3, 4, 5)], [(1, 2, 3, 4), (4, 3, 2, 1)]])
    0.5
    """
    shares = [share for group in groups if (share := further_share(group)) is not None]
    return mean(shares) if shares else None


def further_share(group: Sequence[Tokens]) -> float | None:
    """`distinct_share` of one problem.

    >>> further_share([(1, 2, 3, 4), (4, 3, 2, 1), (1, 2, 3, 4)]), further_share([(1,)])
    (0.5, None)
    """
    return (num_distinct(group) - 1) / (len(group) - 1) if len(group) > 1 else None


def num_distinct(thoughts: Sequence[Tokens]) -> int:
    """Count the thoughts that remain when each one that is like an earlier kept one is left out."""
    kept: list[frozenset[int]] = []
    for thought in thoughts:
        own = frozenset(map(hash, runs(thought, RUN)))
        if all(jaccard(own, other) < SAME for other in kept):
            kept.append(own)
    return len(kept)
