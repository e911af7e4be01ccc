"""Counts of what is stored: by round, source, status and pass rate.

The outcomes of the rounds are held, without their texts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from virgo_ray.records import Outcome, SourceTally, Status, Tally
from virgo_ray.selection import pass_rate_bin
from virgo_ray.stats.tally import tally
from virgo_ray.store.reader import TraceReader
from virgo_ray.traces.table import print_table

BINS = ("0", "up to 1/4", "up to 1/2", "up to 3/4", "up to 1", "not judged")


@dataclass(frozen=True)
class Counts:
    """Of one round, or of all together; `pass_rates` counts problems."""

    tally: Tally
    pass_rates: Mapping[str, int]
    verifiers: Mapping[str, int]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], verifiers: Mapping[str, int]) -> Counts:
        problems: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for outcome in outcomes:
            problems[outcome.problem_id][0] += outcome.status is Status.CORRECT
            problems[outcome.problem_id][1] += not outcome.status.is_failure_to_judge
        bins = Counter(_find_bin(*counted) for counted in problems.values())
        return cls(tally(outcomes), {name: bins[name] for name in BINS}, verifiers)

    def as_json(self) -> dict[str, object]:
        """Rates are fractions, lengths tokens."""
        t = self.tally
        return {
            "asked": t.asked,
            "accepted": t.accepted,
            "accept_rate": t.accept_rate,
            "num_problems": t.num_problems,
            "num_solved": t.num_solved,
            "statuses": t.statuses,
            "sources": {name: asdict(source) for name, source in t.sources.items()},
            "pass_rates": self.pass_rates,
            "verifier_versions": dict(sorted(self.verifiers.items())),
            "mean_thought_tokens": round(t.mean_thought_tokens, 1),
            "mean_accepted_tokens": round(t.mean_accepted_tokens, 1),
        }


@dataclass(frozen=True)
class Stats:
    """What a store holds at a version."""

    version: int
    rounds: Mapping[int, Counts]
    total: Counts

    def as_json(self) -> dict[str, object]:
        rounds = {str(t): counts.as_json() for t, counts in self.rounds.items()}
        return {"version": self.version, "rounds": rounds, "total": self.total.as_json()}


def _find_bin(correct: int, judged: int) -> str:
    if not judged:
        return "not judged"
    return BINS[1 + pass_rate_bin(correct / judged)] if correct else "0"


def collect(reader: TraceReader, rounds: Iterable[int] | None = None) -> Stats:
    """Count what is stored of these rounds; None: of all."""
    wanted = None if rounds is None else list(rounds)
    outcomes: dict[int, list[Outcome]] = defaultdict(list)
    for t, outcome in reader.outcomes(wanted):
        outcomes[t].append(outcome)
    verifiers: dict[int, Counter[str]] = defaultdict(Counter)
    for batch in reader.scan(["round", "verifier_version"], wanted):
        columns = (batch[name].to_pylist() for name in ("round", "verifier_version"))
        for t, version in zip(*columns, strict=True):
            verifiers[t][version] += 1
    per_round = {t: Counts.of(own, verifiers[t]) for t, own in sorted(outcomes.items())}
    everything = [outcome for own in outcomes.values() for outcome in own]
    all_verifiers = sum(verifiers.values(), Counter[str]())
    return Stats(reader.version, per_round, Counts.of(everything, all_verifiers))


def print_stats(console: Console, found: Stats) -> None:
    total = found.total
    names = ["", *(f"round {t}" for t in found.rounds), "all"]
    every = [*found.rounds.values(), total]
    tallies = [counts.tally for counts in every]
    lines: list[list[object]] = [["rollouts", *(t.asked for t in tallies)]]
    lines += [
        [f"  {status}", *(t.statuses[status] for t in tallies)]
        for status in Status
        if total.tally.statuses[status]
    ]
    lines += [
        ["accepted", *(t.accept_rate for t in tallies)],
        ["problems", *(t.num_problems for t in tallies)],
        ["  solved", *(t.num_solved for t in tallies)],
        ["mean tokens", *(round(round(t.mean_thought_tokens, 1)) for t in tallies)],
        ["  of accepted", *(round(round(t.mean_accepted_tokens, 1)) for t in tallies)],
    ]
    print_table(console, "rollouts", names, lines)
    by_source = [
        [source, *(_describe_source(t.sources.get(source)) for t in tallies)]
        for source in total.tally.sources
    ]
    print_table(console, "accepted of asked, by source", names, by_source)
    by_rate = [
        [name, *(counts.pass_rates[name] for counts in every)]
        for name in BINS
        if total.pass_rates[name]
    ]
    print_table(console, "problems, by pass rate", names, by_rate)
    verifiers = ", ".join(f"{v or '?'}: {n:,}" for v, n in sorted(total.verifiers.items()))
    console.print(f"verdicts by verifier version: {verifiers}; store version {found.version}")


def _describe_source(source: SourceTally | None) -> str:
    return f"{source.accepted:,}/{source.asked:,} {source.accept_rate:.0%}" if source else "-"
