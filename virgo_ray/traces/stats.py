"""Counts of what is stored: by round, source, status and pass rate. Streams; holds counters only
(and two numbers per problem and round)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from virgo_ray.records import Status
from virgo_ray.selection import pass_rate_bin
from virgo_ray.stats.tally import share
from virgo_ray.store.reader import TraceReader
from virgo_ray.traces.table import print_table

BINS = ("0", "up to 1/4", "up to 1/2", "up to 3/4", "up to 1", "not judged")
COLUMNS = ["round", "problem_id", "source", "status", "num_tokens", "verifier_version"]


class Counts:
    """Of one round, or of all together."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.accepted_of: Counter[str] = Counter()
        self.verifiers: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.problems: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, row: Mapping[str, Any]) -> None:
        status = Status(row["status"])
        is_correct = status is Status.CORRECT
        self.statuses[status] += 1
        self.sources[row["source"]] += 1
        self.accepted_of[row["source"]] += is_correct
        self.verifiers[row["verifier_version"]] += 1
        self.tokens["all"] += row["num_tokens"]
        self.tokens["accepted"] += row["num_tokens"] * is_correct
        counted = self.problems[row["problem_id"]]
        counted[0] += is_correct
        counted[1] += not status.is_failure_to_judge

    def summary(self) -> dict[str, Any]:
        """As JSON; rates are fractions, lengths tokens."""
        asked, accepted = self.statuses.total(), self.statuses[Status.CORRECT]
        bins = Counter(_bin(*counted) for counted in self.problems.values())
        return {
            "asked": asked,
            "accepted": accepted,
            "accept_rate": share(accepted, asked),
            "num_problems": len(self.problems),
            "num_solved": sum(correct > 0 for correct, _ in self.problems.values()),
            "statuses": {str(status): self.statuses[status] for status in Status},
            "sources": {
                source: {
                    "asked": self.sources[source],
                    "accepted": self.accepted_of[source],
                    "accept_rate": share(self.accepted_of[source], self.sources[source]),
                }
                for source in sorted(self.sources)
            },
            "pass_rates": {name: bins[name] for name in BINS},
            "verifier_versions": dict(sorted(self.verifiers.items())),
            "mean_thought_tokens": round(share(self.tokens["all"], asked), 1),
            "mean_accepted_tokens": round(share(self.tokens["accepted"], accepted), 1),
        }


def _bin(correct: int, judged: int) -> str:
    if not judged:
        return "not judged"
    return BINS[1 + pass_rate_bin(correct / judged)] if correct else "0"


def collect(reader: TraceReader, rounds: Iterable[int] | None = None) -> dict[str, Any]:
    """{"version", "rounds": {"1": {...}}, "total": {...}}; pass rates count problems."""
    per_round: dict[int, Counts] = defaultdict(Counts)
    total = Counts()
    for batch in reader.scan(COLUMNS, rounds):
        for row in batch.to_pylist():
            per_round[row["round"]].add(row)
            total.add(row)
    return {
        "version": reader.version,
        "rounds": {str(t): counts.summary() for t, counts in sorted(per_round.items())},
        "total": total.summary(),
    }


def print_stats(console: Console, found: Mapping[str, Any]) -> None:
    columns = {f"round {t}": entry for t, entry in found["rounds"].items()}
    columns["all"] = total = found["total"]
    names = ["", *columns]
    entries = list(columns.values())
    lines: list[list[object]] = [["rollouts", *(e["asked"] for e in entries)]]
    lines += [
        [f"  {status}", *(e["statuses"][status] for e in entries)]
        for status in Status
        if total["statuses"][status]
    ]
    lines += [
        ["accepted", *(e["accept_rate"] for e in entries)],
        ["problems", *(e["num_problems"] for e in entries)],
        ["  solved", *(e["num_solved"] for e in entries)],
        ["mean tokens", *(round(e["mean_thought_tokens"]) for e in entries)],
        ["  of accepted", *(round(e["mean_accepted_tokens"]) for e in entries)],
    ]
    print_table(console, "rollouts", names, lines)
    print_table(
        console,
        "accepted of asked, by source",
        names,
        [
            [source, *(_of(e["sources"].get(source)) for e in entries)]
            for source in total["sources"]
        ],
    )
    print_table(
        console,
        "problems, by pass rate",
        names,
        [
            [name, *(e["pass_rates"][name] for e in entries)]
            for name in BINS
            if total["pass_rates"][name]
        ],
    )
    verifiers = ", ".join(f"{v or '?'}: {n:,}" for v, n in total["verifier_versions"].items())
    console.print(f"verdicts by verifier version: {verifiers}; store version {found['version']}")


def _of(entry: Mapping[str, Any] | None) -> str:
    return f"{entry['accepted']:,}/{entry['asked']:,} {entry['accept_rate']:.0%}" if entry else "-"
