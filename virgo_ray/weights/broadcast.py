"""Carries buckets through a process group of the sender and all receivers: gloo, or NCCL on GPUs.

The group is one of its own, made anew for every push; the default group of the process, if it has
one, is not touched. The sender is rank 0, receiver n is rank n + 1. Sockets listen on the address
of the network between the two alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from virgo_ray.weights.meeting import Meeting, own_address
from virgo_ray.weights.wire import Bucket


class SendingBroadcast:
    """One bucket is filled while the one before is on its way."""

    depth = 2

    def __init__(self, meeting: Meeting, address: str, num_receivers: int, device: str) -> None:
        self._meeting = meeting
        self._address = address
        self._size = num_receivers + 1
        self._device = torch.device(device)
        self._group: Any = None
        self._filled: Tensor | None = None
        self._under_way: tuple[Any, Tensor] | None = None

    def open(self) -> None:
        self._group = make_group(self._meeting, self._address, 0, self._size, self._device)

    def carry(self, number: int, bucket: Bucket) -> Mapping[str, Any]:
        self._filled = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=self._device)
        bucket.put(self._filled)
        return {}

    def start(self, number: int) -> None:
        self._settle()
        assert self._filled is not None
        self._under_way = (broadcast(self._group, self._filled), self._filled)
        self._filled = None

    def release(self, number: int) -> None:
        """Whatever all have taken has been sent."""

    def close(self) -> None:
        self._under_way = self._filled = None
        leave(self._group)
        self._group = None

    def _settle(self) -> None:
        if self._under_way is not None:
            await_work(self._under_way[0], self._meeting)
            self._under_way = None


class ReceivingBroadcast:
    """Every bucket lies in memory of its own, so nothing need be copied out of it."""

    def __init__(self, meeting: Meeting, address: str, number: int, size: int, device: str) -> None:
        self._meeting = meeting
        self._address = own_address(address)
        self._rank = number + 1
        self._size = size
        self._device = torch.device(device)
        self._group: Any = None

    def open(self) -> None:
        self._group = make_group(self._meeting, self._address, self._rank, self._size, self._device)

    def fetch(self, bucket: Bucket, place: Mapping[str, Any]) -> Tensor:
        filled = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=self._device)
        if bucket.num_bytes:
            await_work(broadcast(self._group, filled), self._meeting)
        return filled

    def close(self) -> None:
        leave(self._group)
        self._group = None


def make_group(meeting: Meeting, address: str, rank: int, size: int, device: torch.device) -> Any:
    """A process group beside the default one; all of its ranks call this.

    Raises:
        RuntimeError: a rank did not come in time.
    """
    store = meeting.group_store("group")
    timeout = timedelta(seconds=max(meeting.seconds_left, 0.1))
    if device.type == "cuda":
        options = dist.ProcessGroupNCCL.Options()
        # Its watchdog would end the process; `await_work` keeps the deadline.
        options._timeout = timedelta(days=1)
        return dist.ProcessGroupNCCL(store, rank, size, options)
    gloo: Any = dist.ProcessGroupGloo
    settings = gloo._Options()
    settings._devices = [gloo.create_device(hostname=address)]
    settings._timeout = timeout
    return gloo(store, rank, size, settings)


def broadcast(group: Any, flat: Tensor) -> Any:
    """Begin to send or receive `flat`; returns the work to wait for."""
    options = dist.BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    return group.broadcast([flat], options)  # deadline: `await_work`


def await_work(work: Any, meeting: Meeting) -> None:
    """Wait until it is done on the host's side too.

    Raises:
        RuntimeError: it failed, or the deadline of the push passed.
    """
    if not work.wait(timedelta(seconds=max(meeting.seconds_left, 0.1))):
        raise RuntimeError("a broadcast did not end in time")


def leave(group: Any) -> None:
    """End a group, whether its members are alive or not."""
    if group is not None:
        group.abort()
