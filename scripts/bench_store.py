"""How the replay buffer's times and memory change while it grows.

    python scripts/bench_store.py [--rollouts 20000] [--tokens 500] [--words] [--dir PATH]

Rounds of judged rollouts are appended as a run does it; at each quarter a fresh process opens the
store, counts solve rates, describes all candidates of the last round, draws a thousand traces from
anywhere, and says how long each took and how much memory the process had at most. What must not
grow with the store is that memory, opening and appending; counting is linear with a small factor.
At the end a round's traces are chosen of everything that was accepted, twice: with the measures
that are stored, and with measures taken of all texts again, as it was before they were stored.
`--words` also compares the traces of a problem by their words.

A million rollouts of 2,000 tokens (`--rollouts 1000000 --tokens 2000`) need about 9 GB of disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from virgo_ray.config import Config, StoreConfig, load_config
from virgo_ray.records import Candidate, Judged, Problem, Rollout, Status, Verdict
from virgo_ray.selection import measuring
from virgo_ray.selection.measuring import Measuring, measuring_for
from virgo_ray.selection.training_set import choose_traces
from virgo_ray.store.buffer import CHUNK_ROWS, ReplayBuffer
from virgo_ray.store.dataset import locate_store
from virgo_ray.store.reader import TraceReader

REPO = Path(__file__).parents[1]
NUM_SAMPLES = 8
NUM_POOL = 64  # different thoughts, so that making them costs little
NUM_DRAWN = 1000
VOCABULARY = 150_000


def main() -> None:
    options = parse()
    if options.measure:
        measured = choose if options.texts_again is not None else measure
        print(json.dumps(measured(options)))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench_store_", dir=options.dir))
    try:
        show(options, [*grow(options, folder)])
        show_choice(*(in_a_fresh_process(options, folder, texts_again=n) for n in (0, 1)))
    finally:
        shutil.rmtree(folder)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=500, help="per rollout")
    parser.add_argument("--rounds", type=int, default=8, help="that the rollouts are spread over")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", action="store_true", help="select.max_overlap is 0.8, not 1")
    parser.add_argument("--dir", type=Path, help="where the store is made and removed again")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--last-round", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--texts-again", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def grow(options: argparse.Namespace, folder: Path) -> Any:
    """Append round by round; yield what was measured at each quarter."""
    rng = random.Random(options.seed)
    pool = [thought(rng, options.tokens) for _ in range(NUM_POOL)]
    buffer = ReplayBuffer.open(folder, measuring=measuring_of(options))
    named: list[int] = []
    per_round = options.rollouts // options.rounds
    chunk_ms: list[float] = []
    for t in range(1, options.rounds + 1):
        for n in range(0, per_round, CHUNK_ROWS):
            rows = [judged(t, i, pool, rng) for i in range(n, min(n + CHUNK_ROWS, per_round))]
            started = time.perf_counter()
            for row in rows:
                buffer.add(t, row)
            chunk_ms.append(1000 * (time.perf_counter() - started))
        started = time.perf_counter()
        named.append(buffer.seal())
        buffer.clean(named, timedelta(0))
        seal_s = time.perf_counter() - started
        if t % max(1, options.rounds // 4) == 0:
            figures = {"rollouts": t * per_round, "append_ms": statistics.median(chunk_ms)}
            figures |= {"seal_s": seal_s, "disk_mb": size_mb(folder)}
            figures |= {"writer_mb": memory_mb("VmRSS")}
            yield figures | in_a_fresh_process(options, folder, last_round=t)
            chunk_ms.clear()


def thought(rng: random.Random, num_tokens: int) -> tuple[str, tuple[int, ...]]:
    ids = tuple(rng.randrange(VOCABULARY) for _ in range(num_tokens))
    return " ".join(f"{i % 4096:x}" for i in ids), ids


def judged(t: int, i: int, pool: list[tuple[str, tuple[int, ...]]], rng: random.Random) -> Judged:
    text, ids = rng.choice(pool)
    cut = rng.randrange(len(ids))  # no two alike, or they would compress to nothing
    text, ids = text[cut:] + text[:cut], ids[cut:] + ids[:cut]
    problem = Problem(f"problem-{i // NUM_SAMPLES:07d}", "How many?", "7", source=f"s{i % 3}")
    status = Status.CORRECT if rng.random() < 0.5 else Status.WRONG
    rollout = Rollout(problem, i % NUM_SAMPLES, f"{t} {i} {text}", ids, "stop", t)
    return Judged(rollout, Verdict(status, "7", "boxed", verifier_version="1"))


def config_of(options: argparse.Namespace) -> Config:
    overlap = 0.8 if options.words else 1.0
    return load_config(str(REPO / "configs/tiny.yaml"), [f"select.max_overlap={overlap}"])


def measuring_of(options: argparse.Namespace) -> Measuring:
    cfg = config_of(options)
    return measuring_for(cfg.verify.formats, cfg.select)


def in_a_fresh_process(options: argparse.Namespace, folder: Path, **numbers: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(folder), "--seed", str(options.seed)]
    command += [f"--rounds={options.rounds}", *(["--words"] if options.words else [])]
    command += [f"--{name.replace('_', '-')}={number}" for name, number in numbers.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def choose(options: argparse.Namespace) -> dict[str, Any]:
    """Choose what the last round learns from; `texts_again` makes all stored measures stale."""
    cfg = config_of(options)
    measuring.MEASURES_VERSION -= options.texts_again
    store = TraceReader.open(locate_store(options.measure, StoreConfig()))
    figures: dict[str, Any] = {"bare_mb": memory_mb("VmHWM")}
    started, used = time.perf_counter(), time.process_time()
    chosen = choose_traces(cfg, options.rounds, store)
    figures |= {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - used}
    keys = hashlib.sha256(repr([c.key for c in chosen]).encode()).hexdigest()
    return figures | {"peak_mb": memory_mb("VmHWM"), "num": len(chosen), "keys": keys}


def measure(options: argparse.Namespace) -> dict[str, float]:
    folder, last_round = options.measure, options.last_round
    figures: dict[str, float] = {"bare_mb": memory_mb("VmHWM")}
    started = time.perf_counter()
    buffer = ReplayBuffer.open(folder)
    figures["open_ms"] = 1000 * (time.perf_counter() - started)
    started = time.perf_counter()
    buffer.judged_counts(range(1, last_round + 1))
    figures["counts_s"] = time.perf_counter() - started
    started = time.perf_counter()
    buffer.candidates([last_round])
    figures["candidates_s"] = time.perf_counter() - started
    chosen = some_correct(buffer, random.Random(options.seed))
    problems = [Problem(id, "?", "7") for id in {c.problem_id for c in chosen}]
    started = time.perf_counter()
    num = len(buffer.traces(chosen, problems))
    figures["draw_s"] = time.perf_counter() - started
    assert num == len(chosen)
    return figures | {"peak_mb": memory_mb("VmHWM")}


def some_correct(buffer: ReplayBuffer, rng: random.Random) -> list[Candidate]:
    """Random correct rollouts of all rounds, without their texts; reservoir sampling."""
    chosen: list[tuple[int, str, int]] = []
    seen = 0
    for batch in buffer.scan(["round", "problem_id", "sample_index"], None, Status.CORRECT):
        for key in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            seen += 1
            if len(chosen) < NUM_DRAWN:
                chosen.append(key)
            elif (place := rng.randrange(seen)) < NUM_DRAWN:
                chosen[place] = key
    return [Candidate(*key, "s", 1, 0.0, 1, 1, 0, "", True) for key in chosen]


def memory_mb(what: str) -> float:
    """Of this process: VmHWM the most it had, VmRSS what it has. (`getrusage` would count what the
    parent had when it started this process.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def size_mb(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


COLUMNS = (
    ("rollouts", "rollouts", "{:,.0f}"),
    ("disk_mb", "disk MB", "{:,.0f}"),
    ("append_ms", f"append {CHUNK_ROWS}, ms", "{:.0f}"),
    ("seal_s", "seal+clean, s", "{:.2f}"),
    ("open_ms", "open, ms", "{:.0f}"),
    ("counts_s", "solve rates, s", "{:.2f}"),
    ("candidates_s", "candidates of a round, s", "{:.2f}"),
    ("draw_s", f"draw {NUM_DRAWN:,}, s", "{:.2f}"),
    ("writer_mb", "writer, MB", "{:.0f}"),
    ("bare_mb", "reader before, MB", "{:.0f}"),
    ("peak_mb", "at most, MB", "{:.0f}"),
)


def show(options: argparse.Namespace, rows: list[dict[str, float]]) -> None:
    title = f"{options.rollouts:,} rollouts of {options.tokens:,} tokens in {options.rounds} rounds"
    print(title)
    table = Table(*(title for _, title, _ in COLUMNS), box=None)
    for row in rows:
        table.add_row(*(form.format(row[key]) for key, _, form in COLUMNS))
    Console(width=160).print(table)
    first, last = rows[0], rows[-1]
    growth = last["rollouts"] / first["rollouts"]
    print(
        f"store {growth:.1f} times as large, peak memory {last['peak_mb'] / first['peak_mb']:.2f}"
    )


def show_choice(stored: dict[str, Any], again: dict[str, Any]) -> None:
    assert stored["keys"] == again["keys"], "both must choose the same traces"
    for figures, how in ((again, "all texts measured again"), (stored, "by stored measures")):
        print(
            f"{stored['num']:,} traces chosen, {how}: {figures['seconds']:.1f} s, of the processor "
            f"{figures['cpu_s']:.1f} s; memory {figures['bare_mb']:.0f} MB, at most "
            f"{figures['peak_mb']:.0f} MB"
        )
    ratio = again["cpu_s"] / stored["cpu_s"]
    print(f"{ratio:.0f} times less of the processor")


if __name__ == "__main__":
    main()
