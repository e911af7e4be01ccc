"""One problem's rollouts in a round, or one of them whole: question, pictures, verdict, text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from virgo_ray.errors import TraceStoreError
from virgo_ray.model.prompts import option_lines
from virgo_ray.records import Judged, Rollout, Verdict
from virgo_ray.store.reader import TraceReader
from virgo_ray.traces.table import print_table, printable

Found = tuple[Judged, list[Verdict]]


def find(reader: TraceReader, round: int, problem_id: str, sample: int | None) -> list[Found]:
    """Raises TraceStoreError where there is no such rollout, with what is there instead."""
    found = reader.find(round, problem_id, sample)
    if found:
        return found
    others = [j.rollout.sample_index for j, _ in reader.find(round, problem_id)]
    if others:
        hint = f"this problem has samples {others} in round {round}"
    else:
        hint = f"rounds {reader.rounds()} are stored; `stats` counts them"
    raise TraceStoreError(
        f"there is no rollout of round {round}, problem {problem_id!r}"
        + (f", sample {sample}" if sample is not None else "")
        + f"; {hint}"
    )


def as_json(found: Sequence[Found], round: int) -> list[dict[str, object]]:
    return [
        {
            "round": round,
            **asdict(judged.rollout),
            "logprobs": list(judged.rollout.logprobs),
            "verdict": asdict(judged.verdict),
            "old_verdicts": [asdict(v) for v in old],
        }
        for judged, old in found
    ]


def print_rollouts(console: Console, found: Sequence[Found], round: int) -> None:
    problem = found[0][0].rollout.problem
    lines = [
        f"problem   {problem.id}   source {problem.source}   round {round}",
        *(f"image     {path}{_missing(path)}" for path in problem.images),
        *([f"context   {problem.context}"] if problem.context else []),
        f"question  {problem.question}",
        *(f"          {line}" for line in option_lines(problem.options)),
        f"gold      {problem.answer} ({problem.answer_type})",
    ]
    say(console, "\n".join(lines) + "\n")
    if len(found) > 1:
        _print_list(console, found)
    else:
        _print_one(console, *found[0])


def _print_list(console: Console, found: Sequence[Found]) -> None:
    rows = [
        (j.rollout.sample_index, str(j.verdict.status), j.verdict.answer[:40], j.verdict.rule,
         len(j.rollout.token_ids), j.rollout.finish_reason)
        for j, _ in found
    ]  # fmt: skip
    columns = ["sample", "status", "answer", "rule", "tokens", "finish"]
    print_table(console, "samples (name one to read it)", columns, rows)


def _print_one(console: Console, judged: Judged, old: Sequence[Verdict]) -> None:
    rollout = judged.rollout
    length = f"{len(rollout.token_ids)} tokens in {rollout.seconds:.1f} s"
    say(
        console,
        f"sample    {rollout.sample_index}   {_writer(rollout)}   "
        f"{length}   finish {rollout.finish_reason}\nverdict   {_verdict(judged.verdict)}",
    )
    for verdict in reversed(old):
        say(console, f"before    {_verdict(verdict)}")
    say(console, "\n" + rollout.text)


def _writer(rollout: Rollout) -> str:
    teacher = rollout.sampling.get("teacher")
    return f"teacher {teacher}" if teacher else f"weights v{rollout.weights_version:04d}"


def _verdict(verdict: Verdict) -> str:
    found = f"answer {verdict.answer!r} by rule {verdict.rule}" if verdict.answer else "no answer"
    reason = f"; {verdict.reason}" if verdict.reason else ""
    return f"{verdict.status}: {found}{reason} (verifier {verdict.verifier_version or '?'})"


def say(console: Console, text: str) -> None:
    """Foreign text as it is: no markup, no control characters, no wrapping."""
    console.print(printable(text), markup=False, soft_wrap=True)


def _missing(path: str) -> str:
    return "" if Path(path).is_file() else "   (no such file any more)"
