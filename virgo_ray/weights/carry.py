"""Takes tensors over that nobody trained, from the weights a fit started from into those it made.

Knows names and files only: which tensors these are, `layout.py` finds out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from virgo_ray.files import rename_durably
from virgo_ray.weights.manifest import INDEX_NAME, loaded_files, tensor_table

if TYPE_CHECKING:
    from torch import Tensor


def read_carried(start: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of these names in `start`."""
    wanted, tensors = set(names), {}
    for file in loaded_files(start) if wanted else ():
        with safe_open(file, framework="pt") as opened:
            tensors.update({n: opened.get_tensor(n) for n in wanted.intersection(opened.keys())})
    return tensors


def carry_over(tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Put tensors into a saved model, as a shard of their own, bit for bit.

    The shards that are there are counted anew and the index lists all of them, so that a loader
    finds these tensors where it found them in the base: through the index.
    """
    from safetensors.torch import save_file

    if not tensors:
        return
    shards = sorted(directory.glob("*.safetensors"))
    total = len(shards) + 1
    for number, shard in enumerate(shards, 1):
        rename_durably(shard, directory / f"model-{number:05d}-of-{total:05d}.safetensors")
    last = directory / f"model-{total:05d}-of-{total:05d}.safetensors"
    save_file(dict(tensors), last, metadata={"format": "pt"})
    table = tensor_table(directory)
    index = {
        "metadata": {"total_size": sum(f.stat().st_size for f in directory.glob("*.safetensors"))},
        "weight_map": {name: info.file for name, info in sorted(table.items())},
    }
    (directory / INDEX_NAME).write_text(json.dumps(index, indent=2))
