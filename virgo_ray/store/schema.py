"""What a row of the replay buffer holds, and how judged rollouts become rows and come back.

A row is enough to rebuild the problem, the rollout and the verdict, so traces can be re-graded or
exported without the data they came from. The schema's number is stored in the dataset; a new column
means a new number, and a step in `migrations.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa

from virgo_ray.model.images import image_hash
from virgo_ray.records import (
    AnswerType,
    Judged,
    Opinion,
    Problem,
    Rollout,
    SecondOpinion,
    Status,
    Verdict,
)

KEY = ("round", "problem_id", "sample_index")
# Of accepted texts; null where they were not taken, or not those of the words.
MEASURED_BY = "measured_by"  # the label of the measures, see selection/measuring.py
MEASURES = pa.schema(
    [
        (MEASURED_BY, pa.string()),
        ("fingerprint", pa.string()),
        ("num_reflections", pa.int32()),
        ("is_complete", pa.bool_()),
        ("has_thought", pa.bool_()),
        ("repetition", pa.float64()),
        ("signature", pa.binary()),
    ]
)
SCHEMA_KEY = b"virgo_ray_schema"
SCHEMA_VERSION = 5
SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("problem_id", pa.string()),
        ("sample_index", pa.int32()),
        ("status", pa.string()),
        ("weights_version", pa.int32()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("sampling", pa.string()),  # JSON
        ("seconds", pa.float64()),
        ("worker", pa.int32()),
        ("source", pa.string()),
        ("question", pa.string()),
        ("context", pa.string()),
        ("images", pa.list_(pa.string())),
        ("image_hash", pa.string()),
        ("options", pa.list_(pa.string())),
        ("gold", pa.string()),
        ("gold_type", pa.string()),
        ("answer", pa.string()),
        ("answer_type", pa.string()),
        ("rule", pa.string()),
        ("reason", pa.string()),
        ("verifier_version", pa.string()),
        ("guess_chance", pa.float64()),
        ("milliseconds", pa.float64()),
        ("old_verdicts", pa.string()),  # JSON list, the oldest first; see `replace_verdict`
        ("opinions", pa.string()),  # JSON: {"steps": ["doubts", "7 + 5 = 13, but it is 12"]}
        *MEASURES,
        ("logprobs", pa.list_(pa.float32())),  # null where there are none; see `Rollout`
    ],
    metadata={SCHEMA_KEY: str(SCHEMA_VERSION)},
)
ROLLOUT_COLUMNS = [name for name in SCHEMA.names if name not in MEASURES.names]


def to_row(round: int, judged: Judged) -> dict[str, object]:
    """A judged rollout as a row of ROLLOUT_COLUMNS."""
    rollout = judged.rollout
    problem = rollout.problem
    return {
        "round": round,
        "problem_id": problem.id,
        "sample_index": rollout.sample_index,
        "weights_version": rollout.weights_version,
        "text": rollout.text,
        "token_ids": rollout.token_ids,
        "num_tokens": len(rollout.token_ids),
        "finish_reason": rollout.finish_reason,
        "sampling": json.dumps(dict(rollout.sampling), sort_keys=True),
        "seconds": rollout.seconds,
        "worker": rollout.worker,
        "source": problem.source,
        "question": problem.question,
        "context": problem.context,
        "images": problem.images,
        "image_hash": _image_hash(problem.images),
        "options": problem.options,
        "gold": problem.answer,
        "gold_type": str(problem.answer_type),
        **verdict_fields(judged.verdict),
        "old_verdicts": "[]",
        "opinions": json.dumps(
            {k: [s.opinion, s.reason] for k, s in judged.verdict.opinions.items()}
        ),
        "logprobs": rollout.logprobs or None,
    }


def to_problem(row: Mapping[str, Any]) -> Problem:
    """The problem of a row."""
    return Problem(
        id=row["problem_id"],
        question=row["question"],
        answer=row["gold"],
        images=tuple(row["images"]),
        source=row["source"],
        answer_type=AnswerType(row["gold_type"]),
        options=tuple(row["options"]),
        context=row["context"],
    )


def to_judged(row: Mapping[str, Any]) -> Judged:
    """The inverse of `to_row`; an older schema has no `logprobs`."""
    rollout = Rollout(
        problem=to_problem(row),
        sample_index=row["sample_index"],
        text=row["text"],
        token_ids=tuple(row["token_ids"]),
        finish_reason=row["finish_reason"],
        weights_version=row["weights_version"],
        sampling=json.loads(row["sampling"]),
        seconds=row["seconds"],
        worker=row["worker"],
        logprobs=row.get("logprobs") or (),
    )
    return Judged(rollout, to_verdict(row))


VERDICT_COLUMNS = (
    "status", "answer", "answer_type", "rule", "reason", "verifier_version", "guess_chance",
    "milliseconds",
)  # fmt: skip


def verdict_fields(verdict: Verdict) -> dict[str, object]:
    """A verdict as its columns, without the second opinions: a regrade does not ask for them."""
    return {
        "status": str(verdict.status),
        "answer": verdict.answer,
        "answer_type": str(verdict.answer_type),
        "rule": verdict.rule,
        "reason": verdict.reason,
        "verifier_version": verdict.verifier_version,
        "guess_chance": verdict.guess_chance,
        "milliseconds": verdict.milliseconds,
    }


def to_verdict(row: Mapping[str, Any]) -> Verdict:
    """The verdict in a row that has VERDICT_COLUMNS; an older schema has no `opinions`."""
    fields = {name: row[name] for name in VERDICT_COLUMNS}
    return Verdict(
        **{
            **fields,
            "opinions": to_opinions(row.get("opinions")),
            "status": Status(row["status"]),
            "answer_type": AnswerType(row["answer_type"]),
        }
    )


def replace_verdict(before: Verdict, after: Verdict, old_verdicts: str) -> dict[str, object]:
    """The columns of a row whose verdict is replaced: the one before joins `old_verdicts`."""
    older = json.loads(old_verdicts)
    return {
        **verdict_fields(after),
        "old_verdicts": json.dumps([*older, verdict_fields(before)]),
    }


def to_opinions(text: str | None) -> dict[str, SecondOpinion]:
    """The `opinions` column; null (rows of an older schema) and "{}" are none."""
    fields = json.loads(text or "{}")
    return {name: SecondOpinion(Opinion(said), reason) for name, (said, reason) in fields.items()}


@lru_cache(maxsize=4096)
def _image_hash(paths: tuple[str, ...]) -> str:
    return image_hash(paths)
