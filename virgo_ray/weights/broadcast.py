"""Carries buckets through a process group of the sender and all receivers: gloo, or NCCL on GPUs.

The group is one of its own, made anew for every push; the default group of the process, if it has
one, is not touched. The sender is rank 0, receiver n is rank n + 1. Sockets listen on the address
of the network between the two alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from virgo_ray.weights.meeting import Meeting, within
from virgo_ray.weights.wire import Bucket

MIN_PAUSE_S, MAX_PAUSE_S = 0.0001, 0.01  # between two looks at a broadcast
GLOO_GRACE_S = 5.0  # for gloo to keep its deadline itself
LOOK_EVERY_S = 0.1  # at whether it makes sense to wait for it


class Group:
    """A process group beside the default one, and at most one broadcast that is under way.

    `find_trouble` is asked while a broadcast waits, and ends it by saying why.
    """

    def __init__(
        self, meeting: Meeting, address: str, rank: int, size: int, device: str,
        find_trouble: Callable[[], str],
    ) -> None:  # fmt: skip
        self.device = torch.device(device)
        self._meeting = meeting
        self._address = address
        self._rank = rank
        self._size = size
        self._find_trouble = find_trouble
        self._group: Any = None
        self._work: Any = None  # here alone: it keeps connections open, wherever it is referred to
        self._flat: Tensor | None = None

    def open(self) -> None:
        """All members call this.

        Raises:
            RuntimeError: one did not come in time.
        """
        store = self._meeting.group_store("group")
        if self.device.type == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            # NCCL's watchdog ends the whole process at its time; `settle` keeps the deadline.
            options._timeout = timedelta(days=1)
            self._group = dist.ProcessGroupNCCL(store, self._rank, self._size, options)
            return
        gloo: Any = dist.ProcessGroupGloo
        settings = gloo._Options()
        settings._devices = [gloo.create_device(hostname=self._address)]
        settings._timeout = timedelta(seconds=max(self._meeting.seconds_left, 0.1))
        try:
            self._group = within(
                self._meeting.seconds_left + GLOO_GRACE_S,
                lambda: gloo(store, self._rank, self._size, settings),
            )
        except TimeoutError as error:  # the store does not answer; gloo waits for it for ever
            raise RuntimeError("the group did not meet before the deadline") from error

    def begin(self, flat: Tensor) -> None:
        """Send or receive `flat`, which stays as it is until `settle`."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        self._flat = flat
        self._work = self._group.broadcast([flat], options)  # deadline: `settle`

    def settle(self) -> None:
        """Wait until what was begun is done on this side.

        Raises:
            RuntimeError: it failed, there was trouble, or the deadline of the push passed.
        """
        started = looked = time.monotonic()
        while self._work is not None and not self._work.is_completed():
            now = time.monotonic()
            time.sleep(min(MAX_PAUSE_S, max(MIN_PAUSE_S, (now - started) / 8)))
            if now - looked > LOOK_EVERY_S:
                looked = now
                if trouble := self._find_trouble():
                    raise RuntimeError(trouble)
                if not self._meeting.seconds_left:
                    raise RuntimeError("the deadline of the push passed")
        if self._work is not None:
            self._work.wait(timedelta(seconds=1))  # raises what went wrong
        self._work = self._flat = None

    def close(self) -> None:
        """Leave, whether the others are alive or not."""
        self._work = self._flat = None
        if self._group is not None and self.device.type == "cuda":
            self._group.abort()
        self._group = None


class SendingBroadcast:
    """One bucket is filled while the one before is on its way."""

    depth = 2

    def __init__(self, group: Group) -> None:
        self._group = group
        self._filled: Tensor | None = None

    def open(self, receivers: Sequence[Mapping[str, Any]]) -> None:
        self._group.open()

    def carry(self, number: int, bucket: Bucket) -> Mapping[str, Any]:
        self._filled = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=self._group.device)
        bucket.put(self._filled)
        return {}

    def start(self, number: int) -> None:
        self._group.settle()
        if self._filled is not None and self._filled.numel():
            self._group.begin(self._filled)
        self._filled = None

    def release(self, number: int) -> None:
        """Whatever all have taken has been sent."""

    def close(self) -> None:
        self._filled = None
        self._group.close()


class ReceivingBroadcast:
    """Every bucket lies in memory of its own, so nothing need be copied out of it."""

    about: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, group: Group) -> None:
        self._group = group

    def open(self) -> None:
        self._group.open()

    def fetch(self, bucket: Bucket, place: Mapping[str, Any]) -> Tensor:
        filled = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=self._group.device)
        if bucket.num_bytes:
            self._group.begin(filled)
            self._group.settle()
        return filled

    def close(self) -> None:
        self._group.close()
