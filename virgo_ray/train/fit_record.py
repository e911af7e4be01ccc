"""`fit.json`, which lies beside published weights and says how they were trained.

A version may be there before the ledger names it: published, and then the run was killed. It is
reused if it is whole and was trained exactly as it would be now. Otherwise it is moved aside, never
deleted, and the reason is handed back. Called on rank 0; knows no tensors.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from virgo_ray.errors import DroppedWeightsError, WeightsError
from virgo_ray.files import move_aside
from virgo_ray.records import FitReport, Portion, Weights
from virgo_ray.train.job import Job
from virgo_ray.weights.manifest import check_weights
from virgo_ray.weights.publish import published, version_dir

FIT_NAME = "fit.json"


class OtherFit(Exception):
    """The published weights were trained on or with something else."""


def write_fit(directory: Path, report: FitReport, job: Job) -> None:
    """What the fit did, and the fingerprints of what it was given."""
    values = {**asdict(report), "examples": job.examples, "recipe": job.recipe}
    del values["weights"]
    (directory / FIT_NAME).write_text(json.dumps(values, indent=1))


def take_up(root: Path, job: Job) -> tuple[FitReport | None, str]:
    """The report of the published version, if it is `job`'s; else None, and what was moved aside.

    Reads every byte of the version: it is looked at only where a run was cut off before its ledger
    had it, or the ledger was removed.

    Raises:
        DroppedWeightsError: it was trained, and its tensors were dropped by `weights.keep_last`.
    """
    final = version_dir(root, job.version)
    try:
        done = published(root, job.version)
        if done is None:
            return None, ""
        check_weights(done.path)
        return _read_fit(done, job), ""
    except DroppedWeightsError as error:
        raise DroppedWeightsError(
            f"{error}. Its round is asked for again, as if the ledger had been removed: bring the "
            f"ledger back, or move {final.name} aside to train it anew"
        ) from error
    except WeightsError as error:
        aside, why = move_aside(final, "damaged"), f"is damaged ({_first_sentence(error)})"
    except OtherFit as error:
        aside, why = move_aside(final, "other"), str(error)
    return None, f"{final} {why}: it was moved aside to {aside.name} and is trained again"


def read_recipe(directory: Path) -> str | None:
    """The recipe that published weights were trained by; None where that is not said."""
    try:
        return str(json.loads((directory / FIT_NAME).read_text())["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_fit(weights: Weights, job: Job) -> FitReport:
    path = Path(weights.path) / FIT_NAME
    try:
        values = json.loads(path.read_text())
        examples, recipe = values.pop("examples"), values.pop("recipe", None)
        portions = {kind: Portion(**p) for kind, p in values.pop("portions", {}).items()}
        report = FitReport(weights=weights, portions=portions, **values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read: {error!r}") from error
    if examples != job.examples:
        raise OtherFit(f"was trained on other examples ({examples}, expected {job.examples})")
    if recipe is None:
        raise OtherFit("was trained by an earlier version, which did not note with what settings")
    if recipe != job.recipe:
        raise OtherFit(
            "was trained from other weights, with another `train` section or other steps "
            f"({recipe}, expected {job.recipe})"
        )
    return report


def _first_sentence(error: WeightsError) -> str:
    return str(error).split(". ")[0].split("; ")[0]
