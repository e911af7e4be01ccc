"""Pairs of a correct and another rollout about the same problem, for preference objectives.

The two are as near in length as the group allows, so that a preference says little about length.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.records import Member, Status
from virgo_ray.selection.advantages import Group


@dataclass(frozen=True)
class Pair:
    """`chosen` is correct, `rejected` is not."""

    chosen: Member
    rejected: Member


def choose_pairs(group: Group, most: int) -> list[Pair]:
    """At most `most` pairs of a group, the nearest in length first; no member is in two of them.

    Of equally near ones those with smaller sample indices come first. A correct rollout that
    second opinions doubt is worth less than others, and is on neither side.
    """
    chosen = [m for m, _ in group.members if _may_be_chosen(m)]
    rejected = [m for m, _ in group.members if m.status is not Status.CORRECT]
    ordered = sorted(
        ((a, b) for a in chosen for b in rejected),
        key=lambda pair: (
            abs(pair[0].num_tokens - pair[1].num_tokens),
            pair[0].sample_index,
            pair[1].sample_index,
        ),
    )
    pairs: list[Pair] = []
    used: set[int] = set()
    for a, b in ordered:
        if len(pairs) == most:
            break
        if not used & {a.sample_index, b.sample_index}:
            used |= {a.sample_index, b.sample_index}
            pairs.append(Pair(a, b))
    return pairs


def _may_be_chosen(member: Member) -> bool:
    return member.status is Status.CORRECT and not member.is_doubted
