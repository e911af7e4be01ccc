"""The protocol of a stream, whatever carries its bytes: roll call, buckets, thanks.

The sender and all receivers meet (meeting.py). Every receiver says that it is there. Then, bucket
after bucket, the sender posts a table and its lane makes the bytes available; a receiver fetches
them and posts that it took them. At the end every receiver posts that it is done with all of it. A
side that fails says so, and the others look for that while they wait; a process that ends without a
word is noticed at once on the same host, and by the deadline elsewhere. Both sides add up the
digest of the tensors; who started the push compares the two.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from virgo_ray.errors import WeightsError
from virgo_ray.weights.meeting import join_meeting, open_meeting
from virgo_ray.weights.offer import STREAM, Offer
from virgo_ray.weights.wire import Bucket, Digest, buckets, read_table, unpack

GRACE_S = 1.0  # after a failure, for the receivers that live to say how far they came
ROLL_PAUSE_S = 0.01
MAX_HASHING = 8  # threads; more than memory can feed
FAILED, STOPPED = "failed", "stopped"  # keys: a receiver did, the sender did
SENDER_STOPPED = "the sender stopped; its own process says why"


class SendingLane(Protocol):
    """Carries the bytes. `depth`: buckets that may be on their way at once."""

    depth: int

    def open(self, receivers: Sequence[Mapping[str, Any]]) -> None:
        """Called once all receivers are there, with what they say of themselves."""

    def carry(self, number: int, bucket: Bucket) -> Mapping[str, Any]:
        """Make the bytes ready; returns what receivers need to know to fetch them."""

    def start(self, number: int) -> None:
        """Called when the table of this bucket has been posted."""

    def release(self, number: int) -> None:
        """Called when all receivers took this bucket."""

    def close(self) -> None:
        """Called once, in any case, even if the lane was never opened."""


class ReceivingLane(Protocol):
    @property
    def about(self) -> Mapping[str, Any]:
        """What the sender's lane is told of this receiver."""

    def open(self) -> None:
        """Called once this receiver has said that it is there."""

    def fetch(self, bucket: Bucket, place: Mapping[str, Any]) -> Tensor:
        """The bytes of a bucket, which stay as they are for as long as anybody holds them."""

    def close(self) -> None:
        """Called once, in any case, even if the lane was never opened."""


class StreamSender:
    """The sending half of one push. `labels` are the receivers' names in messages."""

    def __init__(
        self, address: str, num_receivers: int, deadline_s: float, labels: Sequence[str] = ()
    ) -> None:
        self.meeting, self.port, self.nonce = open_meeting(address, deadline_s)
        self._labels = labels or [f"receiver {number}" for number in range(num_receivers)]
        self._handles: dict[int, int] = {}  # of the processes of receivers on this host
        self._num_posted = 0
        self._given_up = ""

    def send(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        lane: SendingLane,
        bucket_bytes: int,
        digest: Digest | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Send all tensors; returns when all receivers have loaded them.

        `digest` takes them in; `meanwhile` is called while the receivers load the last of them.

        Raises:
            WeightsError: a receiver did not come, failed, or was not through in time; it is named.
        """
        is_through = False
        try:
            lane.open(self._call_roll())
            self._send_all(tensors, lane, bucket_bytes, digest)
            meanwhile()
            for receiver in range(len(self._labels)):
                self._take(f"done/{receiver}", receiver, "load what was sent")
            is_through = True
        except RuntimeError as error:  # of gloo or NCCL
            raise WeightsError(
                f"the stream of weights broke ({error}): {self._say_broken()}"
            ) from error
        finally:
            if not is_through:
                self._tell_failure()
            lane.close()

    def cancel(self, why: str) -> None:
        """End `send` within a second, from another thread: a receiver is known not to come."""
        self._given_up = why

    def close(self) -> None:
        """Forget the receivers, and end the meeting place."""
        self.meeting.close()
        while self._handles:
            os.close(self._handles.popitem()[1])

    def _send_all(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        lane: SendingLane,
        bucket_bytes: int,
        digest: Digest | None,
    ) -> None:
        num_released = 0
        for number, bucket in enumerate(buckets(tensors, bucket_bytes)):
            for entry, tensor in zip(bucket.entries, bucket.tensors, strict=True):
                if digest is not None:
                    digest.add(entry.name, tensor)
            self._post(bucket.table | {"place": lane.carry(number, bucket)})
            lane.start(number)
            while num_released <= number - lane.depth + 1:
                self._await_taken(num_released)
                lane.release(num_released)
                num_released += 1
        last = self._num_posted
        self._post({"is_end": True})
        for number in range(num_released, last):
            self._await_taken(number)
            lane.release(number)

    def _post(self, table: Mapping[str, Any]) -> None:
        self.meeting.post(f"table/{self._num_posted}", table)
        self._num_posted += 1

    def _call_roll(self) -> list[dict[str, Any]]:
        names = [f"here/{receiver}" for receiver in range(len(self._labels))]
        while not self.meeting.has(names):
            if self._given_up or not self.meeting.seconds_left:
                why = self._given_up or "the deadline of the push passed"
                raise WeightsError(f"{self._lacking(names)} did not come to fetch weights: {why}")
            time.sleep(ROLL_PAUSE_S)
        present = [self.meeting.take(*pair) for pair in zip(names, self._labels, strict=True)]
        for receiver, about in enumerate(present):
            if about["host"] == host_id():
                with contextlib.suppress(ProcessLookupError):
                    self._handles[receiver] = os.pidfd_open(about["pid"])
        return present

    def _await_taken(self, number: int) -> None:
        for receiver in range(len(self._labels)):
            self._take(f"taken/{number}/{receiver}", receiver, f"take bucket {number}")

    def _take(self, key: str, receiver: int, what: str) -> None:
        self.meeting.take(key, f"{self._labels[receiver]} to {what}", self.find_trouble)

    def find_trouble(self) -> str:
        """Why the push cannot succeed any more; empty as far as is known."""
        for receiver, handle in self._handles.items():
            looking = select.poll()  # select() takes no descriptor above 1023
            looking.register(handle, select.POLLIN)
            if looking.poll(0):
                return f"the process of {self._labels[receiver]} ended"
        if self.meeting.has([FAILED]):
            about = self.meeting.take(FAILED, "a failure")
            return f"{self._labels[about['receiver']]} failed: {about['why']}"
        return self._given_up

    def _say_broken(self) -> str:
        """Why a group broke, which is seen before whoever left it has said so."""
        until = time.monotonic() + GRACE_S
        while not (trouble := self.find_trouble()) and time.monotonic() < until:
            time.sleep(ROLL_PAUSE_S)
        last = f"taken/{self._num_posted - 1}"
        behind = self._lacking([f"{last}/{receiver}" for receiver in range(len(self._labels))])
        return trouble or f"behind are {behind or 'none'}"

    def _lacking(self, keys: Sequence[str]) -> str:
        """The receivers, of all, whose key is not there."""
        pairs = zip(self._labels, keys, strict=True)
        return ", ".join(label for label, key in pairs if not self.meeting.has([key]))

    def _tell_failure(self) -> None:
        with contextlib.suppress(WeightsError):
            self.meeting.post(STOPPED, {})


class StreamReceiver:
    """The receiving half, of one process. Used like `DiskTransport`; `close` in any case."""

    def __init__(
        self,
        offer: Offer,
        rank_in_engine: int,
        lane_on: Callable[[StreamReceiver, int], ReceivingLane],
    ) -> None:
        self.read: dict[str, str] = {}
        self.meeting = join_meeting(offer.address, offer.port, offer.nonce, offer.deadline_s)
        self._number = offer.first_receiver + rank_in_engine
        self._lane = lane_on(self, self._number)
        self._num_taken = 0
        self._is_done = self._has_left = False

    def receive(self, path: str) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor once; they are hashed meanwhile. `path` is where they will lie.

        Raises:
            WeightsError: the sender failed or ended, or the deadline passed.
        """
        digest = Digest(num_hashing_threads())
        try:
            for name, tensor in self.fetch():
                digest.add(name, tensor)
                yield name, tensor
            self.finish(digest.hexdigest())
        finally:
            digest.close()

    def fetch(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor once; nothing is added up, and the sender is not told of the end."""
        about = {"pid": os.getpid(), "host": host_id(), **self._lane.about}
        self.meeting.post(f"here/{self._number}", about)
        try:
            self._lane.open()
            while not (table := self._next_table()).get("is_end"):
                bucket = read_table(table)
                place = self._lane.fetch(bucket, table["place"])
                self.meeting.post(f"taken/{self._num_taken}/{self._number}", {})
                self._num_taken += 1
                yield from unpack(bucket, place)
        except RuntimeError as error:  # of gloo or NCCL
            raise WeightsError(f"the stream of weights broke: {error}") from error

    def finish(self, digest: str) -> None:
        """Say that everything was loaded, and that nothing of the sender's is held any more."""
        self._leave()
        self.meeting.post(f"done/{self._number}", {})
        self._is_done = True
        self.read = {STREAM: digest}

    def close(self, why: str = "it stopped") -> None:
        """Give everything back; a sender that still waits hears `why`."""
        self._leave()
        if not self._is_done:
            with contextlib.suppress(WeightsError):
                self.meeting.post(FAILED, {"receiver": self._number, "why": why})

    def _leave(self) -> None:
        if not self._has_left:
            self._has_left = True
            self._lane.close()

    def _next_table(self) -> dict[str, Any]:
        number = self._num_taken
        what = f"bucket {number} of the weights"
        return self.meeting.take(f"table/{number}", what, self.find_trouble)

    def find_trouble(self) -> str:
        """Why there will be no more; empty as far as is known."""
        return SENDER_STOPPED if self.meeting.has([STOPPED]) else ""


def num_hashing_threads() -> int:
    """Half of the cores of this process, which has more to do than hashing."""
    return max(1, min(MAX_HASHING, len(os.sched_getaffinity(0)) // 2))


def host_id() -> str:
    """Equal for processes that see each other's process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
