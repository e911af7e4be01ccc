"""The answers of an evaluation, one JSON line each, appended as they are judged.

An evaluation that is stopped loses nothing, and nothing is asked twice. A line cut off by a crash
is left out and its answer asked again. An answer belongs to its problem as it was asked: a problem
that has changed since is an error. A line survives the death of the process as soon as it is added;
what a power cut takes is asked again. Text and token ids are never held in memory: `rows` reads
them again from the file, one answer at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from virgo_ray.errors import DataError, TraceStoreError
from virgo_ray.files import disk_errors, draft_of, remove_drafts
from virgo_ray.monitor.metrics import has_torn_end
from virgo_ray.records import Judged, Opinion, Problem, Request, Rollout, Status

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

    def __init__(
        self, path: Path, problems: Sequence[Problem], has_token_ids: bool = False
    ) -> None:
        """`has_token_ids`: the sampled tokens are kept too, not only their number.

        Raises:
            DataError: a problem of these has changed since it was answered.
            TraceStoreError: the file system refused.
        """
        self._path = path
        self._hashes = {problem.id: problem_hash(problem) for problem in problems}
        self._has_token_ids = has_token_ids
        self._known: dict[Key, Answer] = {}
        for answer, _ in self._own_rows():
            self._known.setdefault(answer.key, answer)
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - held until close
            if has_torn_end(path):
                self._file.write(b"\n")

    def __contains__(self, key: Key) -> bool:
        return key in self._known

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def add(self, judged: Judged) -> None:
        """Keep it, on disk first.

        Raises:
            TraceStoreError: the file system refused; what was added before is kept.
        """
        answer = decide_answer(judged, self._hashes[judged.rollout.problem.id])
        verdict, rollout = judged.verdict, judged.rollout
        more: dict[str, Any] = {
            "rule": verdict.rule, "reason": verdict.reason,
            "finish_reason": rollout.finish_reason, "seconds": round(rollout.seconds, 3),
            "verifier_version": verdict.verifier_version, "text": rollout.text,
        }  # fmt: skip
        if self._has_token_ids:
            more["token_ids"] = rollout.token_ids
        if "judge" in verdict.opinions:
            second = verdict.opinions["judge"]
            more["judge"] = f"{second.opinion}: {second.reason}"
        self._append({**asdict(answer), **more})
        self._known[answer.key] = answer

    def rows(self) -> Iterator[tuple[Answer, Mapping[str, Any]]]:
        """Every answer once, with all its fields, as they come from the file."""
        seen: set[Key] = set()
        for answer, row in self._own_rows():
            if answer.key not in seen:
                seen.add(answer.key)
                yield answer, row

    def forget(self, is_forgotten: Callable[[Answer], bool]) -> None:
        """Write the file anew without these answers to these problems: they will be asked again.

        Raises:
            TraceStoreError: the file system refused; nothing is forgotten.
        """
        forgotten = {answer.key for answer in self if is_forgotten(answer)}
        if not forgotten:
            return
        with write_errors(self._path):
            remove_drafts(self._path)
            with draft_of(self._path) as draft, open(draft, "w", encoding="utf-8") as file:
                for answer, row in read_answers(self._path):
                    if answer.key not in forgotten:
                        file.write(json.dumps(row) + "\n")
            self._file.close()
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - as above
        self._known = {key: a for key, a in self._known.items() if key not in forgotten}

    def texts(self) -> dict[str, str]:
        """Problem id -> the greedy response, or the first sample where there is none."""
        shown: dict[str, str] = {}
        for answer, row in read_answers(self._path):
            if answer.sample == 0 and (answer.how == GREEDY or answer.id not in shown):
                shown[answer.id] = row["text"]
        return shown

    def sync(self) -> None:
        """Force it to the disk, so that figures committed after this never lack their answers.

        Raises:
            TraceStoreError: the file system refused.
        """
        with write_errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _own_rows(self) -> Iterator[tuple[Answer, Mapping[str, Any]]]:
        """Of these problems; others may have been asked here too."""
        for answer, row in read_answers(self._path):
            hash = self._hashes.get(answer.id)
            is_whole = "token_ids" in row or not self._has_token_ids
            if hash is not None and is_whole and _is_same(answer, hash, self._path):
                yield answer, row

    def _append(self, row: Mapping[str, Any]) -> None:
        """Straight to the operating system; on a full disk a part of the line may be left."""
        line = memoryview((json.dumps(row) + "\n").encode())
        with write_errors(self._path):
            while line:
                line = line[self._file.write(line) :]


def write_errors(path: Path) -> AbstractContextManager[None]:
    """Turn what the file system refuses into a TraceStoreError that says what is kept."""
    what = f"{path} could not be written"
    return disk_errors(TraceStoreError, what, "what was answered before is kept")


def read_answers(path: Path) -> Iterator[tuple[Answer, Mapping[str, Any]]]:
    """Every whole line of a file of answers, and all its fields, `text` among them."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                answer = Answer(**{k: row[k] for k in FIELDS} | {"status": Status(row["status"])})
                is_whole = isinstance(row["text"], str)
            except (ValueError, KeyError, TypeError):  # cut off; asked again
                continue
            if is_whole:
                yield answer, row


def key_of(asked: Request | Rollout) -> Key:
    """Under which key the answer to a request is kept: that follows from the request alone."""
    return (asked.problem.id, GREEDY if asked.is_greedy else SAMPLED, asked.sample_index)


def decide_answer(judged: Judged, hash: str) -> Answer:
    """The decision on one response: the rules', unless the judge was asked and had an opinion."""
    verdict, rollout = judged.verdict, judged.rollout
    second = verdict.opinions.get("judge")
    is_correct = verdict.is_correct
    decided_by = NOBODY if verdict.status.is_failure_to_judge else RULES
    if second is not None and second.opinion is not Opinion.UNKNOWN:
        is_correct, decided_by = second.opinion is Opinion.AGREES, JUDGE
    id, how, sample = key_of(rollout)
    return Answer(
        id=id,
        how=how,
        sample=sample,
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
