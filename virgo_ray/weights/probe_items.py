"""The items of a run's parity probe, chosen once and kept beside the versions of the weights.

`probe/items.json` has two lists: `start`, chosen before the first fit, and `rollouts`, added by the
first fit that learns from pictures. Neither is ever replaced, so that the values of two versions
can be compared token by token. Pictures are copied beside the file and named relative to it. Knows
files only: `train/probing.py` chooses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from virgo_ray.errors import WeightsError
from virgo_ray.files import write_atomically, writing
from virgo_ray.weights.probe import ITEMS_NAME, ProbeItem, item_row, read_item


@dataclass(frozen=True)
class RunItems:
    """What every version of a run is asked about."""

    start: tuple[ProbeItem, ...] = ()
    rollouts: tuple[ProbeItem, ...] = ()

    @property
    def all(self) -> tuple[ProbeItem, ...]:
        return self.start + self.rollouts

    def save(self, root: Path) -> None:
        """Write `root/probe/items.json`, all of it or nothing, after copies of the pictures.

        Raises:
            WeightsError: a picture is gone.
        """
        path = items_path(root)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        table = {
            "start": [item_row(item, path.parent) for item in self.start],
            "rollouts": [item_row(item, path.parent) for item in self.rollouts],
        }
        with writing(path):
            write_atomically(path, json.dumps(table))

    @classmethod
    def load(cls, root: Path) -> RunItems:
        """What `save` wrote, without items whose picture is gone; none where there is no file.

        Raises:
            WeightsError: malformed.
        """
        path = items_path(root).absolute()
        try:
            table = json.loads(path.read_text())
            lists = [
                tuple(read_item(row, path.parent) for row in table[name])
                for name in ("start", "rollouts")
            ]
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{path} is malformed: {error!r}; delete it, and other items are chosen"
            ) from error
        start, rollouts = (tuple(item for item in own if item.has_picture) for own in lists)
        return cls(start, rollouts)


def items_path(root: Path) -> Path:
    """Where the items of a run lie; `root` is its `weights` directory."""
    return root / ITEMS_NAME / "items.json"


def keep_items(root: Path, choose: Callable[[], Sequence[ProbeItem]]) -> tuple[ProbeItem, ...]:
    """The items that a run starts with; `choose` is asked where there are none yet.

    Raises:
        WeightsError: as `RunItems`.
    """
    items = RunItems.load(root)
    if not items.start:
        RunItems(tuple(choose()), items.rollouts).save(root)
        items = RunItems.load(root)
    return items.start


def add_rollouts(root: Path, choose: Callable[[], Sequence[ProbeItem]]) -> tuple[ProbeItem, ...]:
    """The items of the run, with those of rollouts if there were none and `choose` finds some.

    Raises:
        WeightsError: as `RunItems`.
    """
    items = RunItems.load(root)
    if items.start and not items.rollouts and (chosen := tuple(choose())):
        RunItems(items.start, chosen).save(root)
        items = RunItems.load(root)
    return items.all
