"""Two recipes, the same seeds: what each cost, and what each solves, by how hard a problem was.

    python scripts/compare_recipes.py runs/improved-0,runs/faithful-0 [...]

Each argument is a pair of finished runs of one seed, both with the same weights after round 0 (told
by their bytes). A held-out problem is as hard as those weights found it: the bins are how many of
their samples were right, so neither recipe decides what is hard. Reads the judged answers that runs
keep in `heldout/`, of round 0 and of the last round. Differences are first minus second, in points,
with 95 % intervals and p-values over the problems of all seeds, paired.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from virgo_ray.evaluate.answers import GREEDY, SAMPLED, read_answers
from virgo_ray.ledger.file import load_state
from virgo_ray.stats.estimates import Difference, difference
from virgo_ray.stats.tally import pass_at_k

MEASURES = ("greedy", "mean of samples", "pass@k")


@dataclass(frozen=True)
class Solved:
    """What one model made of one problem: greedily, and how many of how many samples are right."""

    greedy: bool
    num_correct: int
    num_samples: int

    def values(self) -> tuple[float, float, float]:
        """In the order of MEASURES."""
        share = self.num_correct / self.num_samples
        any_right = pass_at_k(self.num_samples, self.num_correct, self.num_samples)
        return float(self.greedy), share, any_right


@dataclass(frozen=True)
class Paired:
    """A problem: how many of how many samples of the common start were right, and the values of
    both recipes."""

    bin: int
    num_samples: int
    first: tuple[float, float, float]
    second: tuple[float, float, float]


def main() -> int:
    if not sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    pairs = [pair_of(argument) for argument in sys.argv[1:]]
    for run in (run for pair in pairs for run in pair):
        print(cost(run))
    paired = [p for pair in pairs for p in compared(*pair)]
    num_samples = max(p.num_samples for p in paired)
    heads = ["round 0 solved", "problems", "measure", "first", "second", "difference"]
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for title, members in binned(paired, num_samples):
        for index, measure in enumerate(MEASURES):
            print(line(title, members, index, measure))
    return 0


def pair_of(argument: str) -> tuple[Path, Path]:
    first, comma, second = argument.partition(",")
    if not (first and comma and second) or "," in second:
        raise SystemExit(f"{argument!r}: expected two run directories with a comma between them")
    return Path(first), Path(second)


def cost(run: Path) -> str:
    """What a run sampled and trained on."""
    rounds = load_state(run / "ledger.json")["rounds"].values()
    sampled = sum(r["explored"]["num_tokens"] for r in rounds)
    trained = [r["trained"]["num_tokens"] for r in rounds]
    return f"{run.name}: {sampled:,} tokens sampled, {trained} tokens trained on"


def compared(first: Path, second: Path) -> list[Paired]:
    """The held-out problems of two runs with the same start.

    Raises:
        SystemExit: their weights after round 0, or their problems, are not the same.
    """
    if digest(first) != digest(second):
        raise SystemExit(f"{first} and {second} differ after round 0; expected the same weights")
    start, ours, theirs = solved(first, 1), solved(first, last(first)), solved(second, last(second))
    if not start.keys() == ours.keys() == theirs.keys():
        raise SystemExit(f"{first} and {second} were not asked the same held-out problems")
    return [
        Paired(found.num_correct, found.num_samples, ours[p].values(), theirs[p].values())
        for p, found in start.items()
    ]


def digest(run: Path) -> str:
    return hashlib.sha256((run / "weights/v0001/model.safetensors").read_bytes()).hexdigest()


def last(run: Path) -> int:
    return len(load_state(run / "ledger.json")["rounds"])


def solved(run: Path, version: int) -> dict[str, Solved]:
    """Every held-out problem; the probes, which are asked greedily only, are none."""
    greedy: dict[str, bool] = {}
    samples: dict[str, list[bool]] = defaultdict(list)
    for answer, _ in read_answers(run / f"heldout/v{version:04d}/answers.jsonl"):
        if answer.how == GREEDY:
            greedy[answer.id] = answer.is_correct
        elif answer.how == SAMPLED:
            samples[answer.id].append(answer.is_correct)
    return {p: Solved(greedy[p], sum(right), len(right)) for p, right in samples.items()}


def binned(paired: Sequence[Paired], num: int) -> Iterable[tuple[str, list[Paired]]]:
    """All problems, those never solved, sometimes, always."""
    yield "all", list(paired)
    yield f"0 of {num} times (hardest)", [p for p in paired if p.bin == 0]
    yield f"1 to {num - 1} times", [p for p in paired if 0 < p.bin < num]
    yield f"{num} of {num} times", [p for p in paired if p.bin == num]


def line(title: str, members: Sequence[Paired], index: int, measure: str) -> str:
    if not members:
        return f"| {title} | 0 | {measure} | - | - | - |"
    first, second = ([getattr(p, side)[index] for p in members] for side in ("first", "second"))
    cells = [title, str(len(members)), measure, percent(mean(first)), percent(mean(second))]
    return f"| {' | '.join([*cells, told(difference(first, second))])} |"


def told(found: Difference) -> str:
    low, high = percent(found.estimate.low), percent(found.estimate.high)
    chance = f"p = {found.p_value:.3f}" if found.p_value >= 0.001 else "p < 0.001"
    return f"{100 * found.estimate.value:+.1f} ({low} to {high}), {chance}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    sys.exit(main())
