"""Measures models: on held-out problems inside a run (`heldout.py`), and on benchmarks by
`python -m virgo_ray.evaluate`."""

from virgo_ray.evaluate.heldout import Evaluator, Questions

__all__ = ["Evaluator", "Questions"]
