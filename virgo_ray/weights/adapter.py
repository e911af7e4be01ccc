"""Sends adapters in place of the weights that they change; the receiver merges them itself.

What is sent are the float32 adapters and the tensors that were trained beside them. The receiver
reads all other tensors from the base on its disk, and merges with the trainer's own arithmetic, on
the same kind of device: bit for bit what is published. The digest is that of the merged weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from virgo_ray.errors import WeightsError
from virgo_ray.weights.manifest import loaded_files
from virgo_ray.weights.protocol import (
    SendingLane,
    StreamReceiver,
    StreamSender,
    num_hashing_threads,
)
from virgo_ray.weights.wire import CPU_BUCKET_BYTES, Digest, flat_bytes

DOWN, UP = "down/", "up/"  # before the names of the weights that they change
WHOLE = "whole/"


@dataclass(frozen=True)
class LowRank:
    """One adapter: `scale * up @ down` is added to a weight. Both in float32."""

    down: Tensor  # [rank, in]
    up: Tensor  # [out, rank]
    scale: float


@dataclass(frozen=True)
class AdapterUpdate:
    """What differs from the base: adapters by the checkpoint name of the weight that they change,
    and the names of tensors that were trained beside them, now or by fits before."""

    adapters: Mapping[str, LowRank]
    whole: frozenset[str] = field(default_factory=frozenset)


def merge(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """`weight + scale * up @ down`, computed in float32 and rounded once."""
    down, up = down.to(weight.device), up.to(weight.device)
    return (weight.float() + (up @ down) * scale).to(weight.dtype)


def find_changed(
    base: Path, merged: Mapping[str, Tensor], adapted: Collection[str]
) -> frozenset[str]:
    """Names of tensors without adapters that are not, bit for bit, what a receiver reads in `base`.

    Reads all of those in `base`.
    """
    found = set()
    for name, file in _names_in(base):
        if name in merged and name not in adapted:
            now = merged[name].detach().contiguous()
            below = file.get_tensor(name).to(now.dtype)
            if not torch.equal(flat_bytes(below), flat_bytes(now)):
                found.add(name)
    return frozenset(found)


def send_adapters(
    stream: StreamSender,
    lane: SendingLane,
    merged: Mapping[str, Tensor],
    update: AdapterUpdate,
    digest: Digest,
) -> None:
    """Send `update`; `merged` are the weights that come of it, which `digest` takes in.

    Raises:
        WeightsError: as `StreamSender.send`; or the update names a weight that is not there.
    """
    if unknown := (update.adapters.keys() | update.whole) - merged.keys():
        raise WeightsError(
            f"adapters change {sorted(unknown)[:3]}, which are no weights of this model; expected "
            f"names such as {sorted(merged)[:3]}"
        )
    scales = {name: adapter.scale for name, adapter in update.adapters.items()}
    formats = {name: str(t.dtype).removeprefix("torch.") for name, t in sorted(merged.items())}
    stream.meeting.post("about", {"scales": scales, "formats": formats})

    def add_all() -> None:
        for name, tensor in merged.items():
            digest.add(name, tensor.detach().contiguous())

    stream.send(_parts(merged, update), lane, CPU_BUCKET_BYTES, meanwhile=add_all)


def _parts(merged: Mapping[str, Tensor], update: AdapterUpdate) -> Iterator[tuple[str, Tensor]]:
    for name, adapter in update.adapters.items():
        yield DOWN + name, adapter.down
        yield UP + name, adapter.up
    for name in sorted(update.whole):
        yield WHOLE + name, merged[name]


class AdapterReceiver:
    """Used like `DiskTransport`: yields whole tensors."""

    def __init__(self, stream: StreamReceiver, base: str, device: str) -> None:
        self._stream = stream
        self._base = Path(base)
        self._device = device

    @property
    def read(self) -> dict[str, str]:
        """{"stream": digest of the merged weights}, once all were yielded."""
        return self._stream.read

    def receive(self, path: str) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the model once.

        Raises:
            WeightsError: as `StreamReceiver.receive`; or the base lacks a tensor.
        """
        about = self._stream.meeting.take("about", "the scales of adapters")
        parts = dict(self._stream.fetch())
        digest = Digest(num_hashing_threads())
        try:
            for name, tensor in self._merged(parts, about["scales"], about["formats"]):
                digest.add(name, tensor)
                yield name, tensor
            self._stream.finish(digest.hexdigest())
        finally:
            digest.close()

    def close(self, why: str = "it stopped") -> None:
        self._stream.close(why)

    def _merged(
        self, parts: Mapping[str, Tensor], scales: Mapping[str, float], formats: Mapping[str, str]
    ) -> Iterator[tuple[str, Tensor]]:
        """The tensors of `formats`, in the order of the base's files, which may have others."""
        missing = set(formats)
        for name, file in _names_in(self._base):
            if name not in missing:
                continue  # carried along by the base, and not built by the model class
            missing.remove(name)
            if WHOLE + name in parts:
                yield name, parts[WHOLE + name]
                continue
            tensor = file.get_tensor(name).to(getattr(torch, formats[name]))
            if name in scales:
                down, up = parts[DOWN + name], parts[UP + name]
                tensor = merge(tensor.to(self._device), down, up, scales[name])
                # The trainer adds the adapter once more, after it was set to zero.
                tensor = tensor + 0.0
            yield name, tensor
        if missing:
            raise WeightsError(
                f"{self._base} lacks {sorted(missing)[:3]}, which the trainer has; expected the "
                "weights that the adapters belong on, the same on all hosts"
            )


def _names_in(directory: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor's name and the opened file it is in."""
    for path in loaded_files(directory):
        with safe_open(path, framework="pt") as file:
            for name in file.offset_keys():
                yield name, file
