"""What judging needs to know of a problem and a rollout, in a form that travels as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from virgo_ray.records import AnswerType, Problem, Rollout

# Part of every verdict: traces can be re-graded when it changes.
VERIFIER_VERSION = "3"


@dataclass(frozen=True)
class Item:
    """Token ids and images stay where they are.

    `is_gold_check` asks whether the gold answer itself can be judged against (golds.py).
    """

    gold: str
    text: str
    finish_reason: str = "stop"
    answer_type: str = AnswerType.AUTO.value
    options: tuple[str, ...] = ()
    question: str = ""
    is_gold_check: bool = False

    @classmethod
    def of(cls, problem: Problem, rollout: Rollout) -> Item:
        return cls(
            gold=problem.answer,
            text=rollout.text,
            finish_reason=rollout.finish_reason,
            answer_type=problem.answer_type.value,
            options=problem.options,
            question=problem.question,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Item:
        return cls(**{**fields, "options": tuple(fields["options"])})
