"""Rows of the replay buffer as the records that selection asks for; only traces have texts."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

from virgo_ray.records import Candidate, Member, Opinion, Problem, Status, Trace
from virgo_ray.store.schema import KEY, to_opinions

MEMBER = (
    *KEY, "status", "finish_reason", "num_tokens", "weights_version", "guess_chance", "sampling",
    "opinions", "is_complete", "has_thought",
)  # fmt: skip
HAS_LOGPROBS = {"has_logprobs": "logprobs IS NOT NULL"}
PLAIN = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
TRACE = (*KEY, "text", "token_ids", "weights_version", "sampling", "logprobs")


def to_candidate(
    row: dict[str, Any], counts: tuple[int, int], blank_solved: Container[str]
) -> Candidate:
    """`counts` are (correct, judged) of its problem in its round."""
    opinions = to_opinions(row.pop("opinions", None))
    return Candidate(
        **row,
        num_correct=counts[0],
        num_judged=counts[1],
        is_blank_solved=row["problem_id"] in blank_solved,
        is_doubted=any(second.opinion is Opinion.DOUBTS for second in opinions.values()),
    )


def to_trace(row: Mapping[str, Any], problem: Problem) -> Trace:
    """A row of TRACE, with the problem of today."""
    return Trace(
        problem=problem,
        round=row["round"],
        sample_index=row["sample_index"],
        text=row["text"],
        token_ids=row["token_ids"],
        weights_version=row["weights_version"],
        logprobs=row.get("logprobs") or (),
        temperature=_temperature(row),
    )


def to_member(row: dict[str, Any]) -> Member:
    """A row of MEMBER and HAS_LOGPROBS."""
    opinions = to_opinions(row.pop("opinions", None))
    temperature, is_plain = _temperature(row), _is_plain(row)
    del row["sampling"]
    flags = [row.pop(name, None) for name in ("is_complete", "has_thought")]
    return Member(
        **{**row, "status": Status(row["status"])},
        is_doubted=any(second.opinion is Opinion.DOUBTS for second in opinions.values()),
        temperature=temperature,
        is_plain=is_plain,
        has_form=False not in flags,
    )


def _temperature(row: Mapping[str, Any]) -> float:
    """What a rollout was sampled at; 1 where a teacher did not say."""
    return float(json.loads(row["sampling"]).get("temperature", 1.0))


def _is_plain(row: Mapping[str, Any]) -> bool:
    """Whether nothing but the temperature changed the probabilities that tokens were drawn with."""
    sampling = json.loads(row["sampling"])
    return all(sampling.get(key, none) == none for key, none in PLAIN.items())
