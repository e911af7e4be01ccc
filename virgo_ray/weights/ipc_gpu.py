"""Carries buckets through GPU memory that a trainer's rank shares with the engines on its GPU.

Every rank of the trainer has one staging buffer. The first rank fills its own and broadcasts it
within the trainer's group; every rank exports its buffer by CUDA IPC, once for every receiver on
its GPU and for no other, because an export that nobody opens is never freed. GPUs are known by
UUID: what a process calls device 0 depends on its environment. Receivers clone a bucket before they
say that they took it; then the buffer is filled anew. They close what they opened before they say
that they are done, so that the memory is free at the end. No rank begins a broadcast before all
have room for it: one that has none would keep the others waiting. The fields of an export travel
as JSON, and are signed like everything at the meeting place.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from virgo_ray.errors import WeightsError
from virgo_ray.weights.meeting import Meeting
from virgo_ray.weights.protocol import SENDER_STOPPED, STOPPED, StreamSender
from virgo_ray.weights.wire import Bucket

GPU = "gpu"  # key of a receiver's UUID in what it says of itself
LEAVE_S = 5.0  # for the other ranks to hear of the end, before the meeting place goes


class Staging:
    """The buffer of one rank, and what it was exported as."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffer = torch.empty(0, dtype=torch.uint8, device=device)
        self._exports: dict[str, list[Any]] = {}

    def room(self, num_bytes: int, readers: Sequence[int]) -> Tensor:
        """So many bytes of it; a larger one is exported anew, for these receivers."""
        if num_bytes > self._buffer.numel():
            self._buffer = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
            storage: Any = self._buffer.untyped_storage()
            self._exports = {str(n): _as_json(storage._share_cuda_()) for n in readers}
        return self._buffer[:num_bytes]

    @property
    def exports(self) -> Mapping[str, list[Any]]:
        """Fields of the exports, by the receiver's number."""
        return self._exports

    def close(self) -> None:
        self._buffer, self._exports = self._buffer[:0].clone(), {}
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()


class SendingStaging:
    """The first rank's lane; the other ranks run `take_part` meanwhile."""

    depth = 1

    def __init__(self, stream: StreamSender, device: str) -> None:
        self._stream = stream
        self._staging = Staging(torch.device(device))
        self._readers: dict[str, list[int]] = {}
        self._num_ranks = dist.get_world_size() if dist.is_initialized() else 1
        self._num_carried = 0

    def open(self, receivers: Sequence[Mapping[str, Any]]) -> None:
        for number, about in enumerate(receivers):
            self._readers.setdefault(about[GPU], []).append(number)
        self._stream.meeting.post("readers", self._readers)

    def carry(self, number: int, bucket: Bucket) -> Mapping[str, Any]:
        meeting = self._stream.meeting
        mine = self._readers.get(gpu_id(self._staging.device), [])
        flat = self._staging.room(bucket.num_bytes, mine)
        bucket.put(flat)
        self._num_carried = number + 1
        exports = dict(self._staging.exports)
        if self._num_ranks > 1:
            self._gather_ranks(number, bucket.num_bytes)
            dist.broadcast(flat, 0)  # deadline: of the trainer's group
        torch.cuda.synchronize(self._staging.device)
        for rank in range(1, self._num_ranks):
            what = f"rank {rank} of the trainer to fill its staging buffer"
            exports |= meeting.take(f"filled/{number}/{rank}", what, self._stream.find_trouble)
        return {"exports": exports}

    def start(self, number: int) -> None:
        """It is there already."""

    def release(self, number: int) -> None:
        """The buffer is filled anew."""

    def _gather_ranks(self, number: int, num_bytes: int) -> None:
        """Return when all ranks are about to begin the broadcast."""
        meeting, trouble = self._stream.meeting, self._stream.find_trouble
        meeting.post(f"part/{number}", {"num_bytes": num_bytes})
        for rank in range(1, self._num_ranks):
            what = f"rank {rank} of the trainer to make room for a bucket"
            if why := meeting.take(f"ready/{number}/{rank}", what, trouble)["why"]:
                raise WeightsError(f"rank {rank} of the trainer cannot take part: {why}")
        meeting.post(f"go/{number}", {})

    def close(self) -> None:
        meeting, until = self._stream.meeting, time.monotonic() + LEAVE_S
        with contextlib.suppress(WeightsError):
            meeting.post(f"part/{self._num_carried}", {"is_end": True})
            for rank in range(1, 1 if meeting.has([STOPPED]) else self._num_ranks):
                meeting.take(
                    f"left/{rank}",
                    "a rank of the trainer",
                    lambda: "late" * (time.monotonic() > until),
                )
        self._staging.close()


def take_part(meeting: Meeting, rank: int, device: str) -> None:
    """Do what the other ranks of the trainer do while the first one sends.

    Raises:
        WeightsError: the first rank stopped, the deadline passed, or this rank has no memory.
    """

    def find_trouble() -> str:
        return SENDER_STOPPED if meeting.has([STOPPED]) else ""

    staging = Staging(torch.device(device))
    readers = meeting.take("readers", "the GPUs of engines", find_trouble)
    mine, number = readers.get(gpu_id(staging.device), []), 0
    try:
        while True:
            what = f"bucket {number} from the first rank"
            part = meeting.take(f"part/{number}", what, find_trouble)
            if part.get("is_end"):
                meeting.post(f"left/{rank}", {})
                return
            flat = _room(meeting, staging, f"ready/{number}/{rank}", part["num_bytes"], mine)
            meeting.take(f"go/{number}", "the other ranks", find_trouble)
            dist.broadcast(flat, 0)  # deadline: of the trainer's group
            torch.cuda.synchronize(staging.device)
            del flat  # it would keep the buffer
            meeting.post(f"filled/{number}/{rank}", staging.exports)
            number += 1
    finally:
        staging.close()


def _room(
    meeting: Meeting, staging: Staging, key: str, num_bytes: int, mine: Sequence[int]
) -> Tensor:
    """Room for a bucket; the first rank hears under `key` that it is there, or why not."""
    why = ""
    try:
        return staging.room(num_bytes, mine)
    except RuntimeError as error:  # no memory, or none that can be exported
        why = str(error).partition("\n")[0]
        raise WeightsError(f"no room for a bucket of weights: {why}") from error
    finally:
        meeting.post(key, {"why": why})


class ReceivingStaging:
    """Opens an export once, and clones every bucket out of it."""

    def __init__(self, number: int, device: str) -> None:
        self._number = str(number)
        self._device = torch.device(device)
        self._fields: list[Any] = []
        self._buffer: Tensor | None = None

    @property
    def about(self) -> Mapping[str, Any]:
        return {GPU: gpu_id(self._device)}

    def open(self) -> None:
        """Nothing to prepare."""

    def fetch(self, bucket: Bucket, place: Mapping[str, Any]) -> Tensor:
        fields = place["exports"].get(self._number)
        if fields is None:
            raise WeightsError(
                f"no rank of the trainer is on the GPU of this engine ({gpu_id(self._device)}), "
                "expected one: set push.transport: broadcast"
            )
        if fields != self._fields:
            self._buffer = None
            self._buffer, self._fields = _opened(fields, self._device), fields
        assert self._buffer is not None
        copy = self._buffer[: bucket.num_bytes].clone()
        torch.cuda.synchronize(self._device)
        return copy

    def close(self) -> None:
        self._buffer = None
        torch.cuda.ipc_collect()


def gpu_id(device: torch.device) -> str:
    """The UUID of a GPU."""
    return str(torch.cuda.get_device_properties(device).uuid)


def _as_json(shared: Sequence[Any]) -> list[Any]:
    """What `UntypedStorage._share_cuda_` returns, without the device's index."""
    return [base64.b64encode(f).decode() if isinstance(f, bytes) else f for f in shared[1:]]


def _opened(fields: Sequence[Any], device: torch.device) -> Tensor:
    """All bytes of an exported buffer, on the device that is the same GPU."""
    handle, size, offset, counter, counter_offset, event, must_wait = fields
    index = torch.cuda.current_device() if device.index is None else device.index
    storage = torch.UntypedStorage._new_shared_cuda(
        index, base64.b64decode(handle), size, offset,
        base64.b64decode(counter), counter_offset, base64.b64decode(event), must_wait,
    )  # fmt: skip
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
