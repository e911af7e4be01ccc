"""Judge fresh verdict cases of every kind, and say where the verifier is wrong.

    python scripts/check_verdicts.py [--seed 1] [--num 60] [--kind SUBSTRING] [FILE.jsonl]

The cases are drawn by `tests/verify/verdict_kinds.py`; a file of rows `prediction, gold, expected,
kind` (and perhaps `choices`) takes their place. A right answer is as expected when the verdict is
correct; a wrong one when it is neither correct nor a timeout. The command prints the rows that are
not as expected and a table of kinds. It ends with exit code 1 when a kind has less than 95 % of
its rows as expected, or when any wrong answer was called correct.

`--prose N` judges N answers of plain prose, as models end without an answer, and prints the items
per second.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "verify"))

import verdict_kinds

from virgo_ray.config import VerifyConfig
from virgo_ray.records import Status
from virgo_ray.verify.item import Item
from virgo_ray.verify.process.killable import KillableJudge

LEAST_SHARE = 0.95
COLUMNS = ("rows", "as expected", "false CORRECT", "false WRONG", "NO_ANSWER", "TIMEOUT", "ERROR")
OPENINGS = (
    "To solve this problem we look at the relationship between the two quantities",
    "Let us think about what the diagram shows",
    "I hope this explanation helps you",
    "In summary, the area depends on the side lengths and on the angle between them",
    "The graph increases first and then levels off",
    "Please provide the missing image so that I can help you further",
)
MIDDLES = (
    "as described in step 3",
    "where the line through the center meets the circle",
    'which the caption calls "the second case"',
    "since the speed_of_light_in_vacuum does not change",
    "and the colors of the objects do not matter here",
    "(see the left panel, rows 2 to 5)",
)
ENDINGS = (
    "and that is why the value has to be determined from the figure.",
    "so feel free to ask if anything is still unclear!",
    "because the small metal objects are behind the large rubber ones.",
    "which follows from the theorem about similar triangles.",
    "and more information would be needed to go on from here.",
)
PROSE_GOLDS = ("2417", "-0.875", r"\frac{19}{23}", r"3\sqrt{7}", "x^2-5x+1", r"\frac{2\pi}{9}")


class Judge(Protocol):
    def judge(self, items: list[Item]) -> Any: ...


def judge_rows(rows: list[dict[str, Any]], judge: Judge) -> list[Any]:
    """The verdict of every row, in order."""
    items = [
        Item(gold=row["gold"], text=row["prediction"], options=tuple(row.get("choices") or ()))
        for row in rows
    ]
    verdicts = dict(judge.judge(items))
    return [verdicts[i] for i in range(len(rows))]


def fault(expected: bool, status: Status) -> str:
    """The column that a verdict belongs to.

    >>> fault(False, Status.CORRECT), fault(False, Status.NO_ANSWER), fault(True, Status.NO_ANSWER)
    ('false CORRECT', 'as expected', 'NO_ANSWER')
    """
    if status is Status.CORRECT:
        return "as expected" if expected else "false CORRECT"
    if not expected and status is not Status.TIMEOUT:
        return "as expected"
    return "false WRONG" if status is Status.WRONG else status.name


def count_faults(rows: list[dict[str, Any]], verdicts: list[Any]) -> dict[str, Counter[str]]:
    """Per kind, how many rows fall into each column."""
    counts: dict[str, Counter[str]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        kind = counts.setdefault(row["kind"], Counter())
        kind["rows"] += 1
        kind[fault(bool(row["expected"]), verdict.status)] += 1
    return counts


def is_good(counts: dict[str, Counter[str]]) -> bool:
    """No false CORRECT, and every kind has its share of rows as expected."""
    return all(
        not c["false CORRECT"] and c["as expected"] >= LEAST_SHARE * c["rows"]
        for c in counts.values()
    )


def print_faults(rows: list[dict[str, Any]], verdicts: list[Any]) -> None:
    for row, verdict in zip(rows, verdicts, strict=True):
        column = fault(bool(row["expected"]), verdict.status)
        if column != "as expected":
            answer = f"{row['prediction']!r:.140} | gold {row['gold']!r:.60}"
            print(f"{column:13} {answer} | read {verdict.answer!r:.40} {verdict.reason:.60}")


def print_table(counts: dict[str, Counter[str]]) -> None:
    table = Table("kind", *COLUMNS)
    total: Counter[str] = Counter()
    for kind, count in counts.items():
        total += count
        table.add_row(kind, *(str(count[column]) for column in COLUMNS))
    table.add_section()
    table.add_row("all", *(str(total[column]) for column in COLUMNS))
    Console(width=130).print(table)


def check(rows: list[dict[str, Any]], judge: Judge) -> int:
    """The exit code after judging the rows and printing what is wrong."""
    verdicts = judge_rows(rows, judge)
    counts = count_faults(rows, verdicts)
    print_faults(rows, verdicts)
    print_table(counts)
    return 0 if counts and is_good(counts) else 1


def prose_rows(num: int, seed: int) -> list[dict[str, Any]]:
    """Answers of prose that state no result, bare and in boxes; none is right."""
    rng = random.Random(seed)
    parts = (OPENINGS, MIDDLES, ENDINGS)
    texts = (", ".join(map(rng.choice, parts)) for _ in range(num))
    frames = ("@", "The first step is clear.\n\n@", r"\boxed{@}", r"\boxed{\text{@}}", "Answer: @")
    return [
        {
            "prediction": rng.choice(frames).replace("@", text),
            "gold": rng.choice(PROSE_GOLDS),
            "expected": False,
            "kind": "prose",
        }
        for text in texts
    ]


def check_prose(num: int, seed: int, judge: Judge) -> int:
    """The exit code after judging prose; the start of the first process is not timed."""
    rows = prose_rows(num, seed)
    judge_rows([{"prediction": "1", "gold": "1"}], judge)
    started = time.perf_counter()
    verdicts = judge_rows(rows, judge)
    seconds = time.perf_counter() - started
    statuses = Counter(verdict.status.name for verdict in verdicts)
    print(f"prose: {num / seconds:.0f} items/s, {dict(statuses)}")
    return 0 if is_good(count_faults(rows, verdicts)) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="rows to judge instead of drawn ones")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other cases")
    parser.add_argument("--num", type=int, default=60, help="number of cases of each kind")
    parser.add_argument("--kind", default="", help="only kinds whose name contains this")
    parser.add_argument("--prose", type=int, default=0, help="judge this many answers of prose")
    args = parser.parse_args()
    judge = KillableJudge(VerifyConfig())
    try:
        if args.prose:
            return check_prose(args.prose, args.seed, judge)
        return check(_rows(args), judge)
    finally:
        judge.close()


def _rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    if args.file is None:
        return verdict_kinds.rows(args.seed, args.num, args.kind)
    rows = [json.loads(line) for line in args.file.read_text(encoding="utf-8").splitlines() if line]
    return [row for row in rows if args.kind.lower() in row.setdefault("kind", "").lower()]


if __name__ == "__main__":
    sys.exit(main())
