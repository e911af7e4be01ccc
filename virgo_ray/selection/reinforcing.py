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
from virgo_ray.selection.pairs import can_teach, choose_pairs

ANOTHER = "set train.objective=imitation for this round"
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
    cfg: ObjectiveConfig, round: int, store: GroupSource, start_version: int
) -> tuple[list[Lesson], Signal]:
    """What `round` teaches a fit from `start_version` under `cfg`, in the order of problems and
    samples, and its signal.

    The two of a pair follow each other, the chosen one first.

    Raises:
        DataError: a round that was begun under other keys was not sampled as `cfg` needs it.
    """
    members = store.groups(round)
    _check_sizes(round, members, cfg)
    groups = make_groups(members, cfg.rewards)
    lessons = [lesson for group in groups if can_teach(group, cfg) for lesson in _learn(group, cfg)]
    if cfg.is_on_policy:
        _check_sampled([lesson.member for lesson in lessons], cfg, start_version)
    return lessons, find_signal(cfg, members)


def find_signal(cfg: ObjectiveConfig, members: Mapping[str, Sequence[Member]]) -> Signal:
    """How much the groups of a round say under `cfg`."""
    groups = make_groups(members, cfg.rewards)
    return measure_signal(members, groups, sum(can_teach(group, cfg) for group in groups))


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


def _check_sizes(round: int, members: Mapping[str, Sequence[Member]], cfg: ObjectiveConfig) -> None:
    """Refuse a round in which how often a problem was asked followed from what came out."""
    sizes = sorted({len(own) for own in members.values()})
    if len(sizes) > 1:
        raise DataError(
            f"round {round} has from {sizes[0]} to {sizes[-1]} rollouts of a problem, expected as "
            f"many of each for {cfg.name}: it was begun with explore.extra, so a group's size "
            f"depends on its outcome; {ANOTHER}"
        )


def _check_sampled(members: Sequence[Member], cfg: ObjectiveConfig, start_version: int) -> None:
    """Refuse rows that the trained weights did not sample, that were drawn with other
    probabilities than the trainer's, or whose probabilities nobody noted."""
    for m in members:
        where = f"sample {m.sample_index} of problem {m.problem_id!r} in round {m.round}"
        if m.weights_version == TEACHER_VERSION:
            raise DataError(
                f"{where} was written by a teacher; {cfg.name} learns from what the trained "
                "weights sampled themselves: sample the round again, or use dpo or reward_weighted"
            )
        if m.weights_version != start_version:
            raise DataError(
                f"{where} was sampled with weights v{m.weights_version:04d}, and the fit starts "
                f"from v{start_version:04d}; {cfg.name} learns from what the weights sampled that "
                f"it starts from; {ANOTHER}, or dpo or reward_weighted"
            )
        if not m.is_plain:
            raise DataError(
                f"{where} was sampled with top_p, top_k or a repetition_penalty: its tokens were "
                f"drawn with other probabilities than the trainer's, which {cfg.name} needs; "
                f"{ANOTHER}, or dpo or reward_weighted"
            )
        if cfg.needs_logprobs and not m.has_logprobs:
            raise DataError(
                f"{where} has no log-probabilities stored, which {cfg.name} compares with the "
                "trainer's: it was sampled by an earlier version of this program; expected "
                "train.objective.grpo.old_logprobs=trainer with importance=none for this round"
            )
