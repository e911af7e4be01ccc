"""Spreads one optimizer step over ranks in padded micro-batches: a row for each example.

A micro-batch's size is its number of examples times the longest of them. Guarantees what
virgo_ray/train/pack.py promises of a step. Examples of equal length come together, so that padding
is little; that leaves less freedom to even out the ranks than packed rows do.
"""

from __future__ import annotations

from collections.abc import Sequence

from virgo_ray.records import Step


def arrange_padded(
    batch: Sequence[int], lengths: Sequence[int], num_ranks: int, max_tokens: int
) -> Step:
    """Spread one optimizer step over ranks: few micro-batches, little padding, equal work.

    Examples are sorted by length and cut into contiguous groups so that the largest group is as
    small as it can be; each micro-step then takes `num_ranks` groups of similar size. The number
    of examples is a multiple of `num_ranks`.
    """
    ordered = sorted(batch, key=lambda i: (-lengths[i], i))
    sizes = [lengths[i] for i in ordered]
    num_groups = _round_up(len(_cut(sizes, max_tokens)), num_ranks)
    groups = _split_to(_cut(sizes, _smallest_cap(sizes, num_groups, max_tokens)), sizes, num_groups)
    cost = {group: (group[1] - group[0]) * sizes[group[0]] for group in groups}
    queues: list[list[tuple[int, ...]]] = [[] for _ in range(num_ranks)]
    load = [0] * num_ranks
    by_cost = sorted(groups, key=lambda g: (-cost[g], g))
    for first in range(0, num_groups, num_ranks):
        least_loaded = sorted(range(num_ranks), key=lambda r: (load[r], r))
        for rank, group in zip(least_loaded, by_cost[first : first + num_ranks], strict=True):
            queues[rank].append(tuple(ordered[group[0] : group[1]]))
            load[rank] += cost[group]
    return tuple(tuple(queue) for queue in queues)


def _cut(sizes: Sequence[int], cap: int) -> list[tuple[int, int]]:
    """Contiguous groups `[start, stop)` of descending sizes, each at most `cap` when padded."""
    groups, start = [], 0
    for stop in range(1, len(sizes) + 1):
        is_full = stop == len(sizes) or (stop + 1 - start) * sizes[start] > cap
        if is_full:
            groups.append((start, stop))
            start = stop
    return groups


def _smallest_cap(sizes: Sequence[int], num_groups: int, max_tokens: int) -> int:
    """The least cap with which `_cut` needs at most `num_groups` groups."""
    low, high = 1, max_tokens
    while low < high:
        middle = (low + high) // 2
        if len(_cut(sizes, middle)) <= num_groups:
            high = middle
        else:
            low = middle + 1
    return low


def _split_to(
    groups: list[tuple[int, int]], sizes: Sequence[int], num_groups: int
) -> list[tuple[int, int]]:
    """Halve the most expensive group with several examples until there are `num_groups`."""
    groups = list(groups)
    while len(groups) < num_groups:
        start, stop = max(
            (g for g in groups if g[1] - g[0] > 1), key=lambda g: ((g[1] - g[0]) * sizes[g[0]], g)
        )
        middle = (start + stop) // 2
        groups.remove((start, stop))
        groups += [(start, middle), (middle, stop)]
    return groups


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
