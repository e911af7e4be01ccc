"""Finds rollouts by what became of them: a line each, without their texts.

Memory holds the page that is shown and, for pass rates, one count per problem and round; texts and
token ids are never read. The order is that of the store, so pages do not overlap.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from virgo_ray.model.blank import BLANK
from virgo_ray.records import Status
from virgo_ray.store.reader import TraceReader
from virgo_ray.store.rows import PROBES, SAMPLES
from virgo_ray.traces.table import print_table

LIMIT = 50
COLUMNS = (
    "round", "problem_id", "sample_index", "source", "status", "num_tokens", "answer", "gold",
    "finish_reason", "weights_version",
)  # fmt: skip
PHASES = {"sample": SAMPLES, "blank": PROBES}
MAX_ANSWER = 24  # characters in a table
Band = tuple[float, float]


@dataclass(frozen=True)
class Wanted:
    """Which rollouts; None: any. Bands include both ends."""

    rounds: Sequence[int] | None = None
    statuses: frozenset[str] | None = None
    sources: frozenset[str] | None = None
    problem: str | None = None
    pass_rate: Band | None = None
    length: Band | None = None
    phase: str = "sample"


@dataclass(frozen=True)
class Page:
    """Rows `offset` and following of `total` that were found."""

    total: int
    offset: int
    rows: Sequence[Mapping[str, Any]]

    def as_json(self) -> dict[str, object]:
        return {"total": self.total, "offset": self.offset, "rollouts": list(self.rows)}


def find_page(reader: TraceReader, wanted: Wanted, offset: int = 0, limit: int = LIMIT) -> Page:
    """One page of what is wanted; a row has `pass_rate` too, null where nothing was judged.

    That of a probe is its problem's, asked with the pictures.
    """
    counts = reader.round_counts(wanted.rounds)
    total, rows = 0, []
    for row in _rows(reader, wanted):
        correct, judged = counts.get((row["round"], row["problem_id"].removesuffix(BLANK)), (0, 0))
        rate = correct / judged if judged else None
        if not _is_in(rate, wanted.pass_rate):
            continue
        if offset <= total < offset + limit:
            rows.append({**row, "pass_rate": None if rate is None else round(rate, 4)})
        total += 1
    return Page(total, offset, rows)


def _rows(reader: TraceReader, wanted: Wanted) -> Iterator[dict[str, Any]]:
    columns = [name for name in COLUMNS if name in reader.columns]
    for batch in reader.scan(columns, wanted.rounds, which=PHASES[wanted.phase]):
        for row in batch.to_pylist():
            if (
                (wanted.statuses is None or row["status"] in wanted.statuses)
                and (wanted.sources is None or row["source"] in wanted.sources)
                and (wanted.problem is None or row["problem_id"] == wanted.problem)
                and _is_in(row["num_tokens"], wanted.length)
            ):
                yield row


def _is_in(value: float | None, band: Band | None) -> bool:
    return band is None or (value is not None and band[0] <= value <= band[1])


def parse_band(text: str) -> Band:
    """
    >>> parse_band("0..0.25"), parse_band("100.."), parse_band("0.5")
    ((0.0, 0.25), (100.0, inf), (0.5, 0.5))
    """
    low, dots, high = text.partition("..")
    try:
        lower = float(low or 0)
        band = (lower, float(high or "inf") if dots else lower)
    except ValueError:
        band = (1.0, 0.0)
    if not band[0] <= band[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LOW..HIGH, such as 0..0.25 or 200..")
    return band


def add_options(made: argparse.ArgumentParser) -> None:
    again = "; may be repeated"
    made.add_argument("--round", type=int, action="append", help=f"only of this round{again}")
    made.add_argument(
        "--status", action="append", choices=[str(s) for s in Status], metavar="STATUS",
        help=f"only with this status ({', '.join(Status)}){again}",
    )  # fmt: skip
    made.add_argument("--source", action="append", help=f"only of this source of problems{again}")
    made.add_argument("--problem", help="only about the problem with this id")
    made.add_argument(
        "--pass-rate", type=parse_band, metavar="LOW..HIGH",
        help="only about problems of which this share was solved in the round, such as 0..0.25",
    )  # fmt: skip
    made.add_argument(
        "--length", type=parse_band, metavar="LOW..HIGH", help="only of so many tokens, as 200.."
    )
    made.add_argument(
        "--phase", choices=list(PHASES), default="sample",
        help="sample: of explorations (default); blank: probes without their picture",
    )  # fmt: skip
    made.add_argument("--limit", type=int, default=LIMIT, help=f"rows of a page (default: {LIMIT})")
    made.add_argument("--offset", type=int, default=0, help="rows to leave out before the page")


def wanted_of(options: argparse.Namespace) -> Wanted:
    return Wanted(
        options.round,
        frozenset(options.status) if options.status else None,
        frozenset(options.source) if options.source else None,
        options.problem,
        options.pass_rate,
        options.length,
        options.phase,
    )


def print_page(console: Console, page: Page) -> None:
    names = ["problem", "source", "status", "round", "sample", "tokens", "solved", "answer", "gold"]
    rows = [
        (
            row["problem_id"], row["source"], row["status"], row["round"], row["sample_index"],
            row["num_tokens"], "-" if row["pass_rate"] is None else f"{row['pass_rate']:.0%}",
            str(row.get("answer") or "")[:MAX_ANSWER], str(row.get("gold") or "")[:MAX_ANSWER],
        )
        for row in page.rows
    ]  # fmt: skip
    print_table(console, "", names, rows)
    last = page.offset + len(page.rows)
    shown = f"{page.offset + 1:,} to {last:,} of " if page.rows else ""
    more = f"; --offset {last} shows what follows" if last < page.total and page.rows else ""
    console.print(f"{shown}{page.total:,} rollouts{more}")
