"""The paper's five rows in miniature: runs them for every seed, one by one, and prints the table.

    python scripts/paper_tiny.py                      # seeds 0 1 2, about an hour on 2 idle cores
    python scripts/paper_tiny.py --seeds 0            # 20 minutes, the teacher's run not counted
    python scripts/paper_tiny.py --table              # what is there so far, nothing is run

The teacher is the last checkpoint of configs/tiny.yaml (`runs/tiny`), which is run first if it is
not there. Every row is a run directory under --root; a finished one is not run again, an
interrupted one goes on. The rows base, D_T and "D_T and D_SD" are the steps of one run (base, round
0, round 1): the same computation as configs/paper/tiny_base.yaml and tiny_d_t.yaml, which are there
to be run alone. Further arguments of the form key=value are passed on to every row. Writes table.md
under --root.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev

from results_table import Column, Entry, markdown, mean_of, read

CONFIGS = Path("configs/paper")
TEACHER = Path("runs/tiny/weights/v0004")
# Title of a row, the run whose report has it, and the round there.
ROWS: tuple[tuple[str, str, str | int], ...] = (
    ("base", "d_t_d_sd", "base"),
    ("D_T", "d_t_d_sd", 0),
    ("D_QVQ (teacher)", "d_qvq", 1),
    ("D_SD", "d_sd", 1),
    ("D_T and D_SD", "d_t_d_sd", 1),
)
RUNS = ("d_t_d_sd", "d_sd", "d_qvq")
COLUMNS: tuple[Column, ...] = (
    ("pass_at_1", "pass@1", 100, ".1f"),
    ("pass_at_k", "pass@k", 100, ".1f"),
    ("blank_image_pass_at_1", "blank image", 100, ".1f"),
    ("mean_thought_tokens", "thought tokens", 1, ".0f"),
    ("long_format_share", "long format", 100, ".0f"),
    ("truncated_share", "truncated", 100, ".1f"),
    ("accepted_share", "accepted", 100, ".1f"),
    ("trained_tokens", "trained tokens", 1, ",.0f"),
)


def main() -> int:
    args = parse_args()
    if not args.table:
        if not args.teacher.is_dir():
            run("configs/tiny.yaml", ["seed=0", f"run_dir={args.teacher.parents[1]}"])
        for seed in args.seeds:
            for name in RUNS:
                train(name, seed, args)
    text = table({seed: rows_of(args.root, seed) for seed in args.seeds})
    print(text)
    args.root.mkdir(parents=True, exist_ok=True)
    (args.root / "table.md").write_text(text + "\n", encoding="utf-8")
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, default=Path("runs/paper-tiny"))
    parser.add_argument("--teacher", type=Path, default=TEACHER, help="a weights directory")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser.parse_intermixed_args()


def run_dir(root: Path, name: str, seed: int) -> Path:
    return root / f"{name}-seed{seed}"


def train(name: str, seed: int, args: argparse.Namespace) -> None:
    directory = run_dir(args.root, name, seed)
    if (directory / "report.json").exists():
        return
    overrides = [f"seed={seed}", f"run_dir={directory}"]
    if name == "d_qvq":
        overrides.append(f"teacher.path={args.teacher}")
    run(str(CONFIGS / f"tiny_{name}.yaml"), [*overrides, *args.overrides])


def run(config: str, overrides: Sequence[str]) -> None:
    """One run to its end; a failed one ends this script (the same command goes on)."""
    print(f"== {config} {' '.join(overrides)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "virgo_ray.run", config, *overrides], check=False)
    if done.returncode:
        sys.exit(f"{config} ended with {done.returncode}; the same command goes on from there")


def rows_of(root: Path, seed: int) -> dict[str, Entry]:
    """Title -> that round's entry of its report, for the runs of a seed that have ended."""
    reports = {name: read(run_dir(root, name, seed)) for name in RUNS}
    found: dict[str, Entry] = {}
    for title, name, label in ROWS:
        for entry in reports[name]:
            if entry["round"] == label:
                asked = entry["asked"]
                share = entry["accepted"] / asked if asked and label == 1 else None
                found[title] = {**entry, "accepted_share": share}
    return found


def table(seeds: Mapping[int, Mapping[str, Entry]]) -> str:
    """One line per row of the paper: mean and standard deviation over the seeds there are."""
    found = [
        (title, [rows[title] for rows in seeds.values() if title in rows]) for title, *_ in ROWS
    ]
    rows = [([title, str(len(entries))], entries) for title, entries in found if entries]
    return markdown(["row", "seeds"], rows, COLUMNS, spread)


def spread(values: Sequence[float], form: str) -> str:
    """`78.5 ± 2.1`; without the spread where there is one seed."""
    error = f" ± {format(stdev(values), form)}" if len(values) > 1 else ""
    return mean_of(values, form) + error


if __name__ == "__main__":
    sys.exit(main())
