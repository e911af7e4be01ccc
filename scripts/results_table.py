"""Markdown tables of finished runs, one per title: mean over seeds, and every seed.

    python scripts/results_table.py "tiny=runs/tiny runs/tiny-seed1" "control=runs/tiny_control"

Reads each run's `report.json`; a run that has none is named and left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

COLUMNS = (
    ("pass_at_1", "pass@1", 100, "{:.1f}"),
    ("pass_at_k", "pass@k", 100, "{:.1f}"),
    ("maj_at_k", "maj@k", 100, "{:.1f}"),
    ("blank_image_pass_at_1", "blank image", 100, "{:.1f}"),
    ("long_format_share", "long format", 100, "{:.1f}"),
    ("truncated_share", "truncated", 100, "{:.1f}"),
    ("mean_thought_tokens", "thought tokens", 1, "{:.0f}"),
    ("trained_tokens", "trained tokens", 1, "{:.0f}"),
    ("trained_target_tokens", "of them targets", 1, "{:.0f}"),
    ("seconds", "seconds", 1, "{:.0f}"),
)


def main() -> int:
    for argument in sys.argv[1:]:
        title, _, directories = argument.partition("=")
        reports = [r for d in directories.split() if (r := read(Path(d)))]
        if reports:
            print(f"### {title}\n\n{table(reports)}\n")
    return 0


def read(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "report.json"
    if not path.exists():
        print(f"{path} is missing: that run has not ended well", file=sys.stderr)
        return []
    return json.loads(path.read_text())["rounds"]


def table(reports: list[list[dict[str, Any]]]) -> str:
    """One row per round: means over the runs, and pass@1 of each run."""
    heads = ["round", *(title for _, title, _, _ in COLUMNS), "pass@1 of each seed"]
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for entries in zip(*reports, strict=True):
        cells = [str(entries[0]["round"])]
        for key, _, scale, form in COLUMNS:
            cells.append(form.format(scale * mean(e.get(key) or 0 for e in entries)))
        cells.append(", ".join(f"{100 * e['pass_at_1']:.1f}" for e in entries))
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
