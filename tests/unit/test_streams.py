"""Streams of weights between senders and receivers: real groups and real shared memory.

Receivers are threads of this process, except where one is killed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from virgo_ray.errors import ConfigError, WeightsError
from virgo_ray.weights import meeting as meeting_module
from virgo_ray.weights.adapter import AdapterUpdate, LowRank, find_changed, merge
from virgo_ray.weights.meeting import Meeting, join_meeting, open_meeting
from virgo_ray.weights.offer import Offer
from virgo_ray.weights.streams import Sender, open_sender, receiver_of
from virgo_ray.weights.wire import digest_of

ADDRESS = "127.0.0.1"
DEADLINE_S = 60.0
KINDS = ["broadcast", "ipc"]
PROCESS = Path(__file__).with_name("receiving_process.py")


class Push:
    """A sender in a thread, and as many receivers."""

    def __init__(
        self, kind: str, num: int = 1, deadline_s: float = DEADLINE_S, **args: Any
    ) -> None:
        self.sender = open_sender(kind, ADDRESS, num, deadline_s, **args)
        base = str(args.pop("base", ""))
        self.offers = [
            Offer(kind, 1, ADDRESS, self.sender.port, self.sender.nonce, i, num, deadline_s, base)
            for i in range(num)
        ]
        self.threads = ThreadPoolExecutor(num + 1)

    def send(self, tensors: Any, update: AdapterUpdate | None = None) -> Future[str]:
        return self.threads.submit(Sender.send, self.sender, tensors, update)

    def receive(self, offer: Offer | None = None, num: int | None = None) -> Future[Any]:
        return self.threads.submit(receive, offer or self.offers[0], num)

    def __enter__(self) -> Push:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.cancel("the test is over")
        self.threads.shutdown()
        self.sender.close()


def receive(offer: Offer, num: int | None = None) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors and what was read; with `num`, fail after so many."""
    receiver = receiver_of(offer, 0)
    got = {}
    why = "it fell over"
    try:
        for name, tensor in receiver.receive("nowhere"):
            got[name] = tensor
            if len(got) == num:
                raise KeyError("fell over")
        why = ""
        return got, receiver.read
    finally:
        receiver.close(why)


def many() -> dict[str, torch.Tensor]:
    """Of all kinds that a checkpoint has."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "odd": torch.randn(3, generator=generator).bfloat16(),
        "none": torch.empty(0, 4),
        "scalar": torch.tensor(3),
        "large": torch.randn(300, 257, generator=generator),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "eight": torch.randn(5, 5, generator=generator).to(torch.float8_e4m3fn),
        "half": torch.randn(2, 3, 5, generator=generator).half(),
    }
    return tensors | {"tied": tensors["large"]}


def assert_same(got: dict[str, torch.Tensor], sent: dict[str, torch.Tensor]) -> None:
    assert list(got) == list(sent)
    for name, tensor in sent.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
        assert torch.equal(got[name].double(), tensor.double()), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bucket_bytes", [1, 100, 0])
def test_every_receiver_gets_every_tensor_bit_for_bit(kind, bucket_bytes):
    with Push(kind, 2, bucket_bytes=bucket_bytes) as push:
        sending = push.send(many().items())
        receiving = [push.receive(offer) for offer in push.offers]
        digest = sending.result(DEADLINE_S)
        for got, read in (future.result(DEADLINE_S) for future in receiving):
            assert_same(got, many())
            assert read == {"stream": digest} == {"stream": digest_of(many().items())}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_received_stays_when_the_sender_is_gone(kind):
    with Push(kind, bucket_bytes=100) as push:
        tensors = many()
        sending, receiving = push.send(tensors.items()), push.receive()
        sending.result(DEADLINE_S)
        for tensor in tensors.values():
            tensor.zero_()
    gc.collect()
    assert_same(receiving.result(DEADLINE_S)[0], many())


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_that_does_not_come_is_named_at_the_deadline(kind):
    with Push(kind, 2, deadline_s=1, labels=["engine 4", "engine 7"]) as push:
        sending, receiving = push.send(many().items()), push.receive()
        with pytest.raises(WeightsError, match=r"^engine 7 did not come"):
            sending.result(DEADLINE_S)
        with pytest.raises(WeightsError):
            receiving.result(DEADLINE_S)


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_that_fails_is_named_and_ends_the_push_at_once(kind):
    with Push(kind, 2, bucket_bytes=1, labels=["engine 4", "engine 7"]) as push:
        sending = push.send(many().items())
        receiving = [push.receive(push.offers[0]), push.receive(push.offers[1], num=3)]
        with pytest.raises(WeightsError, match=r"engine 7 failed: it fell over"):
            sending.result(DEADLINE_S / 4)
        with pytest.raises(WeightsError):
            receiving[0].result(DEADLINE_S / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sender_that_fails_ends_its_receivers_at_once(kind):
    def fails() -> Any:
        yield from list(many().items())[:5]
        raise KeyError("gathering")

    with Push(kind, bucket_bytes=1) as push:
        sending, receiving = push.send(fails()), push.receive()
        with pytest.raises(KeyError):
            sending.result(DEADLINE_S / 4)
        with pytest.raises(WeightsError):
            receiving.result(DEADLINE_S / 4)


def test_who_comes_after_the_sender_has_gone_hears_so_at_once():
    sender = open_sender("ipc", ADDRESS, 1, DEADLINE_S)
    port = sender.port
    sender.close()
    del sender
    gc.collect()
    began = time.monotonic()
    with pytest.raises(WeightsError, match=f"nobody offers weights at {ADDRESS}:{port}"):
        join_meeting(ADDRESS, port, "00" * 16, DEADLINE_S)
    assert time.monotonic() - began < DEADLINE_S / 4


def test_a_sender_that_was_stopped_is_not_waited_for(monkeypatch):
    """Its kernel still takes what is sent to it, as that of a host that is gone seems to."""
    monkeypatch.setattr(meeting_module, "ANSWER_S", 0.5)
    monkeypatch.setattr(meeting_module, "JOIN_S", 0.5)
    meeting, port, nonce = open_meeting(ADDRESS, DEADLINE_S)
    with StoppableRelay(port) as relay:
        joined = join_meeting(ADDRESS, relay.port, nonce, DEADLINE_S)
        assert not joined.has(["key"])
        relay.is_stopped = True
        for ask in (
            lambda: joined.has(["key"]),
            lambda: joined.post("key", {}),
            lambda: joined.take("key", "a value"),
        ):
            with pytest.raises(WeightsError, match=r"does not answer; its process was stopped"):
                ask()
        with pytest.raises(WeightsError, match=r"nobody offers weights at .*: no answer"):
            join_meeting(ADDRESS, relay.port, nonce, DEADLINE_S)
    meeting.close()


class StoppableRelay:
    """Passes bytes on to a port and back, until it is stopped."""

    def __init__(self, port: int) -> None:
        self.is_stopped = False
        self._to = port
        self._open: list[socket.socket] = [socket.create_server((ADDRESS, 0))]
        self.port = self._open[0].getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ends = self._open[0].accept()[0], socket.create_connection((ADDRESS, self._to))
                self._open += ends
                for pair in (ends, ends[::-1]):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, start: socket.socket, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := start.recv(4096):
                if not self.is_stopped:
                    end.sendall(content)

    def __enter__(self) -> StoppableRelay:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_a_push_that_is_cancelled_ends_at_once_and_says_why():
    with Push("ipc") as push:
        sending = push.send(many().items())
        push.sender.cancel("engine 0 died")
        with pytest.raises(WeightsError, match=r"receiver 0 did not come .*: engine 0 died"):
            sending.result(DEADLINE_S / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_with_another_nonce_gets_nothing(kind):
    with Push(kind, deadline_s=1) as push:
        sending = push.send(many().items())
        stranger = push.receive(replace(push.offers[0], nonce="00" * 16))
        for future in (sending, stranger):
            with pytest.raises(WeightsError):
                future.result(DEADLINE_S)


def test_a_value_that_was_not_signed_for_its_key_is_refused():
    meeting, port, nonce = open_meeting(ADDRESS, DEADLINE_S)
    meeting.post("table/0", {"is_end": True})
    keys = meeting._store.list_keys()
    assert not any(nonce in key for key in keys)
    raw = dist.TCPStore(ADDRESS, port, is_master=False)
    raw.set(keys[0].replace("table/0", "table/1"), raw.get(keys[0]))
    assert meeting.take("table/0", "a table") == {"is_end": True}
    with pytest.raises(WeightsError, match=r"not signed by this run"):
        meeting.take("table/1", "a table")
    with pytest.raises(WeightsError, match=r"not signed by this run"):
        Meeting(PrefixGiver(raw, keys[0]), "11" * 16, DEADLINE_S).take("table/0", "a table")


class PrefixGiver:
    """A store on which every key is there, and has one value."""

    def __init__(self, store: Any, key: str) -> None:
        self.value = store.get(key)

    def check(self, keys: list[str]) -> bool:
        return True

    def get(self, key: str) -> bytes:
        return self.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_that_flips_on_the_way_changes_the_digest(kind, monkeypatch):
    with Push(kind, bucket_bytes=1 << 20) as push:
        sent = many()
        sending = push.send(flipping(sent))
        _, read = push.receive().result(DEADLINE_S)
        assert read["stream"] != digest_of(many().items())
        assert sending.result(DEADLINE_S) == read["stream"]


def flipping(tensors: dict[str, torch.Tensor]) -> Any:
    for name, tensor in tensors.items():
        yield name, tensor + 1 if name == "large" else tensor


def test_sockets_listen_on_the_given_address_alone():
    seen: list[str] = []

    def look() -> Any:
        for item in many().items():
            connections = psutil.Process().net_connections()
            seen.extend(c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN)
            yield item

    with Push("broadcast", bucket_bytes=1) as push:
        sending, receiving = push.send(look()), push.receive()
        sending.result(DEADLINE_S)
        receiving.result(DEADLINE_S)
    assert set(seen) == {ADDRESS}


def test_the_default_group_of_the_process_is_not_touched():
    before = dist.is_initialized(), dist.group.WORLD
    with Push("broadcast") as push:
        sending, receiving = push.send(many().items()), push.receive()
        sending.result(DEADLINE_S)
        receiving.result(DEADLINE_S)
    assert (dist.is_initialized(), dist.group.WORLD) == before


@pytest.mark.parametrize("kind", KINDS)
def test_pushes_leave_nothing_behind(kind):
    def push_once() -> None:
        with Push(kind, bucket_bytes=1 << 10) as push:
            sending, receiving = push.send(many().items()), push.receive()
            sending.result(DEADLINE_S)
            receiving.result(DEADLINE_S)

    push_once()
    gc.collect()
    process, shared = psutil.Process(), set(os.listdir("/dev/shm"))
    num_files, num_threads = process.num_fds(), process.num_threads()
    for _ in range(5):
        push_once()
    gc.collect()
    assert process.num_fds() <= num_files + 1
    assert process.num_threads() <= num_threads + 1
    mine = [name for name in set(os.listdir("/dev/shm")) - shared if str(os.getpid()) in name]
    assert not mine


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_that_is_killed_in_the_middle_is_named_at_once(kind):
    with Push(kind, 2, bucket_bytes=1, labels=["engine 4", "engine 7"]) as push:
        told = json.dumps(asdict(push.offers[1]))
        process = subprocess.Popen(
            [sys.executable, str(PROCESS), told, "3"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PROCESS.parents[2])},
        )
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            sending, receiving = push.send(many().items()), push.receive()
            assert process.stdout.readline() == b"sleeping\n"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        with pytest.raises(WeightsError, match=r"engine 7"):
            sending.result(DEADLINE_S / 4)
        with pytest.raises(WeightsError):
            receiving.result(DEADLINE_S / 4)


def test_what_is_mapped_is_not_copied():
    with Push("ipc") as push:
        sending = push.send([("large", torch.ones(2**23))])
        receiver = receiver_of(push.offers[0], 0)
        held = list(receiver.receive("nowhere"))
        sending.result(DEADLINE_S)
        address = held[0][1].data_ptr()
        assert int(held[0][1].sum()) == 2**23
        receiver.close("")
        assert private_bytes_at(address) < 2**20


def private_bytes_at(address: int) -> int:
    """Of the mapping that holds this address: memory of this process alone."""
    is_inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first:
            start, end = (int(part, 16) for part in first.split("-"))
            is_inside = start <= address < end
        elif is_inside and first == "Anonymous:":
            return int(rest.split()[0]) * 1024
    raise AssertionError("not mapped")


def test_a_process_with_very_many_files_still_sees_a_receiver_end():
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1030)]
    try:
        with Push("ipc") as push:
            sending, receiving = push.send(many().items()), push.receive()
            sending.result(DEADLINE_S)
            receiving.result(DEADLINE_S)
            assert max(push.sender._stream._handles.values()) > 1023
            assert push.sender._stream.find_trouble() == ""
    finally:
        for file in files:
            os.close(file)


@pytest.mark.parametrize("value", ["expandable_segments:True", "a:1, expandable_segments: true"])
def test_memory_that_cannot_be_shared_is_refused_before_a_push_from_gpus(value, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", value)
    with pytest.raises(ConfigError, match=r"take expandable_segments out of it"):
        open_sender("ipc", ADDRESS, 1, DEADLINE_S, device="cuda")
    open_sender("ipc", ADDRESS, 1, DEADLINE_S).close()


# -- adapters --------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> dict[str, torch.Tensor]:
    """The weights in tmp_path, with one that the model class does not build."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(12, 8, generator=generator).bfloat16() for name in ("q", "k", "v", "eye")
    }
    save_file(tensors | {"mtp": torch.ones(2)}, tmp_path / "model.safetensors")
    return tensors


def updated(base: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], AdapterUpdate]:
    """What the trainer has of it, and what it sends."""
    adapters = {name: LowRank(torch.randn(4, 8), torch.randn(12, 4), 0.7) for name in ("q", "v")}
    merged = {n: merge(base[n], a.down, a.up, a.scale) for n, a in adapters.items()}
    return base | merged | {"eye": base["eye"] * 2}, AdapterUpdate(adapters, frozenset(["eye"]))


def test_adapters_are_merged_by_the_receiver_bit_for_bit(base, tmp_path):
    merged, update = updated(base)
    with Push("adapter") as push:
        sending = push.send(merged.items(), update)
        got, read = push.receive(replace(push.offers[0], base=str(tmp_path))).result(DEADLINE_S)
        assert got.keys() == merged.keys()
        assert all(torch.equal(got[name], merged[name]) for name in merged)
        assert read == {"stream": sending.result(DEADLINE_S)}


def test_what_earlier_fits_changed_is_sent_whole(base, tmp_path):
    merged, update = updated(base)
    merged["k"] = torch.zeros_like(base["k"])
    save_file({**base, "k": merged["k"]}, tmp_path / "model.safetensors")
    adapted = update.adapters.keys()
    assert find_changed(tmp_path, merged, adapted) == {"eye"}
    merged["k"][0, 0] = -0.0  # equal to what is there, but for a bit
    assert find_changed(tmp_path, merged, adapted) == {"eye", "k"}
    update = replace(update, whole=find_changed(tmp_path, merged, adapted))
    with Push("adapter") as push:
        sending = push.send(merged.items(), update)
        _, read = push.receive(replace(push.offers[0], base=str(tmp_path))).result(DEADLINE_S)
        assert read == {"stream": sending.result(DEADLINE_S)}


def test_adapters_on_another_base_have_another_digest(base, tmp_path):
    merged, update = updated(base)
    save_file({**base, "k": base["k"] + 1}, tmp_path / "model.safetensors")
    with Push("adapter") as push:
        sending = push.send(merged.items(), update)
        _, read = push.receive(replace(push.offers[0], base=str(tmp_path))).result(DEADLINE_S)
        assert read["stream"] != sending.result(DEADLINE_S)


def test_a_base_that_lacks_a_tensor_is_refused_by_name(base, tmp_path):
    merged, update = updated(base)
    del base["k"]
    save_file(base, tmp_path / "model.safetensors")
    with Push("adapter") as push:
        sending = push.send(merged.items(), update)
        with pytest.raises(WeightsError, match=r"lacks \['k'\]"):
            push.receive(replace(push.offers[0], base=str(tmp_path))).result(DEADLINE_S)
        with pytest.raises(WeightsError, match=r"receiver 0 failed: it fell over"):
            sending.result(DEADLINE_S / 4)


def test_adapters_of_weights_that_the_model_does_not_have_are_refused(base):
    merged, update = updated(base)
    del merged["q"]
    with Push("adapter") as push, pytest.raises(WeightsError, match=r"change \['q'\]"):
        push.send(merged.items(), update).result(DEADLINE_S)
