"""Measures models: on held-out problems inside a run (`heldout.py`), and on benchmarks by
`python -m virgo_ray.evaluate`."""

from virgo_ray.evaluate.heldout import (
    Answers,
    Evaluator,
    blanked,
    consistent_choice_share,
    is_long_format,
    measure,
)

__all__ = [
    "Answers",
    "Evaluator",
    "blanked",
    "consistent_choice_share",
    "is_long_format",
    "measure",
]
