"""How published weights reach an engine: the receiving half (publish.py is the sending half).

A transport gives the engine's worker process an iterator over (name, tensor), with the names of the
Hugging Face checkpoint; loading, coverage, caches and the probe are the engine's business and the
same for every transport. Disk is always correct and is what a restarted worker uses to catch up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from virgo_ray.errors import WeightsError
from virgo_ray.weights.manifest import loaded_files

if TYPE_CHECKING:
    from torch import Tensor


class DiskTransport:
    """Reads the safetensors files of a directory every worker can see."""

    def receive(self, path: str) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor once, one in memory at a time.

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
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    yield name, tensors.get_tensor(name)
