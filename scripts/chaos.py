"""Kills parts of a run again and again at random moments; it must end as if nothing had happened.

    python scripts/chaos.py --kills 40 --seed 0 configs/tiny.yaml run_dir=runs/chaos [key=value ...]

What is struck is drawn from `--targets` (chaos_kills.py says what each does), the rarest kind of
the phase first. Driver, cluster and disk are followed by the same command again; the other parts
must come back by themselves. A run that ends before all kills are done gets another round. Around
every kill the run directory is compared with what it was: it may grow, never change; no process may
outlive its driver. Prints a table and exits 1 on anything lost, doubled, changed or left behind.
`--reference RUN_DIR` is an undisturbed run of the same config: the tallies of common rounds must be
the same, and the accuracy of the last one must agree. `--each N M` asks for N kills of every kind,
in M phases.

    python scripts/chaos.py --kills 60 --each 4 3 --nodes 3 --ballast 9000 --reference runs/tiny \\
        configs/tiny.yaml run_dir=runs/chaos placement.cpus_per_worker=1 \\
        rollout.heartbeat_deadline_s=60 push.deadline_s=120

Only processes that this script's own runs started are touched. What the runs print goes to
RUN_DIR.chaos.log. RAY_ADDRESS is not used: `--nodes` starts a cluster of its own.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil
from chaos_checks import (
    Snapshot,
    accuracy_gap,
    broken,
    committed,
    doubled_steps,
    incomplete,
    last_common_evaluation,
    read_records,
    snapshot,
    tally_gaps,
)
from chaos_cluster import Nodes
from chaos_kills import (
    KINDS,
    choose,
    fill_disk,
    hang,
    kill,
    lacking,
    memory_settings,
    parts,
    present,
    shortfall,
    strike_memory,
    title,
)
from chaos_run import END_DEADLINE_S, Run

from virgo_ray.config import load_config

LAST_START_DEADLINE_S = 7200.0
GOES_ON = "goes on"
DISK_DEADLINE_S = 60.0  # for a struck process to write something
NEED_OPTIONS = {"raylet": "nodes", "memory": "ballast"}
FULL = re.compile(r"File too large|No space left")
# The good reasons for a run to stop by itself after its parts were struck.
LIMITS = re.compile(
    r"rollout\.min_workers|train\.max_restarts|failed \d+ times in a row|" + FULL.pattern
)


@dataclass(frozen=True)
class Kill:
    """A row of the table."""

    number: int
    seconds: float
    target: str
    phase: str
    outcome: str
    commits: int
    rows: int

    def line(self) -> str:
        return (
            f"{self.number:>4}  {self.seconds:6.1f} s  {self.target:<9} {self.phase:<22} "
            f"{self.outcome:<28} {self.commits:>3} commits {self.rows:>6} rollouts"
        )


def main() -> int:
    args = parse_args()
    cfg = load_config(args.config, args.overrides)
    settings = memory_settings() if args.ballast else {}
    nodes = Nodes(args.nodes, settings) if args.nodes > 1 else None
    run = Run(cfg, args.config, args.overrides, nodes, settings)
    kills: list[Kill] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves no run and no node behind
    print(f"{'kill':>4}  {'after':>8}  {'what':<9} {'during (round, phase)':<22} then")
    with closing(nodes) if nodes is not None else nullcontext():
        disturb(run, random.Random(args.seed), args, kills)
    run.problems += shortfall(struck(kills), args.targets, *args.each)
    run.problems += final_problems(run, args.reference)
    print_summary(run, kills, args.reference)
    return 1 if run.problems else 0


def disturb(run: Run, rng: random.Random, args: argparse.Namespace, kills: list[Kill]) -> None:
    """Start the run, strike as often as was asked for, and let it come to its end."""
    run.start()
    try:
        while len(kills) < args.kills and not run.has_failed:
            done = one_kill(run, rng, args, kills)
            if done is not None:
                kills.append(done)
                print(done.line(), flush=True)
        finish(run)
    finally:
        if run.process.poll() is None:
            run.end()


def struck(kills: Sequence[Kill]) -> Counter[tuple[str, str]]:
    """How often each kind came in each phase; that of round 1 and of round 2 are one."""
    return Counter((done.target, without_round(done.phase)) for done in kills)


def without_round(phase: str) -> str:
    return phase.partition(" ")[2] or phase


def one_kill(
    run: Run, rng: random.Random, args: argparse.Namespace, kills: Sequence[Kill]
) -> Kill | None:
    """Wait, kill something, and see that nothing is lost. None: the run ended before."""
    seconds, counts = rng.uniform(*args.between), struck(kills)

    def look() -> list[str]:
        there = present(args.targets, run.started())
        return lacking(there, without_round(run.phase()), counts, args.targets, *args.each)

    before = snapshot(run.run_dir, run.cfg.store)
    code, kinds = run.wait(seconds), look()
    patience = time.monotonic() + END_DEADLINE_S  # until something that may be killed has started
    while code is None and not kinds and time.monotonic() < patience:
        code, kinds = run.wait(1.0), look()
    if code is not None:
        go_on_after_end(run, code)
        return None
    number, phase = len(kills) + 1, run.phase()
    kinds = kinds or present(args.targets, run.started()) or ["driver"]
    target = choose(rng, kinds, without_round(phase), counts)
    if target == "hang":
        outcome = strike_engine(run, rng)
        phase = run.phase()
    else:
        outcome = strike(run, rng, target, args.ballast)
    after = snapshot(run.run_dir, run.cfg.store)
    run.problems += [f"kill {number} ({target}): {p}" for p in broken(before, after)]
    if not outcome.startswith(GOES_ON):
        run.start()
    return Kill(number, seconds, target, phase, outcome, len(after.committed), after.num_rows)


def go_on_after_end(run: Run, code: int) -> None:
    """The run ended by itself between two kills: well, by a limit, or wrongly."""
    if code == 0:
        run.rounds += 1
    elif not (run.was_harmed and LIMITS.search(run.printed())):
        run.problems.append(f"the run exited {code} by itself: {_last_line(run.printed())}")
        run.has_failed = True
        return
    run.start()


def strike(run: Run, rng: random.Random, target: str, ballast_mib: int = 0) -> str:
    """Strike it; returns what became of the run."""
    if target == "driver":
        run.end()
        return "started again"
    run.was_harmed = True
    started = run.started()
    if target == "cluster":
        return strike_cluster(run, started)
    if target == "disk":
        return strike_disk(run, rng)
    if target == "memory":
        gone = strike_memory(parts(started, "memory"), ballast_mib)
        return GOES_ON if gone else f"{GOES_ON} (nothing ended)"
    victims = run.nodes.others() if target == "raylet" and run.nodes else parts(started, target)
    if victims:
        kill(rng.choice(victims))
    if run.nodes is not None:
        run.nodes.keep_up()
    return GOES_ON if victims else f"{GOES_ON} (it was gone)"


def strike_engine(run: Run, rng: random.Random) -> str:
    run.was_harmed = True
    engines, is_over = (
        lambda: parts(run.started(), "hang"),
        lambda: run.process.poll() is not None,
    )
    return GOES_ON if hang(rng, engines, run.phase, is_over) else f"{GOES_ON} (no engine)"


def strike_disk(run: Run, rng: random.Random) -> str:
    """The driver or a rank cannot write on; the run must end clearly, if it writes at all."""
    ranks = parts(run.started(), "trainer")
    free = fill_disk(rng.choice([psutil.Process(run.process.pid), *ranks]))
    code = run.wait(DISK_DEADLINE_S)
    free()
    if code is None:
        return f"{GOES_ON} (nothing written)"
    if code == 0 or not FULL.search(run.printed()) or "Traceback" in run.printed():
        run.problems.append(f"a full disk ended with {code}: {_last_line(run.printed())}")
    return f"exited {code}, started again"


def strike_cluster(run: Run, started: Sequence[psutil.Process]) -> str:
    if run.nodes is not None:
        run.nodes.lose()
    else:
        started = [p for p in started if "wandb" not in title(p)]
        for process in reversed(started):
            kill(process)
    code = run.wait(END_DEADLINE_S)
    if code is None:
        run.problems.append(f"the driver outlived its cluster by {END_DEADLINE_S:.0f} s")
        run.end()
        return "hung, started again"
    if code == 0:
        run.problems.append("the driver exited 0 after its cluster was killed")
    run.expect_gone(list(started))
    return f"exited {code}, started again"


def finish(run: Run) -> None:
    """Let the last start run to its end; a limit reached by kills before is worth another start."""
    for _ in range(0 if run.has_failed else 2):
        code = run.wait(LAST_START_DEADLINE_S)
        if code == 0:
            return
        was_limit = run.was_harmed and LIMITS.search(run.printed())
        if code is None or not was_limit:
            break
        run.start()
    if not run.has_failed:
        run.problems.append(f"the last start ended with {code}: {_last_line(run.printed())}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing printed"])[-1][:300]


def final_problems(run: Run, reference: Path | None) -> list[str]:
    end = snapshot(run.run_dir, run.cfg.store)
    problems = broken(Snapshot(), end) + incomplete(end, run.cfg.explore.num_samples)
    problems += doubled_steps(read_records(run.run_dir / "metrics.jsonl"))
    if reference is not None:
        other = committed(reference)
        problems += tally_gaps(end.committed, other)
        name = last_common_evaluation(end.committed, other)
        if name is None:
            problems.append(f"{reference} and this run have no evaluated round in common")
        else:
            problems += accuracy_gap(end.committed[name], other[name])
    return problems


def print_summary(run: Run, kills: Sequence[Kill], reference: Path | None) -> None:
    for label, directory in (("this run", run.run_dir), ("reference", reference)):
        for name, value in sorted(committed(directory).items()) if directory else ():
            if name.endswith("/explored"):
                print(f"{label:<10} {name}: asked {value['asked']}, accepted {value['accepted']}")
            elif name.startswith("evaluated/"):
                print(f"{label:<10} {name}: pass@1 {value['pass_at_1']:.3f}")
    counts = struck(kills)
    for target in sorted({target for target, _ in counts}):
        phases = {phase: n for (kind, phase), n in counts.items() if kind == target}
        told = ", ".join(f"{phase} {n}" for phase, n in sorted(phases.items()))
        print(f"{target:<9} {sum(phases.values()):>3} kills: {told}")
    print(f"{len(kills)} kills, {len(run.problems)} problems", *run.problems, sep="\n  ")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--targets", type=_targets, metavar="A,B",
        help="of\n" + "\n".join(f"{name}: {what}" for name, what in KINDS.items()),
    )  # fmt: skip
    parser.add_argument(
        "--each", type=int, nargs=2, default=(0, 0), metavar=("N", "M"),
        help="kills of every kind that are asked for, and phases",
    )  # fmt: skip
    parser.add_argument("--nodes", type=int, default=1, help="raylets on this machine (default 1)")
    parser.add_argument(
        "--ballast", type=int, default=0, metavar="MIB",
        help="the most memory that the script takes for a strike of `memory`",
    )  # fmt: skip
    parser.add_argument(
        "--between", type=float, nargs=2, default=(5.0, 90.0), metavar="S",
        help="seconds from one kill to the next",
    )  # fmt: skip
    parser.add_argument("--reference", type=Path, help="an undisturbed run of the same config")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    missing = [kind for kind, option in NEED_OPTIONS.items() if getattr(args, option) < 2]
    if args.targets is None:
        args.targets = tuple(kind for kind in KINDS if kind not in missing)
    for kind in set(missing) & set(args.targets):
        parser.error(f"--targets {kind} needs --{NEED_OPTIONS[kind]}")
    return args


def _targets(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in KINDS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: expected some of {', '.join(KINDS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
