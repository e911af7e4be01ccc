"""Rounds and their figures for tests that need only some of them."""

from typing import Any

from virgo_ray.records import BASE, Evaluation, Round, Weights

USUAL: dict[str, Any] = {
    "num_problems": 200, "pass_at_1": 0.5, "pass_at_k": 0.6, "maj_at_k": 0.5, "k": 4,
    "mean_thought_tokens": 110.0, "long_format_share": 1.0, "truncated_share": 0.0,
    "not_judged_share": 0.0,
}  # fmt: skip


def evaluation(**figures: Any) -> Evaluation:
    """An evaluation with these figures, and usual ones where it must have some."""
    return Evaluation(**{**USUAL, **figures})


def evaluated(label: str | int, measured: Evaluation, **fields: Any) -> Round:
    """A round that was evaluated; BASE is the base."""
    number = None if label == BASE else int(label)
    version = 0 if number is None else number + 1
    return Round(number, Weights(version, f"weights/v{version:04d}"), evaluation=measured, **fields)
