"""`python -m virgo_ray.verify FILE.jsonl [--out VERDICTS.jsonl] [key=value ...]`: judge a file,
print a table.

One JSON object a line: `prediction` (a whole response or a bare answer), `gold`, and optionally
`type` (one of AnswerType's values), `choices` (the options of a multiple choice) and `question`.
The verdicts are written one a line in the order of the input: `status`, `answer`, `rule`, `type`,
`ms`, `reason`, and `opinions` where second opinions were asked for. The keys are those of a run's
`verify` section.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from virgo_ray.command import exit_code
from virgo_ray.config import VerifyConfig, describe_keys, parse_section
from virgo_ray.errors import ConfigError, DataError
from virgo_ray.files import disk_errors
from virgo_ray.records import AnswerType, Verdict
from virgo_ray.verify.asking import check_verifier, stream_opinions
from virgo_ray.verify.item import Item
from virgo_ray.verify.opinions.llm_judge import LlmJudge
from virgo_ray.verify.process.killable import KillableJudge
from virgo_ray.verify.tally import VerdictTally

PROG = "python -m virgo_ray.verify"

# Other names for types in files that people already have.
ALIASES = {
    "": "auto",
    "multiple_choice": "choice",
    "mcq": "choice",
    "multi_choice": "choice",
    "yesno": "yes_no",
    "bool": "yes_no",
    "boolean": "yes_no",
    "string": "text",
    "short_text": "text",
    "float": "number",
    "integer": "number",
    "int": "number",
    "numeric": "number",
    "latex": "expression",
    "math": "expression",
    "vector": "matrix",
    "ordered_list": "list",
    "multi_part": "parts",
    "several_parts": "parts",
}


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    options = _parse(arguments, prog)
    return exit_code(lambda: judge_file(options))


def judge_file(options: argparse.Namespace) -> None:
    """Judge the file of the command line, print the table, write the verdicts."""
    overrides = [f"deadline_s={options.deadline}", *options.overrides]
    cfg = parse_section(VerifyConfig, overrides, "the command line")
    check_verifier(cfg)
    items = read_items(Path(options.file))
    with opened(options.out) as out:
        verdicts = judge_items(items, cfg)
        out.writelines(json.dumps(verdict_row(verdict)) + "\n" for verdict in verdicts)
    print_table(verdicts)


def opened(path: str | None) -> IO[str]:
    """The file to write to, opened before the work begins; nowhere without a path.

    Raises:
        ConfigError: it cannot be written.
    """
    with disk_errors(ConfigError, f"--out {path!r} cannot be written", way_out="name another"):
        return open(path or os.devnull, "w", encoding="utf-8")


def _parse(arguments: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog,
        description="Judge predictions against gold answers.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        f"  {prog} answers.jsonl --out verdicts.jsonl\n"
        f"  {prog} answers.jsonl custom=my_package.grading:grade\n"
        f"  {prog} answers.jsonl 'second_opinions=[steps,consistency]'\n"
        f"  {prog} answers.jsonl 'formats=[[<thought>,</thought>]]'\n\n"
        "keys (default): meaning\n" + describe_keys(VerifyConfig),
    )
    parser.add_argument(
        "file", help="JSON lines with prediction, gold and optionally type, choices"
    )
    parser.add_argument("--out", help="write one verdict a line to this file")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds per item (default 5)")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="set a key, see below")
    return parser.parse_intermixed_args(arguments)


def read_items(path: Path) -> list[Item]:
    """The items of a JSON lines file.

    Raises:
        DataError: with the row's number, where a row cannot be used; or there is none.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a file of JSON lines")
    try:
        # Not splitlines(): text of a model may hold other line separators inside a row.
        rows = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; expected JSON lines in UTF-8") from error
    items = [_item(row, f"{path}, row {n}") for n, row in enumerate(rows, 1) if row.strip()]
    if not items:
        raise DataError(f"{path} holds no rows; expected one JSON object a line")
    return items


def _item(line: str, where: str) -> Item:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is no JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict) or not {"prediction", "gold"} <= row.keys():
        raise DataError(f"{where} is {line[:80]!r}; expected an object with prediction and gold")
    for key in ("prediction", "gold"):
        if not isinstance(row[key], str | int | float | None) or (key, row[key]) == ("gold", None):
            raise DataError(f"{where}: {key}={row[key]!r:.60}; expected a text")
    if not isinstance(row.get("choices"), list | None):
        raise DataError(f"{where}: choices={row['choices']!r:.60}; expected a list of texts")
    name = str(row.get("type") or "").lower().replace(" ", "_").replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in set(AnswerType):
        known = ", ".join(AnswerType)
        raise DataError(f"{where} has the type {row['type']!r}; expected one of {known}")
    return Item(
        gold=str(row["gold"]),
        text="" if row["prediction"] is None else str(row["prediction"]),
        answer_type=name,
        options=tuple(str(option) for option in row.get("choices") or ()),
        question=str(row.get("question") or ""),
    )


def judge_items(items: Sequence[Item], cfg: VerifyConfig) -> list[Verdict]:
    judge = KillableJudge(cfg)
    try:
        pairs: Iterable[tuple[int, Verdict] | None] = judge.judge(items)
        if cfg.judge is not None:
            model = LlmJudge.of(cfg.judge)
            pairs = stream_opinions(
                model, cfg.judge.num_parallel, pairs, lambda index: items[index]
            )
        verdicts = dict(filter(None, pairs))
    finally:
        judge.close()
    return [verdicts[i] for i in range(len(items))]


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    row: dict[str, Any] = {
        "status": verdict.status.value,
        "answer": verdict.answer,
        "rule": verdict.rule,
        "type": verdict.answer_type.value,
        "ms": round(verdict.milliseconds, 3),
        "reason": verdict.reason,
    }
    if verdict.opinions:
        row["opinions"] = {
            name: {"opinion": second.opinion.value, "reason": second.reason}
            for name, second in verdict.opinions.items()
        }
    return row


def print_table(verdicts: Sequence[Verdict]) -> None:
    tally = VerdictTally()
    for verdict in verdicts:
        tally.add(verdict)
    metrics = tally.metrics()
    table = Table("status", "items", "share")
    for name, share in metrics.items():
        if name.startswith("share_") and share:
            table.add_row(
                name.removeprefix("share_"), f"{share * len(verdicts):.0f}", f"{share:.1%}"
            )
    table.add_section()
    table.add_row("all", str(len(verdicts)), "")
    table.add_section()
    num_correct = sum(verdict.is_correct for verdict in verdicts)
    for name, count in sorted(metrics.items()):
        if name.startswith("opinion_"):
            words = name.removeprefix("opinion_").replace("_", " ")
            table.add_row(words, f"{count:.0f}", f"{count / num_correct:.1%} of correct")
    console = Console()
    console.print(table)
    console.print(
        f"milliseconds per item: median {metrics['ms_p50']:.1f}, 95 % {metrics['ms_p95']:.1f}, "
        f"99 % {metrics['ms_p99']:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
