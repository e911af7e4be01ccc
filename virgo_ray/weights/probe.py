"""The parity probe: a few fixed prompts and the trainer's log-probabilities of their continuations.

The trainer writes a probe when it publishes weights; after every push each engine scores the same
items and must agree. Log-probabilities are natural logarithms of the softmax of the raw logits at
temperature 1, in float32, one per target token. Text and image items are compared apart, because an
image path can be wrong while text is right. This module does not know who computes either side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virgo_ray.errors import WeightsError
from virgo_ray.files import write_atomically, writing
from virgo_ray.weights.publish import version_dir

PROBE_NAME = "probe.json"


@dataclass(frozen=True)
class ProbeItem:
    """`prompt_ids` hold one placeholder id per image (un-expanded); `target_ids` are scored."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    image: str | None = None


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

    def save(self, path: str | Path) -> None:
        """Write JSON, all of it or nothing."""
        path = Path(path)
        rows = [
            {
                "prompt_ids": list(item.prompt_ids),
                "target_ids": list(item.target_ids),
                "image": item.image,
                "logprobs": [float(x) for x in row],
            }
            for item, row in zip(self.items, self.logprobs, strict=True)
        ]
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps({"items": rows}))

    @classmethod
    def load(cls, path: str | Path) -> Probe:
        """Read what `save` wrote.

        Raises:
            WeightsError: missing or malformed.
        """
        try:
            rows = json.loads(Path(path).read_text())["items"]
            items = tuple(
                ProbeItem(tuple(r["prompt_ids"]), tuple(r["target_ids"]), r["image"]) for r in rows
            )
            logprobs = tuple(tuple(float(x) for x in r["logprobs"]) for r in rows)
        except FileNotFoundError as error:
            raise WeightsError(
                f"probe {path} is missing; expected the trainer to write it with the weights"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"probe {path} is malformed: {error!r}; delete it") from error
        return cls(items, logprobs)


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
