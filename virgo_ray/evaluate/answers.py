"""What was answered, one JSON line each, appended as it is judged: an evaluation that is stopped
loses nothing, and nothing is asked twice.

A line cut off by a crash is left out and its answer asked again. An answer belongs to its problem
as it was asked: one that has changed since is an error, not another problem's answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from virgo_ray.errors import DataError
from virgo_ray.metrics import JsonlSink
from virgo_ray.records import Judged, Opinion, Problem, Status

GREEDY, SAMPLED = "greedy", "sampled"
RULES, JUDGE, NOBODY = "rules", "judge", "nobody"

Key = tuple[str, str, int]  # problem id, how, sample


@dataclass(frozen=True)
class Answer:
    """One judged response without its text. `id` is the benchmark's name, a slash, the problem's.

    `status` is what the rules said; `is_correct` is the decision, and `decided_by` who made it:
    rules, judge, or nobody where the rules failed and no judge was asked or had an opinion.
    """

    id: str
    how: str
    sample: int
    problem_hash: str
    status: Status
    answer: str
    num_tokens: int
    guess_chance: float
    is_correct: bool
    decided_by: str

    @property
    def key(self) -> Key:
        return (self.id, self.how, self.sample)


FIELDS = frozenset(field.name for field in fields(Answer))


class AnswerFile:
    """The answers of one model in `path`, those of earlier starts included."""

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        """
        Raises:
            DataError: a problem of these has changed since it was answered.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        hashes = {problem.id: problem_hash(problem) for problem in problems}
        self._hashes = hashes
        self._known = {
            answer.key: answer
            for answer, _ in stored(path)
            if answer.id in hashes and _is_same(answer, hashes[answer.id], path)
        }
        self._sink = JsonlSink(path)

    def __contains__(self, key: Key) -> bool:
        return key in self._known

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._known.values())

    def add(self, how: str, judged: Judged) -> None:
        """Keep it, on disk first."""
        answer = answer_of(how, judged, self._hashes[judged.rollout.problem.id])
        verdict, rollout = judged.verdict, judged.rollout
        more: dict[str, Any] = {
            "rule": verdict.rule, "reason": verdict.reason,
            "finish_reason": rollout.finish_reason, "seconds": round(rollout.seconds, 3),
            "verifier_version": verdict.verifier_version, "text": rollout.text,
        }  # fmt: skip
        if "judge" in verdict.opinions:
            second = verdict.opinions["judge"]
            more["judge"] = f"{second.opinion}: {second.reason}"
        self._sink.write({**asdict(answer), **more})
        self._known[answer.key] = answer

    def texts(self) -> dict[str, str]:
        """Problem id -> the greedy response, or the first sample where there is none."""
        shown: dict[str, str] = {}
        for answer, row in stored(self._path):
            if answer.sample == 0 and (answer.how == GREEDY or answer.id not in shown):
                shown[answer.id] = row["text"]
        return shown

    def close(self) -> None:
        self._sink.close()


def stored(path: Path) -> Iterator[tuple[Answer, Mapping[str, Any]]]:
    """Every whole line of a file of answers, and all its fields."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
                answer = Answer(**{k: row[k] for k in FIELDS} | {"status": Status(row["status"])})
            except (ValueError, KeyError, TypeError):  # cut off; asked again
                continue
            yield answer, row


def answer_of(how: str, judged: Judged, hash: str) -> Answer:
    """The decision on one response: the rules', unless the judge was asked and had an opinion."""
    verdict, rollout = judged.verdict, judged.rollout
    second = verdict.opinions.get("judge")
    is_correct = verdict.is_correct
    decided_by = NOBODY if verdict.status.is_failure_to_judge else RULES
    if second is not None and second.opinion is not Opinion.UNKNOWN:
        is_correct, decided_by = second.opinion is Opinion.AGREES, JUDGE
    return Answer(
        id=rollout.problem.id,
        how=how,
        sample=rollout.sample_index,
        problem_hash=hash,
        status=verdict.status,
        answer=verdict.answer,
        num_tokens=len(rollout.token_ids),
        guess_chance=verdict.guess_chance,
        is_correct=is_correct,
        decided_by=decided_by,
    )


def problem_hash(problem: Problem) -> str:
    """Of what is asked and what counts as right; pictures by the end of their paths."""
    images = ["/".join(Path(path).parts[-2:]) for path in problem.images]
    parts = [
        problem.question, problem.context, list(problem.options), problem.answer,
        problem.answer_type, images,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _is_same(answer: Answer, hash: str, path: Path) -> bool:
    if answer.problem_hash != hash:
        raise DataError(
            f"problem {answer.id!r} has changed since {path} was written; expected the same "
            "question, options, answer and pictures: choose another directory with --out"
        )
    return True
