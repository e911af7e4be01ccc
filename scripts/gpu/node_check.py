"""Runs the rows of docs/gpu-checks.md that fit a node and writes the results into its table.

    scripts/gpu_check.sh [NUM_GPUS] [NAME ...]

A row fits if the number in its GPUs column is at most that of the node; rows for several nodes, or
by hand, have no number alone there. Each command runs in bash from the top of the checkout with
what the page calls T, ONE, BF and RUNS set. Its output goes to `$RUNS/<name>.log`. A row passes if
its command ends with 0 and the GPUs' memory is free again afterwards. The exit code is 1 if a row
that ran did not pass.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).parents[2]
PAGE = TOP / "docs" / "gpu-checks.md"
HEAD = "| name | GPUs | what | command | seen |"
ABBREVIATIONS = re.compile(r"^- `(?P<name>[A-Z]+)`:\s+`(?P<value>[^`]+)`$", re.MULTILINE)
DEADLINE_S = 6 * 3600
TIMED_OUT = 124  # what coreutils' timeout ends with
PACKAGES = ("torch", "vllm", "deepspeed")
LEFT_MIB = 500  # more than this above what was used before is memory that was not freed
PATIENCE_S = 60.0  # for processes to end and give their memory back


@dataclass(frozen=True)
class Check:
    """A row of the table; `line` is its number in the page."""

    name: str
    num_gpus: int | None  # None: by hand
    command: str
    line: int


def main(argv: Sequence[str], page: Path = PAGE) -> int:
    num_gpus, names = int(argv[0]), argv[1:]
    text = page.read_text()
    checks = read_checks(text)
    if unknown := set(names) - {check.name for check in checks}:
        print(f"no row is called {sorted(unknown)}; {page} has {[c.name for c in checks]}")
        return 2
    runs = TOP / "runs" / f"gpu-checks-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    runs.mkdir(parents=True)
    environment = read_abbreviations(text) | {"RUNS": str(runs)}
    failed = False
    for check in checks:
        if names and check.name not in names:
            continue
        if check.num_gpus is None or check.num_gpus > num_gpus:
            needs = "is run by hand" if check.num_gpus is None else f"needs {check.num_gpus} GPUs"
            print(f"{check.name}: {needs}")
            continue
        print(f"{check.name}: {check.command}", flush=True)
        problem, seconds, peak_mib = run(check, environment, runs / f"{check.name}.log")
        failed = failed or bool(problem)
        seen = describe(problem, seconds, peak_mib)
        write_seen(page, check, seen)
        print(f"  {seen}", flush=True)
    return int(failed)


# -- the page --------------------------------------------------------------------------------------


def read_checks(text: str) -> list[Check]:
    """The rows below the table's head.

    >>> read_checks(f"{HEAD}\\n|---|---|---|---|---|\\n| a | 2 | it runs | `true` | not run |\\n")
    [Check(name='a', num_gpus=2, command='true', line=2)]
    """
    lines = text.splitlines()
    first = lines.index(HEAD) + 2
    checks = []
    for number, line in enumerate(lines[first:], first):
        if not line.startswith("|"):
            break
        name, gpus, _, command, _ = (cell.strip() for cell in line.strip("|").split("|"))
        num_gpus = int(gpus) if gpus.isdigit() else None
        checks.append(Check(name, num_gpus, command.strip("`"), number))
    return checks


def read_abbreviations(text: str) -> dict[str, str]:
    """What the page's list says that `$T` and the others stand for.

    >>> read_abbreviations("- `T`: `scripts/run.sh --gpu configs/tiny.yaml`\\n")
    {'T': 'scripts/run.sh --gpu configs/tiny.yaml'}
    """
    return {m["name"]: m["value"] for m in ABBREVIATIONS.finditer(text)}


def write_seen(page: Path, check: Check, seen: str) -> None:
    """Replace the last cell of the row; the page is read anew, as others may have changed it."""
    lines = page.read_text().splitlines(keepends=True)
    kept = lines[check.line].rstrip().rstrip("|").rpartition("|")[0]
    if not kept.startswith(f"| {check.name} |"):
        raise SystemExit(f"line {check.line + 1} of {page} is no longer the row {check.name!r}")
    lines[check.line] = f"{kept}| {seen.replace('|', '/')} |\n"
    page.write_text("".join(lines))


# -- a row -----------------------------------------------------------------------------------------


def run(check: Check, environment: dict[str, str], log: Path) -> tuple[str, float, int | None]:
    """(what went wrong or nothing, seconds, most memory used by a GPU in MiB)."""
    before = used_mib()
    began = time.monotonic()
    with log.open("w") as sink, sampled_memory() as sampled:
        # `timeout` signals the whole process group, not bash alone.
        code = subprocess.run(
            ["timeout", "--kill-after=60", str(DEADLINE_S), "bash", "-c", check.command],
            cwd=TOP, env=os.environ | environment, stdout=sink, stderr=subprocess.STDOUT,
            check=False,
        ).returncode  # fmt: skip
    seconds = time.monotonic() - began
    peak = max(sampled.values, default=None)
    if code == TIMED_OUT:
        return f"not done in {DEADLINE_S} s, see {log}", seconds, peak
    if code:
        tail = " ".join(log.read_text(errors="replace").strip().splitlines()[-1:])
        return f"exit code {code}: {tail[:120]}, see {log}", seconds, peak
    left = memory_left(before)
    return f"{left} MiB of GPU memory were not given back" if left else "", seconds, peak


def describe(problem: str, seconds: float, peak_mib: int | None) -> str:
    """The last cell: date, card, versions, result."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    result = f"FAILED: {problem}" if problem else f"passed in {seconds:.0f} s"
    peak = "" if peak_mib is None else f", at most {peak_mib / 1024:.0f} GiB used"
    return f"{datetime.date.today()}, {cards()}, {versions}: {result}{peak}"


def cards() -> str:
    names = query("name")
    kinds = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return " and ".join(kinds) or "no GPU"


def used_mib() -> list[int]:
    return [int(value) for value in query("memory.used")]


def query(what: str) -> list[str]:
    """One value per GPU of `nvidia-smi --query-gpu`; nothing where there is no such program."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        return []
    return done.stdout.strip().splitlines()


def memory_left(before: Sequence[int]) -> int:
    """MiB above `before` that some GPU still holds when the patience is over, or 0."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        left = max((now - then for now, then in zip(used_mib(), before, strict=True)), default=0)
        if left <= LEFT_MIB:
            return 0
        if time.monotonic() > deadline:
            return left
        time.sleep(2)


@dataclass
class Sampled:
    values: list[int] = field(default_factory=list)


@contextmanager
def sampled_memory() -> Iterator[Sampled]:
    """Inside, the memory of the fullest GPU is noted every two seconds."""
    sampled, is_over = Sampled(), threading.Event()

    def sample() -> None:
        while not is_over.wait(2.0):
            sampled.values += [max(used, default=0)] if (used := used_mib()) else []

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield sampled
    finally:
        is_over.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
