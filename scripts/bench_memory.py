"""Whether the memory of driver and actors stays flat over rounds, and what a fit needs.

    python scripts/bench_memory.py --rounds 50 configs/tiny.yaml run_dir=runs/memory [key=value ...]
    python scripts/bench_memory.py --only-show --rounds 50 configs/tiny.yaml run_dir=runs/memory
    python scripts/bench_memory.py --fits 3

With a config: runs the command with very small numbers (SHORT; overrides win), then reads the
records of kind `memory` from metrics.jsonl and prints, for driver and every actor, resident MiB
after the warm-up rounds and at the end, and the slope in MiB per round. The slope is Theil and
Sen's, the median over all pairs of rounds, so that no single peak makes it. Exits 1 where one is
above `--limit`.

With `--fits`: a random model of 0.4 billion parameters is trained that often for two steps, by one
rank in its actor on CPU, in bfloat16 and in float32. Prints the peak of every fit and what the rank
holds after it. Exits 1 where a later peak is 3 % above the first, or the rest is above 2 GB. Needs
12 GB of memory, 6 GB of disk and some minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from virgo_ray.config import load_config, resolve_run_dir

SHORT = (
    "data.train.num=24", "data.heldout.num=8", "data.seed_thoughts.num=32",
    "explore.num_problems=12", "explore.num_samples=2", "explore.max_barren_rounds=1000",
    "train.num_epochs=1", "train.batch_size=16",
    "evaluate.k=2", "evaluate.blank_image=false", "wandb.mode=disabled", "gates=null",
)  # fmt: skip
NUM_WARM_UP = 10  # rounds in which caches fill


@dataclass(frozen=True)
class Line:
    """One actor: MiB in the first and the last round after the warm-up, MiB per round."""

    name: str
    first_mib: float
    last_mib: float
    slope_mib: float


def main() -> int:
    args = parse_args()
    if args.fits:
        from fit_memory import compare_fits  # loads torch, which only this needs

        return compare_fits(args.fits)
    overrides = [*SHORT, *args.overrides, f"rounds={args.rounds}"]
    run_dir = resolve_run_dir(load_config(args.config, overrides).run_dir)
    if not args.only_show:
        command = [sys.executable, "-m", "virgo_ray.run", args.config, *overrides]
        subprocess.run(command, check=True)
    lines = measured(records_of(run_dir / "metrics.jsonl"), NUM_WARM_UP)
    print(
        f"{'who':<28} {'MiB, round ' + str(NUM_WARM_UP):>14} {'at the end':>12} {'per round':>10}"
    )
    for line in lines:
        print(
            f"{line.name:<28} {line.first_mib:>14.1f} {line.last_mib:>12.1f} "
            f"{line.slope_mib:>+10.3f}"
        )
    grown = [line.name for line in lines if line.slope_mib > args.limit]
    if not lines or grown:
        print(f"more than {args.limit:g} MiB per round: {', '.join(grown) or 'nothing measured'}")
        return 1
    return 0


def records_of(path: Path) -> Iterable[Mapping[str, Any]]:
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "memory" and record["round"] is not None:
            yield record


def measured(records: Iterable[Mapping[str, Any]], num_warm_up: int) -> list[Line]:
    """One line for every actor, from its highest value in each round after the warm-up."""
    peaks: dict[str, dict[int, float]] = defaultdict(dict)
    for record in records:
        for key, value in record.items():
            if key.startswith("rss_") and record["round"] >= num_warm_up:
                by_round = peaks[key.removeprefix("rss_").removesuffix("_mib")]
                by_round[record["round"]] = max(value, by_round.get(record["round"], 0.0))
    return [
        Line(name, by_round[min(by_round)], by_round[max(by_round)], slope(by_round))
        for name, by_round in sorted(peaks.items())
    ]


def slope(values: Mapping[int, float]) -> float:
    """Theil and Sen's: the median of the slopes between all pairs; 0 of a single value."""
    pairs = combinations(sorted(values.items()), 2)
    return median([(v - u) / (s - r) for (r, u), (s, v) in pairs] or [0.0])


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--limit", type=float, default=1.0, help="MiB per round, of any actor")
    parser.add_argument("--only-show", action="store_true", help="of a run that is there")
    parser.add_argument("--fits", type=int, default=0, help="fits of a 0.4 B model to compare")
    parser.add_argument("config", nargs="?")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    if not args.fits and args.config is None:
        parser.error("expected a config, or --fits 3")
    return args


if __name__ == "__main__":
    sys.exit(main())
