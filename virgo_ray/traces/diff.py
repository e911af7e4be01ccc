"""What differs between two rounds of a run, or between two runs: problems, statuses, lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from virgo_ray.errors import TraceStoreError
from virgo_ray.records import Outcome, Status
from virgo_ray.stats.tally import mean, share
from virgo_ray.store.reader import TraceReader
from virgo_ray.traces.table import print_table

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


def compare(left: Side, right: Side) -> dict[str, Any]:
    """Transitions and length changes are over rollouts with the same problem and sample index."""
    common = left.keys() & right.keys()
    transitions = Counter((left[key].status, right[key].status) for key in common)
    return {
        "left": _figures(left),
        "right": _figures(right),
        "problems": _problems(left, right),
        "common_rollouts": len(common),
        "transitions": [
            {"from": str(before), "to": str(after), "rollouts": num}
            for (before, after), num in sorted(transitions.items(), key=lambda pair: -pair[1])
        ],
        "mean_length_change": round(
            mean([right[key].num_tokens - left[key].num_tokens for key in common]), 2
        ),
    }


def _figures(side: Side) -> dict[str, Any]:
    accepted = [o.num_tokens for o in side.values() if o.status is Status.CORRECT]
    return {
        "asked": len(side),
        "accepted": len(accepted),
        "accept_rate": share(len(accepted), len(side)),
        "num_problems": len({id for _, id, _ in side}),
        "mean_thought_tokens": round(mean([o.num_tokens for o in side.values()]), 1),
        "mean_accepted_tokens": round(mean(accepted), 1),
    }


def _problems(left: Side, right: Side) -> dict[str, Any]:
    asked = [{id for _, id, _ in side} for side in (left, right)]
    solved = [
        {id for (_, id, _), o in side.items() if o.status is Status.CORRECT}
        for side in (left, right)
    ]
    both = asked[0] & asked[1]
    return {
        "in_both": len(both),
        "only_left": len(asked[0] - asked[1]),
        "only_right": len(asked[1] - asked[0]),
        "solved_in_both": len(solved[0] & solved[1]),
        "solved_in_neither": len(both - solved[0] - solved[1]),
        "newly_solved": sorted((solved[1] - solved[0]) & both),
        "lost": sorted((solved[0] - solved[1]) & both),
    }


def print_diff(console: Console, found: Mapping[str, Any], names: tuple[str, str]) -> None:
    left, right, problems = found["left"], found["right"], found["problems"]
    labels = {
        "asked": "rollouts", "accepted": "accepted", "accept_rate": "accept rate",
        "num_problems": "problems", "mean_thought_tokens": "mean tokens",
        "mean_accepted_tokens": "  of accepted",
    }  # fmt: skip
    print_table(
        console,
        "",
        ["", *names],
        [
            [label, *(_cell(key, side[key]) for side in (left, right))]
            for key, label in labels.items()
        ],
    )
    rows = [
        ("in both", problems["in_both"]),
        ("  newly solved", len(problems["newly_solved"])),
        ("  lost", len(problems["lost"])),
        ("  solved in both", problems["solved_in_both"]),
        ("  solved in neither", problems["solved_in_neither"]),
        (f"only in {names[0]}", problems["only_left"]),
        (f"only in {names[1]}", problems["only_right"]),
    ]
    print_table(console, "problems", ["", "problems"], rows)
    changes = [(c["from"], c["to"], c["rollouts"]) for c in found["transitions"]]
    title = f"the same problem and sample ({found['common_rollouts']:,} rollouts)"
    print_table(console, title, [names[0], names[1], "rollouts"], changes)
    console.print(f"mean change of length there: {found['mean_length_change']:+.1f} tokens")
    for name in ("newly_solved", "lost"):
        if problems[name]:
            more = " ..." if len(problems[name]) > MAX_SHOWN else ""
            console.print(
                f"{name.replace('_', ' ')}: {', '.join(problems[name][:MAX_SHOWN])}{more}"
            )


def _cell(key: str, value: float) -> object:
    return round(value) if "tokens" in key else value
