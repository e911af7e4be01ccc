"""What ranks of a trainer say to each other while they share GPU memory; without a GPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from virgo_ray.errors import WeightsError
from virgo_ray.weights import ipc_gpu, streams
from virgo_ray.weights.meeting import join_meeting
from virgo_ray.weights.offer import Offer
from virgo_ray.weights.protocol import StreamSender
from virgo_ray.weights.streams import open_sender, receiver_of
from virgo_ray.weights.wire import CPU_BUCKET_BYTES

ADDRESS = "127.0.0.1"
DEADLINE_S = 30.0


class Memory:
    """Stands for a rank's staging buffer; the third thread's has no room if it is told so."""

    is_full = False

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device("cpu")
        self.exports: dict[str, list[Any]] = {}

    def room(self, num_bytes: int, readers: Any) -> torch.Tensor:
        if self.is_full and "rank-2" in threading.current_thread().name:
            raise torch.OutOfMemoryError("CUDA out of memory\nand more")
        return torch.empty(num_bytes, dtype=torch.uint8)

    def close(self) -> None:
        pass


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three ranks as threads: runs a send, returns the errors of all, and the broadcasts begun."""
    begun: list[int] = []
    monkeypatch.setattr(ipc_gpu, "Staging", Memory)
    monkeypatch.setattr(ipc_gpu, "gpu_id", lambda device: "no GPU")
    monkeypatch.setattr(ipc_gpu.torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(ipc_gpu.dist, "broadcast", lambda flat, rank: begun.append(rank))

    def run() -> tuple[list[BaseException | None], int]:
        stream = StreamSender(ADDRESS, 0, DEADLINE_S)
        lane = ipc_gpu.SendingStaging(stream, "cpu")
        lane._num_ranks = 3
        tensors = [("a", torch.ones(5)), ("b", torch.ones(7))]

        def take_part(rank: int) -> None:
            threading.current_thread().name = f"rank-{rank}"
            meeting = join_meeting(ADDRESS, stream.port, stream.nonce, DEADLINE_S)
            ipc_gpu.take_part(meeting, rank, "cpu")

        def send() -> None:
            try:
                stream.send(tensors, lane, 1)
            finally:
                stream.close()

        with ThreadPoolExecutor(3) as threads:
            others = [threads.submit(take_part, rank) for rank in (1, 2)]
            sending = threads.submit(send)
            errors = [f.exception(timeout=DEADLINE_S) for f in (sending, *others)]
        return errors, len(begun)

    return run


def test_all_ranks_take_part_in_every_bucket_and_leave_without_an_error(group: Any) -> None:
    assert group() == ([None, None, None], 6)


def test_a_rank_without_room_ends_the_push_before_anybody_waits_for_it(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "is_full", True)
    (sender, first, second), num_begun = group()
    assert str(sender) == "rank 2 of the trainer cannot take part: CUDA out of memory"
    assert isinstance(first, WeightsError) and "the sender" in str(first)
    assert "no room for a bucket of weights" in str(second)
    assert num_begun == 0


def test_a_receiver_lets_go_of_what_is_the_senders_before_it_says_that_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    close, post = streams.ReceivingMemory.close, ipc_gpu.Meeting.post
    monkeypatch.setattr(
        streams.ReceivingMemory, "close", lambda lane: (said.append("closed"), close(lane))[1]
    )
    monkeypatch.setattr(
        ipc_gpu.Meeting, "post", lambda m, key, value: (said.append(key), post(m, key, value))[1]
    )
    sender = open_sender("ipc", ADDRESS, 1, DEADLINE_S)
    offer = Offer("ipc", 1, ADDRESS, sender.port, sender.nonce, 0, 1, DEADLINE_S)
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(sender.send, [("a", torch.ones(3))])
        receiver = receiver_of(offer, 0)
        assert [name for name, _ in receiver.receive("")] == ["a"]
        sending.result(timeout=DEADLINE_S)
        receiver.close()
    sender.close()
    assert said.index("closed") < said.index("done/0") and said.count("closed") == 1


def test_a_sender_that_cannot_be_made_leaves_no_meeting_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[StreamSender] = []
    close = StreamSender.close
    monkeypatch.setattr(StreamSender, "close", lambda s: (closed.append(s), close(s))[1])

    def fails(*_: Any) -> None:
        raise RuntimeError("no such GPU")

    monkeypatch.setattr(streams, "SendingStaging", fails)
    with pytest.raises(RuntimeError, match="no such GPU"):
        open_sender("ipc", ADDRESS, 1, DEADLINE_S, device="cuda", bucket_bytes=CPU_BUCKET_BYTES)
    assert len(closed) == 1
