"""Counts of what is stored: by round, source, status and estimated pass rate.

The outcomes of the rounds are held, without their texts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from virgo_ray.records import Outcome, SourceTally, Status, Tally
from virgo_ray.selection import SolveRate, pass_rate_bin, solve_rates
from virgo_ray.stats.stopping import FIXED, StoppingRule
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
    def of(
        cls,
        rounds: Mapping[int, Sequence[Outcome]],
        verifiers: Mapping[str, int],
        rule: StoppingRule,
    ) -> Counts:
        outcomes = [outcome for own in rounds.values() for outcome in own]
        rates = solve_rates(_count(rounds), rule)
        bins = Counter(_find_bin(rates.get(id)) for id in {o.problem_id for o in outcomes})
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


def _count(rounds: Mapping[int, Sequence[Outcome]]) -> dict[tuple[int, str], tuple[int, int]]:
    """{(round, problem id): (correct, judged)} of what was judged."""
    judged: Counter[tuple[int, str]] = Counter()
    correct: Counter[tuple[int, str]] = Counter()
    for t, outcomes in rounds.items():
        judged.update((t, o.problem_id) for o in outcomes if not o.status.is_failure_to_judge)
        correct.update((t, o.problem_id) for o in outcomes if o.status is Status.CORRECT)
    return {key: (correct[key], num) for key, num in judged.items()}


def _find_bin(rate: SolveRate | None) -> str:
    if rate is None:
        return "not judged"
    return BINS[1 + pass_rate_bin(rate.value)] if rate.is_solved else "0"


def collect(
    reader: TraceReader, rounds: Iterable[int] | None = None, rule: StoppingRule = FIXED
) -> Stats:
    """Count what is stored of these rounds, asked by this rule; None: of all rounds."""
    wanted = None if rounds is None else list(rounds)
    outcomes: dict[int, list[Outcome]] = defaultdict(list)
    for t, outcome in reader.outcomes(wanted):
        outcomes[t].append(outcome)
    verifiers: dict[int, Counter[str]] = defaultdict(Counter)
    for batch in reader.scan(["round", "verifier_version"], wanted):
        columns = (batch[name].to_pylist() for name in ("round", "verifier_version"))
        for t, version in zip(*columns, strict=True):
            verifiers[t][version] += 1
    per_round = {t: Counts.of({t: own}, verifiers[t], rule) for t, own in sorted(outcomes.items())}
    all_verifiers = sum(verifiers.values(), Counter[str]())
    return Stats(reader.version, per_round, Counts.of(outcomes, all_verifiers, rule))


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
