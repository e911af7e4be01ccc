"""virgo_ray: teach a vision-language model to think slowly about images, on Ray.

    import virgo_ray

    for done in virgo_ray.run_config("tiny"):
        if done.evaluation:  # evaluate.every may leave a round out
            print(done.label, done.evaluation.pass_at_1)

What is listed here is the Python API; docs/python.md explains it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from virgo_ray.api import CompletedRound, Rounds, run_config
    from virgo_ray.config import Config, load_config
    from virgo_ray.records import Candidate, Evaluation, Failure, Problem, Round

__version__ = "0.1.0"

# Loaded when they are asked for: `import virgo_ray` alone is quick.
_PLACES = {
    "CompletedRound": "virgo_ray.api",
    "Rounds": "virgo_ray.api",
    "run_config": "virgo_ray.api",
    "Config": "virgo_ray.config",
    "load_config": "virgo_ray.config",
    "Candidate": "virgo_ray.records",
    "Evaluation": "virgo_ray.records",
    "Failure": "virgo_ray.records",
    "Problem": "virgo_ray.records",
    "Round": "virgo_ray.records",
}

__all__ = [
    "Candidate", "CompletedRound", "Config", "Evaluation", "Failure", "Problem", "Round", "Rounds",
    "__version__", "load_config", "run_config",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
