"""Which further problems a round asks because groups had no signal. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Protocol

from virgo_ray.config import Config, ObjectiveConfig
from virgo_ray.records import Member, Problem
from virgo_ray.selection.advantages import make_groups
from virgo_ray.selection.exploration import choose_problems, solve_rates, stopping_rule
from virgo_ray.selection.pairs import can_teach
from virgo_ray.selection.streams import stream
from virgo_ray.selection.training_set import latest_rounds


class Judgements(Protocol):
    """A store of judged rollouts."""

    def taken_rounds(self) -> list[int]: ...

    def round_counts(self, rounds: Iterable[int]) -> Mapping[tuple[int, str], tuple[int, int]]: ...

    def solved(self, round: int) -> frozenset[str]: ...


def choose_reserve(
    cfg: Config, t: int, problems: Sequence[Problem], asked: Sequence[Problem], store: Judgements
) -> Sequence[Problem]:
    """Problems to ask in place of those of `asked` whose groups turn out to have no signal."""
    num = cfg.train.objective.max_refills * cfg.explore.num_problems
    taken = {problem.id for problem in asked}
    others = [problem for problem in problems if problem.id not in taken]
    if not num or not others:
        return ()
    explore = cfg.explore.model_copy(update={"num_problems": num})
    earlier = latest_rounds([*store.taken_rounds(), *range(1, t)], cfg.explore.rate_rounds)
    rates = solve_rates(store.round_counts(earlier), stopping_rule(cfg.explore))
    return choose_problems(others, rates, explore, stream(cfg.seed, t, "refill"), store.solved(0))


def choose_refills(
    asked: Sequence[str],
    reserve: Sequence[str],
    is_judged: Container[tuple[str, int]],
    num_samples: int,
    known: Container[str],
    members: Mapping[str, Sequence[Member]],
    cfg: ObjectiveConfig,
) -> Sequence[str]:
    """List the problems of `reserve` to ask beside `asked`, as far as what was judged decides it.

    `members` are the groups that the judged samples make. As many problems follow as groups had no
    signal, and again as many as of these had none, `cfg.max_refills` times or until the reserve is
    used up. Every refill depends only on complete ones before it, so an interrupted round asks the
    same when it goes on. What is not `known` any more counts as a group without signal, so nothing
    that was asked is given up for it.
    """
    groups = make_groups(members, cfg.rewards)
    with_signal = {g.members[0][0].problem_id for g in groups if can_teach(g, cfg)}
    refills: Sequence[str] = ()
    for _ in range(cfg.max_refills):
        batch = [*asked, *refills]
        awaited = ((id, i) for id in batch if id in known for i in range(num_samples))
        if any(sample not in is_judged for sample in awaited):
            break
        refills = reserve[: sum(id not in with_signal for id in batch)]
    return refills
