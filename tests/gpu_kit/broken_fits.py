"""The kit's checks of fits, each with what it guards broken: prints what they say, as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "gpu"))

import torch
from train_checks import resume
from train_checks.kit import Kit
from train_checks.scale import SMALL

from virgo_ray.train import publishing, zero
from virgo_ray.train.checkpoint import CheckpointStore


def error_of(kit: Kit, row: str) -> str:
    """What the row's check says; empty where it passes."""
    errors: dict[str, str] = {}

    def emit(row: str, figures: Mapping[str, Any], error: str = "", skipped: str = "") -> None:
        errors[row] = error

    resume.run(kit, [row], emit)
    return errors[row]


def published_by_somebody_else(kit: Kit) -> str:
    whole = publishing.make_checkpoint

    def make(tensors: Any, *where: Any) -> Any:
        return whole({name: 1.5 * t for name, t in tensors.items()}, *where)

    with patch.object(publishing, "make_checkpoint", make):
        resume.fit(kit, "whole", stop_at=None)
    return error_of(kit, "resume/publish_and_reload")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        kit = Kit(SMALL, "cpu", Path(place), Path(place))
        said: dict[str, str] = {}
        with patch.object(CheckpointStore, "latest", lambda self: None):
            said["no checkpoint is found"] = error_of(kit, "resume/stop_and_go")
        with patch.object(zero.ZeroEngine, "load", lambda self, directory: None):
            said["a checkpoint restores nothing"] = error_of(kit, "resume/stop_and_go")
        with patch.object(zero, "forget_modules", lambda: None):
            said["an engine is kept"] = error_of(kit, "resume/memory_freed")
        said["other weights are published"] = published_by_somebody_else(kit)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
