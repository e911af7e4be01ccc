"""Opens either half of a stream of weights by the name of its transport."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from virgo_ray.errors import ConfigError
from virgo_ray.weights.adapter import AdapterReceiver, AdapterUpdate, send_adapters
from virgo_ray.weights.broadcast import Group, ReceivingBroadcast, SendingBroadcast
from virgo_ray.weights.ipc import ReceivingMemory, SendingMemory
from virgo_ray.weights.ipc_gpu import ReceivingStaging, SendingStaging, take_part
from virgo_ray.weights.meeting import join_meeting, own_address
from virgo_ray.weights.offer import Offer, Stream, find_expandable
from virgo_ray.weights.protocol import (
    ReceivingLane,
    SendingLane,
    StreamReceiver,
    StreamSender,
    num_hashing_threads,
)
from virgo_ray.weights.wire import CPU_BUCKET_BYTES, GPU_BUCKET_BYTES, Digest


class Receiver(Protocol):
    """What `DiskTransport` is too."""

    @property
    def read(self) -> dict[str, str]: ...

    def receive(self, path: str) -> Iterator[tuple[str, Tensor]]: ...

    def close(self, why: str = ...) -> None: ...


class Sender:
    """Sends one version to all receivers, once; `close` in any case."""

    def __init__(self, kind: Stream, stream: StreamSender, lane: SendingLane, size: int) -> None:
        self._kind = kind
        self._stream = stream
        self._lane = lane
        self._bucket_bytes = size

    @property
    def port(self) -> int:
        """Of the meeting place."""
        return self._stream.port

    @property
    def nonce(self) -> str:
        return self._stream.nonce

    def send(
        self, tensors: Iterable[tuple[str, Tensor]], update: AdapterUpdate | None = None
    ) -> str:
        """Send the tensors, under their names in the checkpoint; returns their digest.

        It is what every receiver has under "stream" in `read`, if nothing went wrong. Adapters need
        `update`: it alone is sent, and the digest is that of the tensors.

        Raises:
            WeightsError: a receiver did not come, failed, or was not through in time; it is named.
        """
        digest = Digest(num_hashing_threads())
        try:
            if self._kind == "adapter":
                assert update is not None
                send_adapters(self._stream, self._lane, dict(tensors), update, digest)
            else:
                self._stream.send(tensors, self._lane, self._bucket_bytes, digest)
            return digest.hexdigest()
        finally:
            digest.close()

    def cancel(self, why: str) -> None:
        """End `send` soon, from another thread: a receiver is known not to come."""
        self._stream.cancel(why)

    def close(self) -> None:
        """Give the meeting place back."""
        self._stream.close()


def open_sender(
    kind: Stream,
    address: str,
    num_receivers: int,
    deadline_s: float,
    device: str = "cpu",
    labels: Sequence[str] = (),
    bucket_bytes: int = 0,
) -> Sender:
    """A sender that can be met at `address`, which is one of this host's; `labels` name receivers
    in messages. The deadline begins now.

    Raises:
        ConfigError: this process allocates memory that cannot be shared (`device` is a GPU).
    """
    if kind == "ipc" and device != "cpu":
        refuse_expandable_segments()
    stream = StreamSender(address, num_receivers, deadline_s, labels)
    size = bucket_bytes or (CPU_BUCKET_BYTES if device == "cpu" else GPU_BUCKET_BYTES)
    with contextlib.ExitStack() as on_error:
        on_error.callback(stream.close)
        lane = _sending_lane(kind, stream, address, num_receivers, device)
        on_error.pop_all()
    return Sender(kind, stream, lane, size)


def _sending_lane(
    kind: Stream, stream: StreamSender, address: str, num_receivers: int, device: str
) -> SendingLane:
    if kind == "ipc":
        return SendingMemory() if device == "cpu" else SendingStaging(stream, device)
    device = "cpu" if kind == "adapter" else device
    return SendingBroadcast(
        Group(stream.meeting, address, 0, num_receivers + 1, device, stream.find_trouble)
    )


def receiver_of(offer: Offer, rank_in_engine: int, device: str = "cpu") -> Receiver:
    """The receiving half in one process of an engine, whose weights lie on `device`."""

    def lane_on(stream: StreamReceiver, number: int) -> ReceivingLane:
        if offer.kind == "ipc":
            on_gpu = offer.device == "cuda"
            return ReceivingStaging(number, device) if on_gpu else ReceivingMemory()
        where = "cpu" if offer.kind == "adapter" else offer.device
        address, size = own_address(offer.address), offer.num_receivers + 1
        return ReceivingBroadcast(
            Group(stream.meeting, address, number + 1, size, where, stream.find_trouble)
        )

    stream = StreamReceiver(offer, rank_in_engine, lane_on)
    return AdapterReceiver(stream, offer.base, device) if offer.kind == "adapter" else stream


def join_sender(offer: Offer, rank: int, device: str) -> None:
    """Take part in sending by ipc from GPUs, as any rank of the trainer but the first.

    Returns when the push is over. `offer` is one of those that engines get, whichever.

    Raises:
        ConfigError: as `open_sender`.
        WeightsError: the first rank stopped, or the deadline passed.
    """
    refuse_expandable_segments()
    take_part(join_meeting(offer.address, offer.port, offer.nonce, offer.deadline_s), rank, device)


def refuse_expandable_segments() -> None:
    """Such memory is shared by file descriptors, which containers do not let pass.

    Raises:
        ConfigError: this process uses it.
    """
    if name := find_expandable():
        raise ConfigError(
            f"{name}={os.environ[name]!r} cannot be used with push.transport: ipc on GPUs; "
            "take expandable_segments out of it, or set push.transport: broadcast"
        )
