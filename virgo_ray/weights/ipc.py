"""Carries buckets through memory that processes of one host share: nothing goes over a network.

On CPU every bucket is a piece of anonymous shared memory of its own, which no file system limits
and no name leads to. Receivers map it and load straight from it. It lives until the last of them
lets go, and ends with their processes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from virgo_ray.errors import WeightsError
from virgo_ray.files import write_at
from virgo_ray.weights.protocol import SENDER_STOPPED, host_id
from virgo_ray.weights.wire import Bucket, memory_of


class SendingMemory:
    """At most two buckets wait to be mapped."""

    depth = 2

    def __init__(self) -> None:
        self._files: dict[int, int] = {}  # bucket -> descriptor

    def open(self, receivers: Sequence[Mapping[str, Any]]) -> None:
        """Nothing is made before it is filled."""

    def carry(self, number: int, bucket: Bucket) -> Mapping[str, Any]:
        file = os.memfd_create("virgo_ray.weights", os.MFD_CLOEXEC)
        self._files[number] = file
        os.ftruncate(file, bucket.num_bytes)
        for offset, piece in bucket.pieces:
            write_at(file, memoryview(memory_of(piece)), offset)
        return {"pid": os.getpid(), "file": file, "inode": os.fstat(file).st_ino, "host": host_id()}

    def start(self, number: int) -> None:
        """It is there already."""

    def release(self, number: int) -> None:
        os.close(self._files.pop(number))

    def close(self) -> None:
        for number in list(self._files):
            self.release(number)


class ReceivingMemory:
    """Views of what was mapped keep the mapping."""

    about: Mapping[str, Any] = MappingProxyType({})

    def open(self) -> None:
        """Nothing to prepare."""

    def fetch(self, bucket: Bucket, place: Mapping[str, Any]) -> Tensor:
        if not bucket.num_bytes:
            return torch.empty(0, dtype=torch.uint8)
        if place["host"] != host_id():
            raise WeightsError(
                "weights were offered through shared memory by a process of another host or "
                "container; expected engines and trainers on one: set push.transport: broadcast"
            )
        return torch.frombuffer(_map(place, bucket.num_bytes), dtype=torch.uint8)

    def close(self) -> None:
        """What was mapped goes with its last view."""


def _map(place: Mapping[str, Any], num_bytes: int) -> mmap.mmap:
    try:
        # Another file may have taken the number: one that blocks until somebody writes, even.
        path = f"/proc/{place['pid']}/fd/{place['file']}"
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise WeightsError(
            f"shared memory of weights cannot be opened ({error}): its sender stopped, which its "
            "own process explains, or runs as another user"
        ) from error
    try:
        if os.fstat(file).st_ino != place["inode"]:
            raise WeightsError(SENDER_STOPPED)
        # Private: what loads cannot change it. Not filled in advance, which would copy all of it.
        return mmap.mmap(file, num_bytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(file)
