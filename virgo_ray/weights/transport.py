"""How published weights reach an engine: the receiving half (publish.py is the sending half).

A transport gives the engine's worker process an iterator over (name, tensor), with the names of the
Hugging Face checkpoint; loading, coverage, caches and the probe are the engine's business and the
same for every transport. Disk is always correct and is what a restarted worker uses to catch up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from virgo_ray.errors import WeightsError
from virgo_ray.weights.manifest import loaded_files
from virgo_ray.weights.wire import memory_of


class DiskTransport:
    """Reads the safetensors files of a directory every worker can see.

    `read` is {file name: sha256 of what was read of it}, once a file is through. It is that of the
    manifest if the tensors handed on were those that were published: a file is its header and its
    tensors, one after the other.
    """

    def __init__(self) -> None:
        self.read: dict[str, str] = {}

    def receive(self, path: str) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor once, one or two in memory at a time; they are hashed meanwhile.

        Raises:
            WeightsError: no safetensors file there.
        """
        files = loaded_files(Path(path))
        if not files:
            raise WeightsError(
                f"{path} holds no *.safetensors; expected a weights directory on a file system "
                "that every worker can read"
            )
        for file in files:
            digest = hashlib.sha256(_header(file))
            yield from _hashed(file, digest.update)
            self.read[file.name] = digest.hexdigest()

    def close(self, why: str = "") -> None:
        """Nothing is held, and nobody waits."""


def _hashed(file: Path, update: Callable[[Any], None]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the order of the file; `update` gets the bytes of each in another thread."""
    with (
        safe_open(file, framework="pt") as tensors,
        ThreadPoolExecutor(1) as hashing,  # deadline: hashing waits for nobody
    ):
        last = None
        for name in tensors.offset_keys():
            tensor = tensors.get_tensor(name)
            if last is not None:
                last.result()  # deadline: hashing waits for nobody
            last = hashing.submit(update, memory_of(tensor))
            yield name, tensor


def _header(file: Path) -> bytes:
    """What stands before the tensors: the length of a table as 8 bytes, and the table."""
    with file.open("rb") as f:
        length = f.read(8)
        return length + f.read(int.from_bytes(length, "little"))
