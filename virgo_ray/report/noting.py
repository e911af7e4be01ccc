"""What a fit is given, noted as it is given, in `RUN/notes/fit-v0002.json`.

A `Trainer` like the one it wraps: everything passes through unchanged. All examples are noted with
their weights and lengths; of some, evenly over the fit, also ids, so that a person can read what
the model read. The report takes from here which rollouts were trained on.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from virgo_ray.files import write_atomically
from virgo_ray.ports import Trainer
from virgo_ray.records import Example, FitReport, Plan, Weights
from virgo_ray.report.provenance import NOTES

log = logging.getLogger(__name__)

NUM_SHOWN = 24  # examples that are noted whole


class NotedTrainer:
    """`Trainer` that notes what its fits are given; a note that cannot be written is left out."""

    def __init__(self, trainer: Trainer, run_dir: Path) -> None:
        self._trainer = trainer
        self._run_dir = run_dir

    def fit(self, plan: Plan, start: Weights, version: int, is_again: bool = False) -> FitReport:
        if not is_again:
            try:
                note_fit(self._run_dir, plan, start, version)
            except OSError as error:
                log.warning("what version %d is trained on was not noted: %s", version, error)
        return self._trainer.fit(plan, start, version, is_again)

    def settle(self) -> None:
        self._trainer.settle()

    def write_now(self, version: int) -> bool:
        return self._trainer.write_now(version)


def note_fit(run_dir: Path, plan: Plan, start: Weights, version: int) -> None:
    """Write the note of one fit.

    Raises:
        OSError: the file system refused.
    """
    path = note_path(run_dir, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(describe_plan(plan, start, version), separators=(",", ":")))


def note_path(run_dir: Path, version: int) -> Path:
    return run_dir / NOTES / f"fit-v{version:04d}.json"


def describe_plan(plan: Plan, start: Weights, version: int) -> dict[str, Any]:
    """The note: columns over all examples, and some examples whole."""
    times = Counter(i for step in plan.steps for rank in step for micro in rank for i in micro)
    real = [i for i, example in enumerate(plan.examples) if not example.is_filler]
    own = [plan.examples[i] for i in real]
    return {
        "version": version,
        "start": start.version,
        "num_steps": len(plan.steps),
        "examples": {
            "id": [e.id for e in own],
            "kind": [str(e.kind) for e in own],
            "weight": [round(e.weight, 6) for e in own],
            "tokens": [e.num_tokens or len(e.prompt_ids) + len(e.target_ids) for e in own],
            "targets": [len(e.target_ids) for e in own],
            "times": [times[i] for i in real],
            "group": [e.group for e in own],
            "role": [e.role for e in own],
        },
        "shown": [_whole(place, own[place]) for place in choose_shown(own)],
    }


def choose_shown(examples: list[Example]) -> list[int]:
    """The places of examples that are noted whole: as many of each kind, evenly spread."""
    by_kind: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        by_kind.setdefault(str(example.kind), []).append(place)
    most = NUM_SHOWN // max(1, len(by_kind))
    found = [
        own[n * len(own) // min(most, len(own))]
        for own in by_kind.values()
        for n in range(min(most, len(own)))
    ]
    return sorted(found)


def _whole(place: int, example: Example) -> dict[str, Any]:
    return {
        "place": place,
        "prompt_ids": list(example.prompt_ids),
        "target_ids": list(example.target_ids),
        "images": list(example.images),
    }
