"""The parity probe: a few fixed prompts and the trainer's log-probabilities of their continuations.

The trainer writes a probe when it publishes weights; after every push each engine scores the same
items and must agree. Log-probabilities are natural logarithms of the softmax of the raw logits at
temperature 1, in float32, one per target token. Text and image items are compared apart, because an
image path can be wrong while text is right. A probe's pictures are copied beside its file and named
relative to it, so that a run directory can be moved, and so can its data. This module does not know
who computes either side.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virgo_ray.errors import WeightsError
from virgo_ray.files import create_once, write_atomically, writing
from virgo_ray.weights.manifest import loaded_files
from virgo_ray.weights.publish import version_dir

PROBE_NAME = "probe.json"
PICTURES_NAME = "probe_pictures"  # a directory beside the probe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeItem:
    """`prompt_ids` hold one placeholder id per image (un-expanded); `target_ids` are scored."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    image: str | None = None

    @property
    def has_picture(self) -> bool:
        """Whether it can be asked: its picture is there, or it needs none."""
        return self.image is None or Path(self.image).is_file()


@dataclass(frozen=True)
class Probe:
    """`logprobs[i][j]` is the trainer's log-probability of `items[i].target_ids[j]`, in nats."""

    items: tuple[ProbeItem, ...]
    logprobs: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        expected = [len(item.target_ids) for item in self.items]
        found = [len(row) for row in self.logprobs]
        if expected != found or not all(expected):
            raise WeightsError(
                f"probe has {found} log-probabilities, expected {expected}: one per target token, "
                "at least one per item"
            )

    def save(self, path: str | Path, weights_id: str = "") -> None:
        """Write JSON, all of it or nothing, after copies of the pictures.

        `weights_id` is the `identify` of the weights, where a path does not always hold the same.

        Raises:
            WeightsError: a picture is gone.
        """
        path = Path(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "prompt_ids": list(item.prompt_ids),
                "target_ids": list(item.target_ids),
                "image": item.image and _copied(Path(item.image), path.parent),
                "logprobs": [float(x) for x in row],
            }
            for item, row in zip(self.items, self.logprobs, strict=True)
        ]
        with writing(path):
            write_atomically(path, json.dumps({"weights": weights_id, "items": rows}))

    @classmethod
    def load(cls, path: str | Path) -> Probe:
        """Read what `save` wrote; `image` is the absolute path of the copy.

        Older probes name pictures where the run or its data once lay. Items whose picture is gone
        are left out with a warning: the others still prove the weights.

        Raises:
            WeightsError: missing or malformed, or all its pictures are gone and it has no text.
        """
        path = Path(path).absolute()
        try:
            rows = json.loads(path.read_text())["items"]
            read = [_read_row(row, path.parent) for row in rows]
        except FileNotFoundError as error:
            raise WeightsError(
                f"probe {path} is missing; expected the trainer to write it with the weights"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"probe {path} is malformed: {error!r}; delete it") from error
        kept = [(item, row) for item, row in read if item.has_picture]
        gone = [item.image for item, _ in read if not item.has_picture]
        if gone and not kept:
            raise WeightsError(
                f"probe {path} asks about pictures only, and all are gone, the first is {gone[0]}; "
                "put them back there"
            )
        if gone:
            log.warning(
                "probe %s: %d of %d items left out, for their pictures are gone (the first is %s)",
                path, len(gone), len(read), gone[0],
            )  # fmt: skip
        return cls(tuple(item for item, _ in kept), tuple(row for _, row in kept))


def _copied(picture: Path, directory: Path) -> str:
    """The name, relative to `directory`, of a copy that is named by its content."""
    try:
        content = picture.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"the probe's picture {picture} cannot be read ({error}); put it back and run the same "
            "command again"
        ) from error
    name = f"{hashlib.sha256(content).hexdigest()[:16]}{picture.suffix.lower()}"
    create_once(directory / PICTURES_NAME / name, lambda draft: draft.write_bytes(content))
    return f"{PICTURES_NAME}/{name}"


def _read_row(row: dict[str, Any], directory: Path) -> tuple[ProbeItem, tuple[float, ...]]:
    image = None if row["image"] is None else str(directory / row["image"])  # absolute ones stay
    item = ProbeItem(tuple(row["prompt_ids"]), tuple(row["target_ids"]), image)
    return item, tuple(float(x) for x in row["logprobs"])


@dataclass(frozen=True)
class ProbeDiff:
    """Largest |log-probability difference|, in nats; 0 where the probe has no such items."""

    text: float
    image: float

    @property
    def largest(self) -> float:
        return max(self.text, self.image)


def probe_path(root: Path, version: int) -> Path:
    """Where the probe of a version lies, the base model (version 0) included."""
    return version_dir(root, version) / PROBE_NAME


def identify(directory: Path) -> str:
    """Say which weights these are without reading them: where they lie, their sizes and times.

    The same weights get another name where they are moved or copied; then their probe is written
    once more, which costs time only.
    """
    files = [(file.resolve(), file.stat()) for file in loaded_files(directory)]
    seen = [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in files]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def is_probe_of(path: Path, weights_id: str) -> bool:
    """Whether a readable probe of just these weights is there already."""
    try:
        return json.loads(path.read_text())["weights"] == weights_id
    except (OSError, ValueError, KeyError, TypeError):
        return False  # missing, of an earlier version, or damaged: it is written anew


def compare(probe: Probe, scored: Sequence[Sequence[float]]) -> ProbeDiff:
    """Largest difference over text items and over image items.

    Not-a-number on either side counts as infinitely wrong.

    Raises:
        WeightsError: `scored` does not have one value per target token.
    """
    found = [len(row) for row in scored]
    expected = [len(row) for row in probe.logprobs]
    if found != expected:
        raise WeightsError(f"engine scored {found} tokens, expected {expected} (one per target)")
    worst = {False: 0.0, True: 0.0}
    for item, ours, theirs in zip(probe.items, probe.logprobs, scored, strict=True):
        has_image = item.image is not None
        for a, b in zip(ours, theirs, strict=True):
            worst[has_image] = max(worst[has_image], _distance(a, b))
    return ProbeDiff(text=worst[False], image=worst[True])


def _distance(a: float, b: float) -> float:
    difference = abs(a - b)
    return difference if math.isfinite(difference) else math.inf
