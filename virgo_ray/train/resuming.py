"""Where a fit goes on: at its newest checkpoint, at that of the same work, or at its beginning."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from virgo_ray.errors import TrainingError
from virgo_ray.train import zero
from virgo_ray.train.checkpoint import (
    CheckpointStore,
    Position,
    count_repeated,
    is_of_earlier_version,
)
from virgo_ray.train.fitting import Loaded, Report
from virgo_ray.train.job import Job
from virgo_ray.train.progress import beating


def resume(loaded: Loaded, store: CheckpointStore, job: Job, report: Report) -> Position:
    """Load the newest checkpoint that this fit can go on with; position 0 where there is none.

    All ranks call it together.

    Raises:
        TrainingError: it is damaged.
    """
    with beating("look for a checkpoint", report):
        position = zero.broadcast_from_first(_found(store) if zero.is_first_rank() else None)
        if isinstance(position, TrainingError):
            raise position  # on every rank: none waits for one that stopped
        if position is not None:
            place = store.place(position)
            loaded.engine.load(place)
            if position.fit != job.fit:
                report({"notice": _taken_over(place, position.step, len(job.plan.steps))})
            return replace(position, fit=job.fit)
    if others := store.others():
        report({"notice": say_left_aside(others[-1])})
    return Position(job.fit, 0, math.nan, math.nan)


def _found(store: CheckpointStore) -> Position | TrainingError | None:
    """Where to go on, or why not, as a value that can be sent to the other ranks."""
    try:
        return store.latest()
    except TrainingError as error:
        return error


def _taken_over(checkpoint: Path, step: int, num_steps: int) -> str:
    return (
        f"this fit goes on after step {step} of {num_steps}: {checkpoint} is of the same work, "
        "spread over other ranks or micro-batches. Losses agree but for rounding"
    )


def say_left_aside(checkpoint: Path) -> str:
    step, seconds = count_repeated(checkpoint)
    cost = f" Its {step} steps are done again, about {seconds / 60:.0f} minutes." if step else ""
    if is_of_earlier_version(checkpoint):
        return (
            f"this fit begins at step 0: {checkpoint} was written by an earlier version of this "
            f"program, which alone can go on from it.{cost} It stays until these weights are "
            "published"
        )
    return (
        f"this fit begins at step 0: {checkpoint} was made with other examples, start weights, "
        f"ZeRO stage or keys of `train` that matter to learning.{cost} It stays until this version "
        "is published; set the changed keys back to go on from it"
    )
