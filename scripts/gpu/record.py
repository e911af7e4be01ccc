"""Adds what `check_train.py` measured to docs/gpu-results.md, as one section per card and date.

    python scripts/gpu/record.py gpu-train [--commit abc1234] [--to docs/gpu-results.md]

Reads `about.json` and `rows.jsonl` of the output directory. The newest section stands first. A row
that failed, was skipped or was not reached stands in the table with its reason.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "docs" / "gpu-results.md"
MARK = "<!-- sections, the newest first -->\n"

Row = dict[str, Any]  # a line of rows.jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="output directory of check_train.py")
    parser.add_argument("--commit", help="if the checkout that was measured had no history")
    parser.add_argument("--to", type=Path, default=RESULTS, help="default: docs/gpu-results.md")
    args = parser.parse_args()
    about = json.loads((args.directory / "about.json").read_text())
    if args.commit:
        about["commit"] = args.commit
    lines = (args.directory / "rows.jsonl").read_text().splitlines()
    text = args.to.read_text()
    if MARK not in text:
        raise SystemExit(f"{args.to} has no line {MARK.strip()!r}; expected it above the sections")
    added = section(about, [json.loads(line) for line in lines])
    args.to.write_text(text.replace(MARK, f"{MARK}\n{added}", 1))


def section(about: dict[str, str], rows: Sequence[Row]) -> str:
    """A heading, the versions, and a table for each kind of row."""
    title = f"## {about['card']}, {about['date']}, commit {about['commit']}"
    rest = [f"{k} {v}" for k, v in about.items() if k not in ("card", "date", "commit")]
    kinds = dict.fromkeys(_kind(row) for row in rows)
    tables = [table([row for row in rows if _kind(row) == kind]) for kind in kinds]
    total = sum(row["seconds"] for row in rows)
    counts = {s: sum(r["status"] == s for r in rows) for s in sorted({r["status"] for r in rows})}
    said = ", ".join(f"{number} {status}" for status, number in counts.items())
    ended = f"{len(rows)} rows in {total:.0f} s: {said}."
    return "\n\n".join([title, ", ".join(rest) + ".", ended, *tables]) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Rows of one kind, a column for each figure that any of them has.

    >>> row = {"row": "head/64", "status": "ok", "seconds": 1.26, "figures": {"today_ms": 2.5}}
    >>> print(table([{**row, "error": ""}]))
    | row | result | seconds | today_ms |
    |---|---|---|---|
    | head/64 | ok | 1.3 | 2.5 |
    """
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    heads = ["row", "result", "seconds", *names]
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for row in rows:
        result = f"{row['status']}: {row['error']}" if row["error"] else row["status"]
        figures = [_cell(row["figures"].get(name)) for name in names]
        lines.append(_line([row["row"], result, f"{row['seconds']:.1f}", *figures]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _kind(row: Row) -> str:
    return str(row["row"]).partition("/")[0]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
