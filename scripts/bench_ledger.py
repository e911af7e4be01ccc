"""What a commit and a resume cost after many rounds.

    python scripts/bench_ledger.py [--rounds 100 1000 10000]

Every round is begun, explored, trained and evaluated, with tallies and evaluations as large as
those of the tiny model. Times are those of the processor, which other work on the machine does not
change, but for "with the disk": a commit forces its line to it. Commits are the last 200; "file" is
writing the whole ledger anew, at the end of a start; "resume" is a start after a kill, of a run
that never ended well: all of it is in the journal.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from virgo_ray.config import Config, load_config
from virgo_ray.ledger.exploration import Exploration
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import (
    Evaluation,
    Figures,
    FitReport,
    Portion,
    SourceTally,
    Tally,
    Weights,
)

BASE = Weights(0, "base")
FIGURES = Figures(
    num_problems=200, pass_at_1=0.5, pass_at_k=0.7, maj_at_k=0.6, k=4, mean_thought_tokens=80.5,
    long_format_share=1.0, truncated_share=0.0, not_judged_share=0.0,
)  # fmt: skip
SOLVED = "01" * 100
EVALUATION = Evaluation(
    **vars(FIGURES),
    per_source={f"tiny/{i}": FIGURES for i in range(6)},
    solved={"pass_at_1": SOLVED, "pass_at_k": SOLVED, "maj_at_k": SOLVED},
)
TALLY = Tally(
    asked=512, accepted=256, accept_rate=0.5, num_problems=64, num_solved=40,
    statuses={"correct": 256, "wrong": 256},
    sources={f"tiny/{i}": SourceTally(80, 40, 0.5) for i in range(6)}, new=7,
)  # fmt: skip
LAST = 200  # commits


@dataclass(frozen=True)
class Spent:
    """Time of the clock and of the processor."""

    s: float
    processor_s: float


def main() -> int:
    parser = argparse.ArgumentParser(description="What a commit and a resume cost.")
    parser.add_argument("--rounds", type=int, nargs="+", default=[100, 1000, 10000])
    options = parser.parse_args()
    print("| rounds | journal, MB | commit | slowest | with the disk | file | resume |")
    print("|---|---|---|---|---|---|---|")
    for num in options.rounds:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(num, Path(folder)), flush=True)
    return 0


def measure(num_rounds: int, folder: Path) -> str:
    """A row of the table."""
    cfg = load_config(
        str(Path(__file__).parents[1] / "configs/tiny.yaml"), [f"run_dir={folder}/run"]
    )
    ledger = Ledger.open(cfg, BASE)
    commit = ledger._commit
    taken: list[Spent] = []
    ledger._commit = lambda: taken.append(spent_on(commit))  # type: ignore[method-assign]
    for t in range(num_rounds):
        commit_round(cfg, ledger, t)
    ledger._lock.close()  # as a killed process leaves it
    size = (folder / "run/ledger.journal").stat().st_size / 1e6
    again: list[Ledger] = []
    resume = spent_on(lambda: again.append(resumed(cfg, num_rounds)))
    folding = spent_on(again[0].close)
    last = taken[-LAST:]
    processor = [spent.processor_s for spent in last]
    waited = statistics.median(spent.s for spent in last)
    told = (statistics.median(processor), max(processor), waited)
    commits = " | ".join(f"{1000 * x:.1f} ms" for x in told)
    ends = f"{folding.processor_s:.2f} s | {resume.processor_s:.2f} s"
    return f"| {num_rounds:,} | {size:.1f} | {commits} | {ends} |"


def commit_round(cfg: Config, ledger: Ledger, t: int) -> None:
    asked = tuple(f"tiny/{i}/{t}" for i in range(64))
    explore = cfg.explore
    ledger.begin(t, Exploration(asked, ledger.weights, 8, explore.sampling, explore.extra, False))
    ledger.commit_tally(t, t + 1, TALLY)
    weights = Weights(t + 1, f"weights/v{t + 1:04d}")
    portions = {"picture_traces": Portion(256, 60_000)}
    ledger.commit_fit(
        t, FitReport(weights, 4, 256, 60_000, 40_000, 2.0, 1.0, 3.0, portions=portions)
    )
    ledger.commit_evaluation(t, replace(EVALUATION, seconds=float(t)))


def resumed(cfg: Config, num_rounds: int) -> Ledger:
    """Everything that a start reads of its ledger."""
    ledger = Ledger.open(cfg, BASE)
    assert len(ledger.rounds()) == num_rounds + 1 and ledger.next_round == num_rounds
    ledger._has_committed = True
    return ledger


def spent_on(work: Callable[[], object]) -> Spent:
    started, processor = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - started, time.process_time() - processor)


if __name__ == "__main__":
    raise SystemExit(main())
