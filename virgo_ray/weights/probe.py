"""The parity probe of a version: fixed prompts, and what the trainer says of their targets.

The trainer writes it when it publishes weights, and beside the values of the new weights those of
the weights before; after every push each engine scores the same items (`verdict.py` judges them).
Log-probabilities are natural logarithms of the softmax of the raw logits at temperature 1, in
float32, one per target token. Pictures are named relative to the probe's file: those of the run's
own items lie in `probe/` beside the versions, others are copied beside the file. So a run directory
can be moved, and so can its data. This module does not know who computes either side.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from virgo_ray.errors import WeightsError
from virgo_ray.files import create_once, write_atomically, writing
from virgo_ray.weights.manifest import loaded_files
from virgo_ray.weights.publish import version_dir

PROBE_NAME = "probe.json"
PICTURES_NAME = "probe_pictures"  # a directory beside the probe
NUM_CACHED = 8  # places asked through the prefix cache, of text and of pictures
# Tokens before such a place: vLLM caches whole blocks only, of 128 tokens on CPU, of 16 on GPU.
MIN_PREFIX = 144
ITEMS_NAME = "probe"  # a directory beside the versions: the run's items and their pictures

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

    @property
    def num_ids(self) -> int:
        """Prompt and targets together, un-expanded."""
        return len(self.prompt_ids) + len(self.target_ids)


@dataclass(frozen=True)
class Probe:
    """`logprobs[i][j]` is the trainer's log-probability of `items[i].target_ids[j]`, in nats.

    `before[i]` is the same of the weights before, or empty where they were not asked about the
    item; `before` itself is empty where they were asked about none.
    """

    items: tuple[ProbeItem, ...]
    logprobs: tuple[tuple[float, ...], ...]
    before: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        expected = [len(item.target_ids) for item in self.items]
        found = [len(row) for row in self.logprobs]
        if expected != found or not all(expected):
            raise WeightsError(
                f"probe has {found} log-probabilities, expected {expected}: one per target token, "
                "at least one per item"
            )
        before = [len(row) for row in self.before]
        fits = len(before) == len(expected) and all(
            n in (0, num) for n, num in zip(before, expected, strict=True)
        )
        if before and not fits:
            raise WeightsError(
                f"probe has {before} log-probabilities of the weights before, expected {expected} "
                "or 0: one per target token, or none of an item"
            )

    def after(self, other: Probe) -> Probe:
        """This probe with the values of `other`, where it has the same items, as those before."""
        known = dict(zip(other.items, other.logprobs, strict=True))
        rows = tuple(known.get(item, ()) for item in self.items)
        return replace(self, before=rows if any(rows) else ())

    def cached_places(self) -> list[tuple[int, int]]:
        """Item and target of what is asked through the prefix cache: in the longest item of text
        and in that of pictures, where the weights before differ most from the new ones."""
        places = []
        for has_image in (False, True):
            own = [i for i, item in enumerate(self.items) if (item.image is not None) == has_image]
            if own:
                longest = max(own, key=lambda i: self.items[i].num_ids)
                places += [(longest, j) for j in self._places_in(longest)]
        return places

    def cached_items(self) -> tuple[ProbeItem, ...]:
        """Those places as items of one target each."""
        found = []
        for i, j in self.cached_places():
            item = self.items[i]
            prompt = item.prompt_ids + item.target_ids[:j]
            found.append(ProbeItem(prompt, item.target_ids[j : j + 1], item.image))
        return tuple(found)

    def _places_in(self, i: int) -> list[int]:
        item, new = self.items[i], self.logprobs[i]
        old = self.before[i] if self.before and self.before[i] else None
        first = max(0, MIN_PREFIX - len(item.prompt_ids))
        places = list(range(first, len(new))) or list(range(len(new)))
        if old is not None:
            places.sort(key=lambda j: abs(new[j] - old[j]))
        return sorted(places[-NUM_CACHED:])

    def save(self, path: str | Path, weights_id: str = "") -> None:
        """Write JSON, all of it or nothing, after copies of the pictures.

        `weights_id` is the `identify` of the weights, where a path does not always hold the same.

        Raises:
            WeightsError: a picture is gone.
        """
        path = Path(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        before = self.before or ((),) * len(self.items)
        rows = [
            item_row(item, path.parent) | {"logprobs": list(row), "before": list(old)}
            for item, row, old in zip(self.items, self.logprobs, before, strict=True)
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
        kept = [row for row in read if row[0].has_picture]
        gone = [row[0].image for row in read if not row[0].has_picture]
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
        before = tuple(old for _, _, old in kept)
        return cls(
            tuple(item for item, _, _ in kept),
            tuple(row for _, row, _ in kept),
            before if any(before) else (),
        )


def item_row(item: ProbeItem, directory: Path) -> dict[str, Any]:
    """An item as a file in `directory` holds it; `read_item` reads it.

    Raises:
        WeightsError: its picture is gone.
    """
    return {
        "prompt_ids": list(item.prompt_ids),
        "target_ids": list(item.target_ids),
        "image": item.image and _named(Path(item.image), directory),
    }


def read_item(row: dict[str, Any], directory: Path) -> ProbeItem:
    """The item of a row; `image` is an absolute path."""
    image = row["image"] and os.path.normpath(directory / row["image"])  # absolute ones stay
    return ProbeItem(tuple(row["prompt_ids"]), tuple(row["target_ids"]), image)


def _named(picture: Path, directory: Path) -> str:
    """The name, relative to `directory`, of a picture of the run's items, or of a copy."""
    shared = directory.absolute().parent / ITEMS_NAME
    if picture.is_file() and shared in picture.parents and directory.absolute() != shared:
        return os.path.relpath(picture, directory.absolute())
    return _copied(picture, directory)


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


def _read_row(
    row: dict[str, Any], directory: Path
) -> tuple[ProbeItem, tuple[float, ...], tuple[float, ...]]:
    new, old = (tuple(map(float, row.get(key, ()))) for key in ("logprobs", "before"))
    return read_item(row, directory), new, old


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


def is_probe_of(path: Path, weights_id: str, items: Sequence[ProbeItem]) -> bool:
    """Whether a readable probe of just these weights is there already, and asks `items`."""
    try:
        is_of = json.loads(path.read_text())["weights"] == weights_id
        return is_of and set(items) <= set(Probe.load(path).items)
    except (OSError, ValueError, KeyError, TypeError, WeightsError):
        return False  # missing, of an earlier version, or damaged: it is written anew
