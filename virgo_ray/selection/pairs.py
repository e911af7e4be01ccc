"""Pairs of a correct and another rollout about the same problem, for preference objectives.

The two are as near in length as the group allows, so that a preference says little about length.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.config import ObjectiveConfig
from virgo_ray.records import Member, Status
from virgo_ray.selection.advantages import Group
from virgo_ray.selection.nearest import pair_nearest


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
    right, wrong = ([(m, m.num_tokens) for m in side] for side in (chosen, rejected))
    return [Pair(*two) for two in pair_nearest(right, wrong, most)]


def can_teach(group: Group, cfg: ObjectiveConfig) -> bool:
    """Whether a group has signal for `cfg.name`: for dpo, whether it has a pair."""
    return bool(choose_pairs(group, 1)) if cfg.name == "dpo" else group.has_signal


def _may_be_chosen(member: Member) -> bool:
    return member.status is Status.CORRECT and not member.is_doubted
