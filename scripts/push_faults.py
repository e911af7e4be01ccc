"""The faults of a push that `probe_faults.py` makes: in vLLM's process, or in a file of weights."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from virgo_ray.records import Weights
from virgo_ray.rollout.worker_extension import WorkerExtension
from virgo_ray.weights.streams import Receiver

FAULT_VARIABLE = "VIRGO_RAY_FAULT"  # a file that says what the engine's worker does wrong
FAULTS = (
    "none", "stale whole", "stale head", "one stale layer", "q and k swapped", "stale prefix cache",
    "one bit of a file",
)  # fmt: skip


class FaultyExtension(WorkerExtension):
    """Runs in vLLM's process, and does what the file of FAULT_VARIABLE says."""

    def retie_lm_head(self) -> None:
        if fault_of_now()["name"] != "stale head":
            super().retie_lm_head()

    def _reload(self, transport: Receiver, path: str, left_out: frozenset[str]) -> dict[str, str]:
        return super()._reload(Spoilt(transport), path, left_out)


class Spoilt:
    """A transport that hands on tensors with the fault of now, and says what it really read."""

    def __init__(self, transport: Receiver) -> None:
        self._transport = transport

    @property
    def read(self) -> dict[str, str]:
        return self._transport.read

    def receive(self, path: str) -> Iterator[tuple[str, torch.Tensor]]:
        return spoil(self._transport.receive(path))

    def close(self, why: str = "it stopped") -> None:
        self._transport.close(why)


def spoil(known: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """What was read, with the fault of now."""
    fault = fault_of_now()
    layer = f".layers.{fault['layer']}."
    if fault["name"] == "one stale layer":
        before = load_file(Path(fault["before"]) / "model.safetensors")
        return ((name, before[name] if layer in name else t) for name, t in known)
    return _swapped(list(known), layer) if fault["name"] == "q and k swapped" else iter(known)


def fault_of_now() -> dict[str, Any]:
    return json.loads(Path(os.environ[FAULT_VARIABLE]).read_text())


def _swapped(
    tensors: Sequence[tuple[str, torch.Tensor]], layer: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights and biases of one layer's queries and keys, each under the other's name."""
    own = dict(tensors)
    for name, tensor in tensors:
        other = re.sub("q_proj|k_proj", lambda m: "kq"["qk".index(m[0][0])] + "_proj", name)
        yield name, own[other] if layer in name else tensor


def with_flipped_bit(weights: Weights, directory: Path) -> Weights:
    """A copy in which the lowest bit of one value in the middle of a layer is another."""
    shutil.copytree(weights.path, directory)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("layers.1.mlp.up_proj.weight"))
    values = tensors[name].view(torch.int16 if tensors[name].itemsize == 2 else torch.int32)
    values[values.shape[0] // 2, 0] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})
    return Weights(weights.version, str(directory))
