"""What differs between two rounds of a run, or between two runs: problems, statuses, lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from virgo_ray.errors import TraceStoreError
from virgo_ray.records import Outcome, Status
from virgo_ray.stats.tally import mean, share
from virgo_ray.store.reader import TraceReader
from virgo_ray.traces.table import Transitions, describe_transitions, print_table, sort_transitions

MAX_SHOWN = 20

# (round, problem id, sample index); the round is 0 where one round is compared with another
Side = dict[tuple[int, str, int], Outcome]


def read_side(reader: TraceReader, rounds: Iterable[int] | None, keep_rounds: bool) -> Side:
    """Raises TraceStoreError where nothing is stored of these rounds."""
    side = {
        (t if keep_rounds else 0, o.problem_id, o.sample_index): o
        for t, o in reader.outcomes(rounds)
    }
    if not side:
        wanted = "anything" if rounds is None else f"rounds {sorted(rounds)}"
        raise TraceStoreError(
            f"nothing is stored of {wanted}, expected one of rounds {reader.rounds()}"
        )
    return side


@dataclass(frozen=True)
class SideFigures:
    """The rollouts of one side; tokens are averages."""

    asked: int
    accepted: int
    accept_rate: float
    num_problems: int
    mean_thought_tokens: float
    mean_accepted_tokens: float


@dataclass(frozen=True)
class ProblemChanges:
    """Counts of problems, and the ids of those that one side alone solved."""

    in_both: int
    only_left: int
    only_right: int
    solved_in_both: int
    solved_in_neither: int
    newly_solved: Sequence[str]
    lost: Sequence[str]


@dataclass(frozen=True)
class Diff:
    """Transitions and length changes are over rollouts with the same problem and sample index."""

    left: SideFigures
    right: SideFigures
    problems: ProblemChanges
    common_rollouts: int
    transitions: Transitions
    mean_length_change: float

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "transitions": describe_transitions(self.transitions)}


def compare(left: Side, right: Side) -> Diff:
    """Compare two sides, rollout by rollout where both have it."""
    common = left.keys() & right.keys()
    changes = [right[key].num_tokens - left[key].num_tokens for key in common]
    return Diff(
        left=_measure(left),
        right=_measure(right),
        problems=_compare_problems(left, right),
        common_rollouts=len(common),
        transitions=sort_transitions(Counter((left[k].status, right[k].status) for k in common)),
        mean_length_change=round(mean(changes), 2),
    )


def _measure(side: Side) -> SideFigures:
    accepted = [o.num_tokens for o in side.values() if o.status is Status.CORRECT]
    return SideFigures(
        asked=len(side),
        accepted=len(accepted),
        accept_rate=share(len(accepted), len(side)),
        num_problems=len({id for _, id, _ in side}),
        mean_thought_tokens=round(mean([o.num_tokens for o in side.values()]), 1),
        mean_accepted_tokens=round(mean(accepted), 1),
    )


def _compare_problems(left: Side, right: Side) -> ProblemChanges:
    asked = [{id for _, id, _ in side} for side in (left, right)]
    solved = [
        {id for (_, id, _), o in side.items() if o.status is Status.CORRECT}
        for side in (left, right)
    ]
    both = asked[0] & asked[1]
    return ProblemChanges(
        in_both=len(both),
        only_left=len(asked[0] - asked[1]),
        only_right=len(asked[1] - asked[0]),
        solved_in_both=len(solved[0] & solved[1]),
        solved_in_neither=len(both - solved[0] - solved[1]),
        newly_solved=sorted((solved[1] - solved[0]) & both),
        lost=sorted((solved[0] - solved[1]) & both),
    )


LABELS = {
    "asked": "rollouts", "accepted": "accepted", "accept_rate": "accept rate",
    "num_problems": "problems", "mean_thought_tokens": "mean tokens",
    "mean_accepted_tokens": "  of accepted",
}  # fmt: skip


def print_diff(console: Console, found: Diff, names: tuple[str, str]) -> None:
    sides = (vars(found.left), vars(found.right))
    figures = [[label, *(_cell(key, side[key]) for side in sides)] for key, label in LABELS.items()]
    print_table(console, "", ["", *names], figures)
    problems = found.problems
    rows = [
        ("in both", problems.in_both),
        ("  newly solved", len(problems.newly_solved)),
        ("  lost", len(problems.lost)),
        ("  solved in both", problems.solved_in_both),
        ("  solved in neither", problems.solved_in_neither),
        (f"only in {names[0]}", problems.only_left),
        (f"only in {names[1]}", problems.only_right),
    ]
    print_table(console, "problems", ["", "problems"], rows)
    title = f"the same problem and sample ({found.common_rollouts:,} rollouts)"
    print_table(console, title, [*names, "rollouts"], found.transitions)
    console.print(f"mean change of length there: {found.mean_length_change:+.1f} tokens")
    for name, ids in (("newly solved", problems.newly_solved), ("lost", problems.lost)):
        if ids:
            more = " ..." if len(ids) > MAX_SHOWN else ""
            console.print(f"{name}: {', '.join(ids[:MAX_SHOWN])}{more}")


def _cell(key: str, value: float) -> object:
    return round(value) if "tokens" in key else value
