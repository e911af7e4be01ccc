"""The sender or the receiver of pushed weights, as a process: `push_side.py cuda|cpu`.

Both make the same tensors on their own: any bits, not only those of numbers.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from train_checks.side import Commands, Say, serve
from virgo_ray.errors import WeightsError
from virgo_ray.weights.offer import STREAM, Offer
from virgo_ray.weights.streams import Receiver, Sender, open_sender, receiver_of

SHARED = "memfd:virgo_ray.weights"  # what the kernel calls the sender's memory on a CPU
PIECES = 16  # tensors in a bucket


def element_counts(num_bytes: int, bucket_bytes: int) -> list[int]:
    """Of bfloat16 tensors: three tiny ones, one larger than a bucket, and equal ones after it.

    >>> element_counts(4000, 1024)[:6]
    [1, 3, 7, 32, 640, 32]
    """
    piece, large = bucket_bytes // PIECES // 2, 5 * bucket_bytes // 8
    num_pieces = max(1, (num_bytes // 2 - large) // piece)
    return [1, 3, 7, piece, large, *[piece] * num_pieces]


def made(number: int, num_elements: int, device: str) -> Tensor:
    generator = torch.Generator(device).manual_seed(number)
    bits = torch.randint(
        -(2**15), 2**15, (num_elements,),
        dtype=torch.int16, device=device, generator=generator,
    )  # fmt: skip
    return bits.view(torch.bfloat16)


class Sending:
    """Holds weights in host memory, as a trainer does after a fit, in a process group of one."""

    def __init__(self, device: str, say: Say) -> None:
        self._device = device
        self._say = say
        self._tensors: dict[str, Tensor] = {}
        self._sender: Sender | None = None

    def prepare(self, counts: list[int], directory: str = "") -> dict[str, Any]:
        """Join a group; take the tensors of a directory, or make them."""
        backend = "nccl" if self._device == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        dist.all_reduce(torch.ones(1, device=self._device))
        for file in sorted(Path(directory).glob("*.safetensors")) if directory else ():
            self._tensors |= load_file(file)
        for number, count in enumerate(counts):
            self._tensors[f"weight.{number}"] = made(number, count, self._device).cpu()
        return {"num_bytes": sum(tensor.nbytes for tensor in self._tensors.values())}

    def open(self, kind: Any, device: str, deadline_s: float, bucket_bytes: int) -> dict[str, Any]:
        self._sender = open_sender(
            kind, "127.0.0.1", 1, deadline_s, device, bucket_bytes=bucket_bytes
        )
        return {"port": self._sender.port, "nonce": self._sender.nonce}

    def send(self, num: int | None = None, stop_at: int | None = None) -> dict[str, Any]:
        """Send the first `num` tensors; say so and stand still before that of `stop_at`."""
        assert self._sender is not None
        began = time.perf_counter()
        try:
            digest = self._sender.send(self._some(num, stop_at))
            return {"digest": digest, "seconds": time.perf_counter() - began}
        finally:
            self._sender.close()
            self._sender = None

    def _some(self, num: int | None, stop_at: int | None) -> Iterator[tuple[str, Tensor]]:
        for index, item in enumerate(list(self._tensors.items())[:num]):
            if index == stop_at:
                self._say({"standing_at": index})
                time.sleep(3600)
            yield item


class Receiving:
    """Copies what it is sent into memory of its own, as an engine does."""

    def __init__(self, device: str) -> None:
        self._device = device

    def receive(self, offer: dict[str, Any], counts: list[int]) -> dict[str, Any]:
        """What came, held against what was to come; nothing of it is kept."""
        held: dict[str, Tensor] = {}
        receiver = receiver_of(Offer(**offer), 0, self._device)
        failed = "it fell over"
        try:
            self._take_all(receiver, held)
            failed = ""
        except WeightsError as error:
            failed = str(error)
        finally:
            receiver.close(failed)
        wrong = [name for name, tensor in held.items() if not self._is_right(name, tensor, counts)]
        digest = receiver.read.get(STREAM, "")
        return {"digest": digest, "num": len(held), "wrong": wrong, "failed": failed}

    def _take_all(self, receiver: Receiver, held: dict[str, Tensor]) -> None:
        for name, tensor in receiver.receive("nowhere"):
            held[name] = tensor.to(self._device, copy=True)

    def _is_right(self, name: str, tensor: Tensor, counts: list[int]) -> bool:
        number = int(name.partition(".")[2])
        expected = made(number, counts[number], self._device)
        return tensor.dtype == expected.dtype and torch.equal(
            tensor.view(torch.int16), expected.view(torch.int16)
        )


def memory(device: str) -> dict[str, Any]:
    """Bytes that this process holds, and those of the device that nobody does.

    On a CPU it is shared memory of weights, mapped or open. Nothing is collected here that the
    project has to collect itself (`ipc_collect`).
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return {"held": torch.cuda.memory_allocated(), "free": torch.cuda.mem_get_info()[0]}
    return {"held": _mapped_bytes() + _open_bytes(), "free": None}


def _mapped_bytes() -> int:
    lines = [s for s in Path("/proc/self/maps").read_text().splitlines() if SHARED in s]
    ranges = [line.split()[0].split("-") for line in lines]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)


def _open_bytes() -> int:
    found = 0
    for file in Path("/proc/self/fd").iterdir():
        try:
            found += os.stat(file).st_size if SHARED in os.readlink(file) else 0
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


def main() -> None:
    device = sys.argv[1]
    if device == "cpu":
        torch.set_num_threads(1)

    def commands(say: Say) -> Commands:
        sending, receiving = Sending(device, say), Receiving(device)
        return {
            "prepare": sending.prepare,
            "open": sending.open,
            "send": sending.send,
            "receive": receiving.receive,
            "memory": lambda: memory(device),
        }

    serve(commands)


if __name__ == "__main__":
    main()
