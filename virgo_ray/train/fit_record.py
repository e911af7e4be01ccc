"""`fit.json`, which lies beside published weights and says how they were trained.

A version may be there before the ledger names it: published, and then the run was killed. It is
reused if it is whole and was trained exactly as it would be now. Otherwise it is moved aside, never
deleted, and the reason is handed back. One that was published without its tensors is trained again
in its place. Called on rank 0; knows no tensors.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from virgo_ray.errors import DroppedWeightsError, WeightsError
from virgo_ray.files import move_aside
from virgo_ray.model.dropped import is_remade
from virgo_ray.records import FitReport, Portion, Weights
from virgo_ray.train.job import Job, fingerprint_weights
from virgo_ray.weights.contents import FIT_NAME
from virgo_ray.weights.manifest import check_weights
from virgo_ray.weights.publish import published, version_dir


class OtherFit(Exception):
    """The published weights were trained on or with something else."""


def write_fit(directory: Path, report: FitReport, job: Job) -> None:
    """What the fit did, and the fingerprints of what it was given."""
    start = {"version": job.start.version, "weights": fingerprint_weights(Path(job.start.path))}
    given: dict[str, Any] = {"examples": job.examples, "recipe": job.recipe, "start": start}
    if job.left is not None:
        given["optimizer"] = job.left
    values = {**asdict(report), **given}
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
    if is_remade(final):
        return None, _looked_at(final, job)
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


def _looked_at(final: Path, job: Job) -> str:
    """Of a version that has no tensors yet and is not in the ledger: what becomes of it."""
    try:
        _read_fit(Weights(job.version, str(final)), job)
    except (WeightsError, OtherFit) as error:
        aside = move_aside(final, "other")
        return f"{final} {error}: it was moved aside to {aside.name} and is trained again"
    return f"{final} was published without its tensors: it is trained again, and they are written"


def require_same_fit(root: Path, job: Job) -> str:
    """Whether training `job` again gives what was published as its version, without tensors.

    Returns a remark where it need not, to the last bit: what it starts from was itself trained
    again, and came out otherwise.

    Raises:
        WeightsError: it was trained on or with something else, and what to do.
    """
    final = version_dir(root, job.version)
    try:
        _read_fit(Weights(job.version, str(final)), job)
    except OtherFit as error:
        if _starts_elsewhere(final, job):
            return f"{final} {error}: the weights that it starts from came out otherwise, too"
        raise WeightsError(
            f"{final} has no tensors and cannot be trained again as it was: it {error}. Set back "
            "what was changed since (keys of `train`, data, verdicts), start the run once, and "
            "change it then: the newest version has its tensors from then on"
        ) from error
    return ""


def _starts_elsewhere(final: Path, job: Job) -> bool:
    values = json.loads((final / FIT_NAME).read_text())
    now = fingerprint_weights(Path(job.start.path))
    return values["examples"] == job.examples and values["start"]["weights"] != now


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
        for said in ("start", "optimizer"):
            values.pop(said, None)
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
