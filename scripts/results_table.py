"""Markdown tables of finished runs, one per title: mean over seeds, and every seed.

    python scripts/results_table.py "tiny=runs/tiny runs/tiny-seed1" "control=runs/tiny_control"

Reads each run's `report.json`; a run that has none is named and left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

Entry = dict[str, Any]  # of a report's `rounds`
Column = tuple[str, str, float, str]  # figure, title, what it is multiplied with, format

COLUMNS: tuple[Column, ...] = (
    ("pass_at_1", "pass@1", 100, ".1f"),
    ("pass_at_k", "pass@k", 100, ".1f"),
    ("maj_at_k", "maj@k", 100, ".1f"),
    ("blank_image_pass_at_1", "blank image", 100, ".1f"),
    ("long_format_share", "long format", 100, ".1f"),
    ("truncated_share", "truncated", 100, ".1f"),
    ("mean_thought_tokens", "thought tokens", 1, ".0f"),
    ("trained_seed_thoughts", "seed thoughts", 1, ".0f"),
    ("trained_text_traces", "text traces", 1, ".0f"),
    ("trained_picture_traces", "picture traces", 1, ".0f"),
    ("trained_tokens", "trained tokens", 1, ".0f"),
    ("trained_target_tokens", "of them targets", 1, ".0f"),
    ("seconds", "seconds", 1, ".0f"),
)


def main() -> int:
    for argument in sys.argv[1:]:
        title, _, directories = argument.partition("=")
        reports = [r for d in directories.split() if (r := read(Path(d)))]
        if reports:
            rounds = zip(*reports, strict=True)
            rows = [([str(entries[0]["round"])], entries) for entries in rounds]
            print(f"### {title}\n\n{markdown(['round'], rows, COLUMNS, mean_of)}\n")
    return 0


def read(run_dir: Path) -> list[Entry]:
    path = run_dir / "report.json"
    if not path.exists():
        print(f"{path} is missing: that run has not ended well", file=sys.stderr)
        return []
    return json.loads(path.read_text())["rounds"]


def markdown(
    heads: Sequence[str],
    rows: Iterable[tuple[Sequence[str], Sequence[Entry]]],
    columns: Sequence[Column],
    say: Callable[[Sequence[float], str], str],
) -> str:
    """A line for each row: its first cells (under `heads`), what `say(values, format)` makes of the
    figures of its entries, one entry a seed, and pass@1 of each; `-` where nothing was measured."""
    heads = [*heads, *(title for _, title, _, _ in columns), "pass@1 of each seed"]
    lines = [heads, ["---"] * len(heads)]
    for cells, entries in rows:
        line = list(cells)
        for key, _, scale, form in columns:
            values = [scale * e[key] for e in entries if e.get(key) is not None]
            line.append(say(values, form) if values else "-")
        lines.append([*line, ", ".join(f"{100 * e['pass_at_1']:.1f}" for e in entries)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_of(values: Sequence[float], form: str) -> str:
    return format(mean(values), form)


if __name__ == "__main__":
    sys.exit(main())
