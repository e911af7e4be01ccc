"""What W&B is shown of a round beside its numbers: a table of rollouts with their pictures, and
artifacts that name where weights and rollouts lie.

Bounded: a table has at most MAX_ROWS rows of at most MAX_CHARS characters of text, and pictures of
at most IMAGE_SIDE pixels. Artifacts are references: no tensor and no rollout is copied or read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from virgo_ray.config import Config
from virgo_ray.errors import DataError
from virgo_ray.model.images import load_image
from virgo_ray.records import Judged, Round
from virgo_ray.store.dataset import locate_store

EXAMPLES = "examples/rollouts"
MAX_ROWS, MAX_CHARS, IMAGE_SIDE = 32, 4000, 256
COLUMNS = (
    "problem", "source", "picture", "question", "gold", "status", "answer", "tokens", "thought",
)  # fmt: skip


def round_table(examples: Sequence[Judged]) -> wandb.Table:
    """Some rollouts, one a row."""
    table = wandb.Table(columns=list(COLUMNS))
    for judged in examples[:MAX_ROWS]:
        table.add_data(*_cells(judged))
    return table


def _cells(judged: Judged) -> list[Any]:
    rollout, verdict = judged.rollout, judged.verdict
    problem = rollout.problem
    return [
        problem.id,
        problem.source,
        _picture(problem.images),
        problem.question[:MAX_CHARS],
        problem.answer,
        str(verdict.status),
        verdict.answer[:MAX_CHARS],
        len(rollout.token_ids),
        rollout.text[:MAX_CHARS],
    ]


def _picture(images: Sequence[str]) -> wandb.Image | None:
    """The first one, small; None where there is none, or its file is gone."""
    if not images:
        return None
    try:
        image = load_image(images[0])
    except DataError:
        return None
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR)
    return wandb.Image(image)


def round_artifacts(
    cfg: Config, run_id: str, done: Round
) -> Iterator[tuple[wandb.Artifact, list[str]]]:
    """(artifact, its aliases) of the weights that a round trained and of what it sampled; W&B takes
    no reference to a place that is not there."""
    aliases = [f"round-{done.label}", "rejected" if done.is_rejected else "kept"]
    if done.fit is not None and done.fit.num_steps:
        about = {"round": done.label, "weights_version": done.weights.version}
        if Path(done.weights.path).is_dir():
            uri = Path(done.weights.path).absolute().as_uri()
            yield _reference(f"weights-{run_id}", "model", uri, about), aliases
    if done.tally is not None and done.tally.asked:
        place = locate_store(Path(cfg.run_dir), cfg.store)
        uri = Path(place.uri).absolute().as_uri() if place.is_local else place.uri
        about = {"round": done.label, "asked": done.tally.asked, "accepted": done.tally.accepted}
        yield _reference(f"traces-{run_id}", "dataset", uri, about), aliases


def _reference(name: str, kind: str, uri: str, about: dict[str, Any]) -> wandb.Artifact:
    artifact = wandb.Artifact(name, kind, metadata=about)
    artifact.add_reference(uri, checksum=False)
    return artifact
