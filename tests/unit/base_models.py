"""Copies of the bundled tiny model, changed in one respect, and configs that name them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from virgo_ray.config import Config, parse_config
from virgo_ray.model.files import TINY_DIRECTORY

Change = Callable[[dict[str, Any]], object]


def copy_of_tiny(directory: Path, tensors: Change | None = None, **files: Change) -> Path:
    """A copy at `directory`; `tensors` edits its state dict, `config=` edits config.json, ..."""
    shutil.copytree(TINY_DIRECTORY, directory)
    if tensors is not None:
        weights = load_file(directory / "model.safetensors")
        tensors(weights)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    for name, change in files.items():
        path = directory / f"{name}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return directory


def config_of(base: Path | str, **sections: Any) -> Config:
    source = {"reader": "tiny"}
    model = {"path": str(base), "dtype": "float32", "max_length": 512}
    sampling = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 100}
    explore = {"num_problems": 1, "num_samples": 1, "sampling": sampling}
    whole: dict[str, Any] = {
        "name": "test",
        "run_dir": "run",
        "data": {"train": source, "heldout": source, "seed_thoughts": source},
        "evaluate": {"sampling": {"max_tokens": 100}},
        **{k: v for k, v in sections.items() if k not in ("model", "explore")},
        "model": model | sections.get("model", {}),
        "explore": explore | sections.get("explore", {}),
    }
    return parse_config(whole)
