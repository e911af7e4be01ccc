"""What fits really read: their notes as data files, with tokens as the trainer lays them out.

The trainer's own `Batcher` expands pictures and places the labels, so what is marked as a label
here is what the loss is taken on. Some examples of a fit are shown whole, as many as were noted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virgo_ray.config import Config
from virgo_ray.errors import VirgoError
from virgo_ray.model.images import image_hash
from virgo_ray.records import Example
from virgo_ray.report.noting import note_path
from virgo_ray.report.pages import Folder
from virgo_ray.report.pictures import picture_name, write_picture

if TYPE_CHECKING:
    from virgo_ray.train.marking import Marker

log = logging.getLogger(__name__)

LIST_ROWS = 10_000  # examples in one file
IMAGE = "image"  # the mark of a picture's tokens


def write_fit(folder: Folder, cfg: Config, run_dir: Path, model_dir: str, version: int
              ) -> dict[str, Any] | None:  # fmt: skip
    """Write the pages of one fit; None where it was not noted.

    Raises:
        DiskError: the file system refused.
    """
    path = note_path(run_dir, version)
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name, columns = folder.new_name(f"fit-{version}"), note["examples"]
    num = len(columns["id"])
    for number, start in enumerate(range(0, num, LIST_ROWS)):
        rows = {key: values[start : start + LIST_ROWS] for key, values in columns.items()}
        folder.put(f"{name}/list-{number}", {"first": start, **rows})
    folder.put(f"{name}/chosen", chosen_rollouts(columns))
    shown = list(_shown(folder, note, Reading(cfg, model_dir)))
    folder.put(f"{name}/shown", shown)
    return {
        "folder": name,
        "version": version,
        "start": note["start"],
        "num_steps": note["num_steps"],
        "num": num,
        "lists": -(-num // LIST_ROWS),
        "num_shown": len(shown),
        "weights": [min(columns["weight"], default=0), max(columns["weight"], default=0)],
    }


def chosen_rollouts(columns: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """{round: {problem: {sample: weight}}} of the rollouts among the examples of a fit."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for id, kind, weight in zip(columns["id"], columns["kind"], columns["weight"], strict=True):
        if kind == "seed_thoughts":
            continue
        round, rest = id.split("/", 1)
        problem, sample = rest.rsplit("/", 1)
        found.setdefault(round, {}).setdefault(problem, {})[sample] = weight
    return found


@dataclass(frozen=True)
class Reading:
    """How examples become tokens, and tokens text, for the model of a run.

    What needs torch is loaded on first use: a writing without a new fit needs none of it.
    """

    cfg: Config
    model_dir: str

    @cached_property
    def _marker(self) -> Marker:
        from virgo_ray.train.marking import Marker

        return Marker(self.model_dir, self.cfg.model)

    @cached_property
    def _decode(self) -> Callable[[list[int]], str]:
        from virgo_ray.model.processor import load_processor

        tokenizer = load_processor(self.cfg.model, self.model_dir).tokenizer
        return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)

    def spans(self, example: Example) -> list[list[Any]]:
        """[mark, text, number of tokens] of every run of tokens, in order.

        Raises:
            VirgoError: the trainer refuses the example, or its pictures are gone.
            OSError: the model's files are gone.
            ValueError, KeyError: another version of the model's files than it was trained with.
        """
        return [
            [str(mark), "" if mark == IMAGE else self._decode(ids), len(ids)]
            for mark, ids in self._marker.runs(example)
        ]


def _shown(folder: Folder, note: Mapping[str, Any], reading: Reading) -> Iterator[dict[str, Any]]:
    columns = note["examples"]
    for kept in note["shown"]:
        own = {name: values[kept["place"]] for name, values in columns.items()}
        example = Example(
            own["id"], kept["prompt_ids"], kept["target_ids"], tuple(kept["images"]),
            own["tokens"], own["weight"],
        )  # fmt: skip
        try:
            spans, why = reading.spans(example), ""
        except (VirgoError, OSError, ValueError, KeyError) as error:
            spans, why = [], str(error) or type(error).__name__
        pictures = [*_pictures(folder, kept["images"])] if not why else []
        yield {**own, "place": kept["place"], "spans": spans, "why": why, "images": pictures}


def _pictures(folder: Folder, paths: Sequence[str]) -> Iterator[list[str]]:
    for path in paths:
        name = picture_name(image_hash((path,)), 0)
        write_picture(folder, path, name)
        yield [name, path]
