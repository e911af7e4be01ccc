"""What a round of reinforcement learns from: the rollouts of its groups that have signal.

Unlike `choose_traces` it takes whole groups of this round alone, wrong rollouts included, and none
of the filters of `select`: a choice by outcome or by form would bias the advantages. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from virgo_ray.config import ObjectiveConfig
from virgo_ray.errors import DataError
from virgo_ray.records import TEACHER_VERSION, Member
from virgo_ray.selection.advantages import Group, Signal, make_groups, measure_signal, weigh_group
from virgo_ray.selection.pairs import choose_pairs

Role = Literal["", "chosen", "rejected"]


class GroupSource(Protocol):
    """A store of judged rollouts."""

    def groups(self, round: int) -> Mapping[str, tuple[Member, ...]]: ...


@dataclass(frozen=True)
class Lesson:
    """A rollout to learn from. `group` is that of all members of a problem, or of one pair."""

    member: Member
    weight: float
    group: str
    role: Role = ""


def choose_lessons(
    cfg: ObjectiveConfig, round: int, store: GroupSource
) -> tuple[list[Lesson], Signal]:
    """What `round` teaches under `cfg`, in the order of problems and samples, and its signal.

    The two of a pair follow each other, the chosen one first.

    Raises:
        DataError: a rollout whose probabilities the objective needs has none.
    """
    members = store.groups(round)
    groups = make_groups(members, cfg.rewards)
    signal = measure_signal(members, groups)
    lessons = [lesson for group in groups if group.has_signal for lesson in _learn(group, cfg)]
    if cfg.is_on_policy:
        _check_sampled([lesson.member for lesson in lessons], cfg)
    return lessons, signal


def _learn(group: Group, cfg: ObjectiveConfig) -> list[Lesson]:
    first = group.members[0][0]
    name = f"{first.round}/{first.problem_id}"
    if cfg.name == "dpo":
        pairs = choose_pairs(group, cfg.dpo.pairs_per_problem)
        return [
            Lesson(member, 1.0, f"{name}/{number}", role)
            for number, pair in enumerate(pairs)
            for member, role in _sides(pair.chosen, pair.rejected)
        ]
    weights = weigh_group(group, cfg)
    return [Lesson(m, w, name) for (m, _), w in zip(group.members, weights, strict=True)]


def _sides(chosen: Member, rejected: Member) -> tuple[tuple[Member, Role], tuple[Member, Role]]:
    return (chosen, "chosen"), (rejected, "rejected")


def _check_sampled(members: Sequence[Member], cfg: ObjectiveConfig) -> None:
    """Refuse rows that the trained weights did not sample, or whose probabilities nobody noted."""
    for m in members:
        where = f"sample {m.sample_index} of problem {m.problem_id!r} in round {m.round}"
        if m.weights_version == TEACHER_VERSION:
            raise DataError(
                f"{where} was written by a teacher; {cfg.name} learns from what the trained "
                "weights sampled themselves: sample the round again, or use dpo or reward_weighted"
            )
        if cfg.needs_logprobs and not m.has_logprobs:
            raise DataError(
                f"{where} has no log-probabilities stored, which {cfg.name} compares with the "
                "trainer's: it was sampled by an earlier version of this program; expected "
                "train.objective.grpo.old_logprobs=trainer with importance=none for this round"
            )
