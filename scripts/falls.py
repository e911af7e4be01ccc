"""Whether any round of finished runs is worse than one before, by a paired test on stored answers.

    python scripts/falls.py "300 problems=runs/n300-0 runs/n300-1 runs/n300-2" [...]

Arguments are a title and the runs of its seeds. Of each title: pass@1 per round as the mean of the
seeds, the largest fall of that mean below a round before, and of all pairs of rounds of all its
runs the one whose fall is the most significant: the exact one-sided McNemar test on the held-out
problems that only one of the two rounds solved. That is the smallest of many p-values: one in a
hundred of them is under 1 % where nothing falls. Exit code 1 if any p is under 0.01, a mean falls
by 3 points, or a run has fewer rounds than the others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from statistics import mean

import numpy as np

from virgo_ray.ledger.file import load_state
from virgo_ray.stats.paired import Values, read_flags

MAX_P = 0.01
MAX_FALL = 0.03


@dataclass(frozen=True)
class Fall:
    """A round and one before it, of one run."""

    run: str
    before: int
    after: int
    points: float
    p: float


def main() -> int:
    if not sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    print(
        "| runs | pass@1 of rounds 0, 1, ... | largest fall of the mean | most significant fall |"
    )
    print("|---|---|---|---|")
    return max([told(argument) for argument in sys.argv[1:]])


def told(argument: str) -> int:
    """Print one line; 1 if something fell."""
    title, equals, places = argument.partition("=")
    if not equals:
        raise SystemExit(f"{argument!r}: expected TITLE=RUN ...")
    runs = [Path(place) for place in places.split()]
    solved = {str(run): read_rounds(run) for run in runs}
    num = min(len(of) for of in solved.values())
    means = [mean(float(np.mean(of[t])) for of in solved.values()) for t in range(num)]
    drop = max((a - b for a, b in combinations(means, 2)), default=0.0)
    worst = min(falls(solved), key=lambda fall: fall.p, default=None)
    if worst is None:
        raise SystemExit(f"{title}: one round, expected two or more")
    short = [run for run, of in solved.items() if len(of) < max(map(len, solved.values()))]
    if short:
        print(f"{title}: {', '.join(short)} ended early, by a gate or a kill", file=sys.stderr)
    curve = ", ".join(f"{100 * m:.1f}" for m in means)
    which = f"{worst.run}, round {worst.before} to {worst.after}: {100 * worst.points:.1f} points"
    print(f"| {title} | {curve} | {100 * max(drop, 0.0):.1f} | {which}, p = {worst.p:.3f} |")
    return int(bool(short) or worst.p < MAX_P or drop >= MAX_FALL)


def read_rounds(run: Path) -> list[Values]:
    """One row of values per round, in the order of the problems' ids."""
    evaluations = load_state(run / "ledger.json")["evaluations"]
    rounds = sorted(int(label) for label in evaluations if label.isdigit())
    return [read_flags(evaluations[str(t)]["solved"]["pass_at_1"]) for t in rounds]


def falls(solved: dict[str, list[Values]]) -> list[Fall]:
    """Every pair of rounds of every run, rises too (as negative points)."""
    return [
        Fall(run, a, b, float(np.mean(rounds[a] - rounds[b])), mcnemar(rounds[a], rounds[b]))
        for run, rounds in solved.items()
        for a, b in combinations(range(len(rounds)), 2)
    ]


def mcnemar(before: Values, after: Values) -> float:
    """The chance of at least so many losses among the problems that changed, if none is likelier.

    >>> mcnemar(read_flags("1110"), read_flags("0001"))
    0.3125
    """
    lost = int(np.sum(before > after))
    changed = int(np.sum(before != after))
    return sum(comb(changed, k) for k in range(lost, changed + 1)) / 2**changed


if __name__ == "__main__":
    sys.exit(main())
