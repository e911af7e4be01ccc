"""How long a report takes to write, to write on, and to open in a browser.

    python scripts/bench_report.py [--rollouts 4000] [--tokens 300] [--open 100000] [--dir PATH]

A run directory of five rounds is made without sampling anything. Its report is written whole, then
once more after a round of a twentieth of it was added, which is what a run has written after each.
Then the columns of as many rollouts as `--open` says take the place of its own, with the texts of
one page in each round, and Chromium opens the overview, lists, and one problem, from disk. What it
loads does not depend on the texts that nobody opens. Without a browser those rows are left out.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from PIL import Image
from rich.console import Console
from rich.table import Table

from virgo_ray.config import load_config
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import FitReport, Judged, Problem, Rollout, Status, Verdict, Weights
from virgo_ray.report.pages import Folder, read_data
from virgo_ray.report.rollouts import write_columns
from virgo_ray.report.writing import Written, write_report
from virgo_ray.stats.tally import tally
from virgo_ray.store.buffer import ReplayBuffer

REPO = Path(__file__).parents[1]
CHROMIUM = os.environ.get("VIRGO_RAY_CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--enable-precise-memory-info"]
NUM_ROUNDS = 5
NUM_SAMPLES = 8
NUM_PICTURES = 200
OPEN_DEADLINE_MS = 300_000
STATUSES = (Status.CORRECT, Status.WRONG, Status.WRONG, Status.TRUNCATED)
VIEWS = {
    "overview": "#/overview",
    "traces of the newest round": "#/traces",
    "traces of all rounds": "#/traces?round=all",
    "wrong ones, longest first": "#/traces?round=all&status=wrong&sort=longest",
    "hardest problems": "#/problems",
    "one problem": "#/trace?round=1&id=p0000003&s=2",
}


def main() -> None:
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="bench_report_", dir=options.dir))
    try:
        rows = [*measure(folder, options)]
    finally:
        shutil.rmtree(folder)
    table = Table(title=f"{options.rollouts:,} rollouts of {options.tokens} tokens")
    for name in ("what", "seconds", "remark"):
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def measure(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    run, num, tokens = folder / "run", options.rollouts, options.tokens
    pictures = draw_pictures(folder)
    cfg = load_config(str(REPO / "configs/tiny.yaml"), [f"run_dir={run}"])
    ledger = Ledger.open(cfg, Weights(0, "base"))
    buffer = ReplayBuffer.open(run, owner=ledger.wandb_id)
    for t in range(NUM_ROUNDS):
        add_round(ledger, buffer, t, num // (NUM_ROUNDS - 1) if t else 0, tokens, pictures)
    seconds, written = timed(lambda: write_report(run))
    files = [path for path in written.page.parent.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    yield "write all", f"{seconds:.1f}", f"{len(files):,} files, {size:,.0f} MB"
    add_round(ledger, buffer, NUM_ROUNDS, num // 20, tokens, pictures)
    ledger.close()
    seconds, written = timed(lambda: write_report(run))
    yield "write on", f"{seconds:.1f}", f"a round of {num // 20:,}, {written.num_files} files"
    if not Path(CHROMIUM).exists():
        return
    for many in options.open:
        seconds, size = grow(Folder(written.page.parent), many)
        yield f"write columns of {many:,}", f"{seconds:.1f}", f"{size:,.0f} MB"
        yield from open_views(written.page)


def grow(folder: Folder, num: int) -> tuple[float, float]:
    """Put `num` rollouts in the place of those of the report; seconds, and MB of columns."""
    run = read_data(folder.root, "run")
    began, size = time.monotonic(), 0
    for label, own in run["stored"].items():
        columns = draw_columns(num // len(run["stored"]), random.Random(label))
        known = write_columns(folder, own["folder"], columns, {}, {})
        places = (folder.root / "data" / own["folder"]).glob("[rp]*.js")
        size += sum(path.stat().st_size for path in places)
        whole = {"pages": own["pages"][:1], "written": own["rows"], "has_pictures": True}
        run["stored"][label] = {**known, **whole}
    folder.put("run", run)
    return time.monotonic() - began, size / 1e6


def draw_columns(num: int, rng: random.Random) -> pa.Table:
    places = [(n // NUM_SAMPLES, n % NUM_SAMPLES) for n in range(num)]
    return pa.table(
        {
            "problem_id": [f"p{place:07d}" for place, _ in places],
            "sample_index": [sample for _, sample in places],
            "status": rng.choices(STATUSES, k=num),
            "num_tokens": [rng.randrange(100, 9000) for _ in places],
            "source": [f"s{place % 9}" for place, _ in places],
            "opinions": ["{}"] * num,
        }
    )


def open_views(page: Path) -> Iterator[tuple[str, str, str]]:
    """Each in a tab of its own, so that nothing is loaded yet."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, place in VIEWS.items():
            tab = browser.new_page()
            began = time.monotonic()
            tab.goto(page.as_uri() + place)
            tab.wait_for_selector(".view[data-ready]", timeout=OPEN_DEADLINE_MS)
            seconds = time.monotonic() - began
            heap = tab.evaluate("performance.memory.usedJSHeapSize") / 1e6
            yield f"open: {name}", f"{seconds:.2f}", f"{heap:,.0f} MB of JavaScript"
            tab.close()
        browser.close()


def timed(do: Callable[[], Written]) -> tuple[float, Written]:
    began = time.monotonic()
    made = do()
    return time.monotonic() - began, made


def add_round(
    ledger: Ledger, buffer: ReplayBuffer, t: int, num: int, tokens: int, pictures: list[str]
) -> None:
    for judged in rollouts(t, num, tokens, pictures):
        buffer.add(t, judged)
    ledger.commit_tally(t, buffer.seal(), tally(buffer.rows(t)))
    fit = FitReport(Weights(t + 1, f"w{t}"), 1, 1, 1, 1, 2.0, 1.0, 1.0)
    ledger.commit_fit(t, fit)


def rollouts(t: int, num: int, tokens: int, pictures: list[str]) -> Iterator[Judged]:
    rng = random.Random(t)
    words = [f"word{n}" for n in range(2000)]
    ids = tuple(range(tokens))
    for n in range(num):
        place = n // NUM_SAMPLES
        picture = pictures[place % len(pictures)]
        problem = Problem(
            f"p{place:07d}", f"How many of {place}?", "7", (picture,), f"s{place % 9}"
        )
        text = " ".join(rng.choices(words, k=tokens * 2 // 3))
        thought = f"<think>\n{text}\n</think>\nThe answer is 7."
        rollout = Rollout(problem, n % NUM_SAMPLES, thought, ids, "stop", t, {"temperature": 1.0})
        yield Judged(rollout, Verdict(rng.choice(STATUSES), "7", "boxed", verifier_version="1"))


def draw_pictures(folder: Path) -> list[str]:
    paths = [folder / f"{n}.png" for n in range(NUM_PICTURES)]
    for path in paths:
        Image.effect_noise((640, 480), 60).save(path)
    return [str(path) for path in paths]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=300, help="of each thought")
    parser.add_argument(
        "--open", type=int, nargs="+", default=[100_000], help="rollouts of the report to open"
    )
    parser.add_argument("--dir", help="where to make the run (default: the temporary directory)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
