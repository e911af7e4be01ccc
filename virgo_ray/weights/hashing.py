"""The sha256 of safetensors files whose tensors are still in memory.

A file is its header and its tensors, one after the other. The header is read, a few kilobytes; the
tensors are hashed where they lie. So a manifest says what was meant to be written: a file that came
out otherwise is found by the first engine that reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from virgo_ray.weights.manifest import num_hashers
from virgo_ray.weights.wire import memory_of

METADATA = "__metadata__"


def hash_files(directory: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """{file name: sha256} of the `*.safetensors` directly in `directory`, which hold `tensors`.

    They are hashed side by side, without reading the tensors back.
    """
    files = sorted(directory.glob("*.safetensors"))
    with ThreadPoolExecutor(num_hashers()) as threads:  # deadline: hashing waits for nobody
        hashes = list(threads.map(lambda file: _hash(file, tensors), files))
    return {file.name: sha256 for file, sha256 in zip(files, hashes, strict=True)}


def _hash(file: Path, tensors: Mapping[str, Tensor]) -> str:
    with file.open("rb") as f:
        length = f.read(8)
        header = f.read(int.from_bytes(length, "little"))
    digest = hashlib.sha256(length + header)
    table = json.loads(header)
    names = [name for name in table if name != METADATA]
    for name in sorted(names, key=lambda n: table[n]["data_offsets"]):
        digest.update(memory_of(tensors[name].contiguous()))
    return digest.hexdigest()
