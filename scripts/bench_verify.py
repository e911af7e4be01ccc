"""Items per second of the verifier against a bare `math_verify.verify(parse(...))` loop.

    python scripts/bench_verify.py [--rounds 2] [--hanging 0.01]
    python scripts/bench_verify.py --busy 8 --num 1000

Both sides judge the same answers, in the same run, on one core each: the bare loop in this process,
ours as the pool does it, one worker in batches of `verify.batch_size` with its killable process
(this one only waits). Ordinary answers come first, then sentences where mathematics was asked for,
then answers in Unicode. Then a share of the ordinary answers is replaced by some that never finish.
The bare loop is not run on those, because it stops dead at the first: math-verify's own alarm is
switched off on both sides, as it works neither outside a main thread nor inside C code. With the
alarm on, every hanging item would cost the bare loop its time-out; that figure is computed and
shown too.

With `--busy` it shows instead that verdicts do not depend on the load of the machine: ordinary
answers are judged alone and beside so many busy processes. It fails where a status differs.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from math_verify import parse, verify
from rich.console import Console
from rich.table import Table

from virgo_ray.actors.verifiers.worker import VerifierWorker
from virgo_ray.config import VerifyConfig
from virgo_ray.records import Status
from virgo_ray.verify.item import Item

DATA = Path(__file__).resolve().parents[1] / "tests" / "data" / "verifier"
DEADLINE_S = 5.0
CFG = VerifyConfig(deadline_s=DEADLINE_S)
# They pass the guard (no huge number in sight) and keep sympy busy for minutes.
HANGING = (
    (r"\int_0^1 \sin(x)dx", r"\int_0^1 \frac{\sin(x^3+\cos(x))}{\log(x+\sqrt{x^5+1})} dx"),
    ("(a+b+c+d)^{60}=1", "(a+b+c+d+e)^{60}=2"),
)
OPENINGS = ("I hope this helps", "We have now found what was asked", "Please look at the figure")
CLOSINGS = (
    "let me know if anything is unclear",
    "because both triangles share one side and one angle",
    "although nothing more can be said about the smaller circle",
)
UNICODE = (
    (r"\sqrt{2}+1", "√2 + 1"),
    (r"x^2+2x+1", "x² + 2x + 1"),
    (r"\frac{\pi}{4}", "π/4"),
    ("90", "90°"),
    (r"x \leq 3", "x ≤ 3"),
    ("-5", "\u22125"),
    (r"\frac{1}{2}", "½"),
    (r"2 \cdot 10^{3}", "2·10³"),
)


def ordinary_items(num: int, rng: random.Random) -> list[Item]:
    """Whole responses and bare answers of models: right and wrong, numbers and LaTeX."""
    names = ("gsm8k_model_solutions", "skythought_answer_pairs", "mathv_model_outputs")
    rows = [
        json.loads(line) for n in names for line in (DATA / f"{n}.jsonl").read_text().splitlines()
    ]
    chosen = rng.choices([row for row in rows if not row.get("options")], k=num)
    return [Item(gold=row["gold"], text=_boxed(row["prediction"])) for row in chosen]


def _boxed(prediction: str) -> str:
    """A response as our prompt asks for it; whole solutions stay as they are."""
    return prediction if "\n" in prediction or "boxed" in prediction else rf"\boxed{{{prediction}}}"


def prose_items(num: int, rng: random.Random) -> list[Item]:
    """Sentences in a box where a number or a formula was asked for."""
    golds = ("12", r"\frac{1}{2}", "x+1", "[0, 1)")
    return [
        Item(rng.choice(golds), _boxed(f"{rng.choice(OPENINGS)}, {rng.choice(CLOSINGS)}"))
        for _ in range(num)
    ]


def unicode_items(num: int, rng: random.Random) -> list[Item]:
    """Answers as people type them, and near misses."""
    chosen = rng.choices(UNICODE, k=num)
    return [Item(gold, _boxed(answer + rng.choice(("", " + 1")))) for gold, answer in chosen]


def bare_seconds(items: list[Item]) -> float:
    started = time.perf_counter()
    for item in items:
        gold = parse(f"${item.gold}$", parsing_timeout=None)
        verify(gold, parse(item.text, parsing_timeout=None), timeout_seconds=None)
    return time.perf_counter() - started


def our_seconds(worker: VerifierWorker, items: list[Item]) -> tuple[float, float]:
    """(seconds until every item was looked at, seconds until the slow ones were done too)."""
    started = time.perf_counter()
    num_judged, batch_size = 0, CFG.batch_size
    for start in range(0, len(items), batch_size):
        verdicts, _ = worker.judge(dict(enumerate(items[start : start + batch_size], start)))
        num_judged += len(verdicts)
    looked_at = time.perf_counter() - started
    while num_judged < len(items):
        num_judged += len(worker.judge({})[0])
    return looked_at, time.perf_counter() - started


def with_hanging(items: list[Item], share: float, rng: random.Random) -> list[Item]:
    mixed = list(items)
    for position in rng.sample(range(len(items)), max(1, round(share * len(items)))):
        gold, answer = rng.choice(HANGING)
        mixed[position] = Item(gold=gold, text=rf"\boxed{{{answer}}}")
    return mixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=2000, help="items per measurement")
    parser.add_argument("--rounds", type=int, default=2, help="repetitions; the median is shown")
    parser.add_argument("--hanging", type=float, default=0.01, help="share of hanging items")
    parser.add_argument("--busy", type=int, default=0, help="busy processes beside it; see above")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    worker = VerifierWorker(CFG.model_dump())
    try:
        if options.busy:
            sys.exit(compare_under_load(worker, options.num, options.busy))
        compare_speed(worker, options.num, options.rounds, options.hanging)
    finally:
        worker.close()


def compare_speed(worker: VerifierWorker, num: int, rounds: int, share: float) -> None:
    rng = random.Random(0)
    kinds = {
        "ordinary answers": ordinary_items(num, rng),
        "sentences": prose_items(num, rng),
        "answers in Unicode": unicode_items(num, rng),
    }
    items = kinds["ordinary answers"]
    mixed = with_hanging(items, share, rng)
    bare_seconds(items[:100])
    our_seconds(worker, items[:100])
    times = [
        [
            *((bare_seconds(some), our_seconds(worker, some)[1]) for some in kinds.values()),
            our_seconds(worker, mixed),
        ]
        for _ in range(rounds)
    ]
    *pairs, hanging = (
        tuple(num / statistics.median(times) for times in zip(*column, strict=True))
        for column in zip(*times, strict=True)
    )
    bare = pairs[0][0]
    num_hanging = sum(a is not b for a, b in zip(items, mixed, strict=True))
    alarmed = num / (num / bare + num_hanging * DEADLINE_S)
    table = Table("", "items/s", "of the bare loop")
    for kind, (theirs, ours) in zip(kinds, pairs, strict=True):
        table.add_row(f"bare loop, {kind}", f"{theirs:.0f}", "1.00")
        table.add_row(f"virgo_ray, {kind}", f"{ours:.0f}", f"{ours / theirs:.2f}")
    for name, speed in (
        (f"virgo_ray, {share:.0%} hanging", hanging[0]),
        ("  with the last ones' deadline", hanging[1]),
        (f"bare loop, {share:.0%} hanging, {DEADLINE_S:g} s alarm", alarmed),
    ):
        table.add_row(name, f"{speed:.1f}", f"{speed / bare:.2f}")
    table.add_row("  without an alarm", "0", "stops dead")
    Console().print(table)


def compare_under_load(worker: VerifierWorker, num: int, num_busy: int) -> str | None:
    """Judge alone and beside busy processes; a message where a status differs."""
    items = ordinary_items(num, random.Random(0))
    alone, alone_s = statuses(worker, items)
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(num_busy)]
    try:
        beside, beside_s = statuses(worker, items)
    finally:
        for process in busy:
            process.kill()
            process.wait(timeout=60)
    table = Table("", "items/s", *(status.value for status in Status))
    for name, counts, seconds in (
        ("alone", Counter(alone), alone_s),
        (f"beside {num_busy} busy processes", Counter(beside), beside_s),
    ):
        shown = [str(counts[status]) for status in Status]
        table.add_row(name, f"{num / seconds:.0f}", *shown)
    Console().print(table)
    num_other = sum(a is not b for a, b in zip(alone, beside, strict=True))
    return f"{num_other} of {num} statuses differ under load" if num_other else None


def statuses(worker: VerifierWorker, items: list[Item]) -> tuple[list[Status], float]:
    started = time.perf_counter()
    verdicts = worker.judge(dict(enumerate(items)))[0]
    while len(verdicts) < len(items):
        verdicts |= worker.judge({})[0]
    seconds = time.perf_counter() - started
    return [verdicts[number].status for number in range(len(items))], seconds


if __name__ == "__main__":
    main()
