"""Kills the driver again and again at random moments; the run must end as if nothing had happened.

    python scripts/chaos.py --kills 10 --seed 0 configs/tiny.yaml run_dir=runs/chaos [key=value ...]

Every start is the same command. After each SIGKILL the committed part of the ledger is compared
with what it was before: it may grow, never change. At the end the buffer must hold every asked
(round, problem, sample) key exactly once, extra ones and probes included. Prints a table, exits 1
on any lost, doubled or changed thing. With `--reference RUN_DIR` the tallies of an undisturbed run
are printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import lance

from virgo_ray.config import Config, load_config
from virgo_ray.records import Status
from virgo_ray.selection import samples_wanted
from virgo_ray.store.dataset import place_of
from virgo_ray.store.reader import TraceReader

FINAL_START_LIMIT_S = 3600


def main() -> int:
    args = parse_args()
    cfg = load_config(args.config, args.overrides)
    run_dir = Path(cfg.run_dir)
    rng = random.Random(args.seed)
    problems: list[str] = []
    rows = []
    for kill in range(1, args.kills + 1):
        wait_s = rng.uniform(*args.between)
        before = committed(run_dir)
        ended = run_and_kill(args, wait_s)
        after = committed(run_dir)
        problems += [f"kill {kill}: {p}" for p in changed(before, after)]
        problems += [f"kill {kill}: {p}" for p in doubled(run_dir)]
        rows.append((kill, wait_s, "ended by itself" if ended else "killed", progress(run_dir)))
        print("{:>3}  {:6.1f} s  {:<16} {}".format(*rows[-1]), flush=True)
    started = time.monotonic()
    code = subprocess.run(command(args), timeout=FINAL_START_LIMIT_S, check=False).returncode
    print(f"last start: exit code {code} after {time.monotonic() - started:.0f} s")
    problems += [] if code == 0 else [f"the last start exited {code}"]
    problems += doubled(run_dir) + lost(run_dir, cfg) + repeated_fits(run_dir)
    show_tallies(run_dir, args.reference)
    print(f"{args.kills} kills, {len(problems)} problems", *problems, sep="\n  ")
    return 1 if problems else 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--between", type=float, nargs=2, default=(5.0, 120.0), metavar="S", help="seconds alive"
    )
    parser.add_argument("--reference", type=Path, help="an undisturbed run of the same config")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    return parser.parse_args()


def command(args: argparse.Namespace) -> list[str]:
    return [sys.executable, "-m", "virgo_ray.run", args.config, *args.overrides]


def run_and_kill(args: argparse.Namespace, wait_s: float) -> bool:
    """Whether the run ended well before its time was up.

    Raises:
        RuntimeError: it ended badly by itself.
    """
    child = subprocess.Popen(command(args), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        code = child.wait(wait_s)
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(30)
        return False
    if code != 0:
        raise RuntimeError(f"{' '.join(command(args))} exited {code} by itself")
    return True


def committed(run_dir: Path) -> dict[str, object]:
    """`{"0/explored": {...}, "0/trained": {...}, "evaluated/base": {...}}` as the ledger has it."""
    path = run_dir / "ledger.json"
    if not path.exists():
        return {}
    state = json.loads(path.read_text())
    halves = {f"{t}/{half}": v for t, r in state["rounds"].items() for half, v in r.items()}
    return {**halves, **{f"evaluated/{k}": v for k, v in state["evaluations"].items()}}


def changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [f"committed {k} changed or vanished" for k, v in before.items() if after.get(k) != v]


def keys(run_dir: Path) -> Counter[tuple[int, str, int]]:
    if not (run_dir / "buffer.lance").exists():
        return Counter()
    table = lance.dataset(str(run_dir / "buffer.lance")).to_table(
        columns=["round", "problem_id", "sample_index"]
    )
    return Counter(zip(*(table[c].to_pylist() for c in table.column_names), strict=True))


def doubled(run_dir: Path) -> list[str]:
    return [f"key {key} is in the buffer {n} times" for key, n in keys(run_dir).items() if n > 1]


def lost(run_dir: Path, cfg: Config) -> list[str]:
    """What must be there and is not, or is there and must not be: every asked problem has every
    sample, the extra ones that the samples before call for, and its probe."""
    reader = TraceReader.open(place_of(run_dir, cfg.store))
    problems = []
    for t in range(1, cfg.rounds + 1):
        found = reader.are_correct(t)
        asked = {id for id, _ in found}
        num, expected = cfg.data.train.num, cfg.explore.num_problems
        if num is not None:
            expected = min(expected, num - len(reader.solved(0)))
        if len(asked) != expected:
            problems.append(f"round {t} has {len(asked)} problems, expected {expected}")
        wanted = set(samples_wanted(asked, cfg.explore.num_samples, cfg.explore.extra, found))
        problems += [f"key {(t, *key)} is missing" for key in sorted(wanted - found.keys())]
        problems += [f"key {(t, *key)} is too much" for key in sorted(found.keys() - wanted)]
        probes = reader.blank_solved([t]).keys()
        if probes != (blanks(reader, t) if cfg.explore.blank_probe else set()):
            problems.append(f"round {t} has probes of other problems than it must")
    return problems


def blanks(reader: TraceReader, t: int) -> set[str]:
    """Ids of the problems with pictures that were solved in a round."""
    return {
        row["problem_id"]
        for batch in reader.scan(["problem_id", "images"], [t], Status.CORRECT)
        for row in batch.to_pylist()
        if row["images"]
    }


def repeated_fits(run_dir: Path) -> list[str]:
    """A version that was fitted to its end twice, judging by the metrics stream."""
    records = [
        json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines() if line
    ]
    fits = Counter(r["weights_version"] for r in records if r.get("kind") == "fit")
    return [f"weights version {v} was fitted {n} times" for v, n in fits.items() if n > 2]


def progress(run_dir: Path) -> str:
    return f"{len(committed(run_dir))} commits, {keys(run_dir).total()} rollouts stored"


def show_tallies(run_dir: Path, reference: Path | None) -> None:
    for label, directory in (("this run", run_dir), ("reference", reference)):
        for key, value in sorted(committed(directory).items()) if directory else ():
            if key.endswith("explored") and isinstance(value, dict):
                print(f"{label:<10} {key}: asked {value['asked']}, accepted {value['accepted']}")
            elif key.startswith("evaluated") and isinstance(value, dict):
                print(f"{label:<10} {key}: pass@1 {value['pass_at_1']:.3f}")


if __name__ == "__main__":
    sys.exit(main())
