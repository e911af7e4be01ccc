"""Items per second of the verifier against a bare `math_verify.verify(parse(...))` loop.

    python scripts/bench_verify.py [--rounds 2] [--hanging 0.01]

Both sides judge the same ordinary answers, in the same run, on one core each: the bare loop in this
process, ours as the pool does it, one worker in batches of `verify.batch_size` with its killable
process (this one only waits). Then a share of the answers is replaced by some that never finish.
The bare loop is not run on those, because it stops dead at the first: math-verify's own alarm is
switched off on both sides, as it works neither outside a main thread nor inside C code. With the
alarm on, every hanging item would cost the bare loop its time-out; that figure is computed and
shown too.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import time
from pathlib import Path

from math_verify import parse, verify
from rich.console import Console
from rich.table import Table

from virgo_ray.actors.verifiers.worker import VerifierWorker
from virgo_ray.config import VerifyConfig
from virgo_ray.verify.item import Item

DATA = Path(__file__).resolve().parents[1] / "tests" / "data" / "verifier"
DEADLINE_S = 5.0
# They pass the guard (no huge number in sight) and keep sympy busy for minutes.
HANGING = (
    (r"\frac{1}{2}", r"\cos(\frac{\pi}{97})+\cos(\frac{3\pi}{97})+\cos(\frac{5\pi}{97})"),
    ("a+b", r"\frac{(a+b)^{40}-(a-b)^{40}}{(a+c)^{39}}"),
    ("x^{2}+1", r"x^{97}+x^{53}-x^{41}+\sqrt{x^{7}+\sqrt{x^{5}+\sqrt{x^{3}+x}}}"),
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


def bare_seconds(items: list[Item]) -> float:
    started = time.perf_counter()
    for item in items:
        gold = parse(f"${item.gold}$", parsing_timeout=None)
        verify(gold, parse(item.text, parsing_timeout=None), timeout_seconds=None)
    return time.perf_counter() - started


def our_seconds(worker: VerifierWorker, items: list[Item], batch_size: int) -> tuple[float, float]:
    """(seconds until every item was looked at, seconds until the slow ones were done too)."""
    started = time.perf_counter()
    num_judged = 0
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
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    rng = random.Random(0)
    items = ordinary_items(options.num, rng)
    mixed = with_hanging(items, options.hanging, rng)
    cfg = VerifyConfig(deadline_s=DEADLINE_S)
    worker = VerifierWorker(cfg.model_dump())
    bare_seconds(items[:100])
    our_seconds(worker, items[:100], cfg.batch_size)
    times = [
        (
            bare_seconds(items),
            our_seconds(worker, items, cfg.batch_size)[1],
            *our_seconds(worker, mixed, cfg.batch_size),
        )
        for _ in range(options.rounds)
    ]
    worker.close()
    bare, ours, *hanging = (
        options.num / statistics.median(column) for column in zip(*times, strict=True)
    )
    num_hanging = sum(a is not b for a, b in zip(items, mixed, strict=True))
    alarmed = options.num / (options.num / bare + num_hanging * DEADLINE_S)
    show(bare, ours, (hanging[0], hanging[1]), alarmed, options.hanging)


def show(
    bare: float, ours: float, mixed: tuple[float, float], alarmed: float, share: float
) -> None:
    hanging, drained = mixed
    table = Table("", "items/s", "of the bare loop")
    table.add_row("bare loop, ordinary answers", f"{bare:.0f}", "1.00")
    table.add_row("virgo_ray, ordinary answers", f"{ours:.0f}", f"{ours / bare:.2f}")
    table.add_row(f"virgo_ray, {share:.0%} hanging", f"{hanging:.0f}", f"{hanging / bare:.2f}")
    table.add_row("  with the last ones' deadline", f"{drained:.0f}", f"{drained / bare:.2f}")
    table.add_row(f"bare loop, {share:.0%} hanging", "0", "stops dead")
    table.add_row(
        f"  the same with a {DEADLINE_S:g} s alarm", f"{alarmed:.1f}", f"{alarmed / bare:.2f}"
    )
    Console().print(table)


if __name__ == "__main__":
    main()
