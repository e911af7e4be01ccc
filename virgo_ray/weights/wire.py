"""How tensors travel: buckets of one table and one piece of memory, and what they add up to.

A bucket holds tensors up to a size; a larger tensor is a bucket of its own. Every tensor begins at
a multiple of 16 bytes, so that buckets may mix number formats. The digest of a set of tensors is
that of their names, formats, shapes and bytes, in whatever order and buckets they came. Knows no
process and no transport.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16
CPU_BUCKET_BYTES = 64 * 2**20
GPU_BUCKET_BYTES = 2**30
MAX_HASHED_AHEAD = 8  # tensors that may wait for their turn, each held in memory until then


@dataclass(frozen=True)
class Entry:
    """A tensor's place in a bucket."""

    name: str
    dtype: str  # as torch has it: "bfloat16"
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * _dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Bucket:
    """What is sent at once; `tensors` are those of the entries, contiguous and on any device."""

    entries: tuple[Entry, ...]
    num_bytes: int
    tensors: tuple[Tensor, ...] = ()

    @property
    def table(self) -> dict[str, Any]:
        """All of it but the bytes, for JSON."""
        rows = [[e.name, e.dtype, list(e.shape), e.offset] for e in self.entries]
        return {"entries": rows, "num_bytes": self.num_bytes}

    @property
    def pieces(self) -> Iterator[tuple[int, Tensor]]:
        """Offset and bytes of each tensor, those that share memory once."""
        last = -1
        for entry, tensor in zip(self.entries, self.tensors, strict=True):
            if entry.offset > last and tensor.numel():
                last = entry.offset
                yield entry.offset, flat_bytes(tensor)

    def put(self, place: Tensor) -> None:
        """Copy the tensors into `place`, bytes on any device."""
        for offset, piece in self.pieces:
            place[offset : offset + piece.numel()].copy_(piece)


def read_table(table: Mapping[str, Any]) -> Bucket:
    """The bucket of a table, without tensors."""
    entries = tuple(Entry(n, d, tuple(s), o) for n, d, s, o in table["entries"])
    return Bucket(entries, table["num_bytes"])


def buckets(tensors: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[Bucket]:
    """Fill buckets of at most `limit` bytes, in order."""
    entries: list[Entry] = []
    held: list[Tensor] = []
    places: dict[tuple[int, str, torch.Size], int] = {}
    end = 0
    for name, given in tensors:
        tensor = given.detach().contiguous()
        if entries and end + tensor.nbytes > limit:
            yield Bucket(tuple(entries), end, tuple(held))
            entries, held, places, end = [], [], {}, 0
        dtype = str(tensor.dtype).removeprefix("torch.")
        shared = (tensor.data_ptr(), dtype, tensor.shape)
        offset = places.setdefault(shared, end) if tensor.numel() else end
        entries.append(Entry(name, dtype, tuple(tensor.shape), offset))
        held.append(tensor)
        if offset == end:
            end += math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT
    if entries:
        yield Bucket(tuple(entries), end, tuple(held))


def unpack(bucket: Bucket, place: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of every entry, as views of `place`, which holds the bucket's bytes."""
    for entry in bucket.entries:
        piece = place[entry.offset : entry.offset + entry.num_bytes]
        yield entry.name, piece.view(_dtype(entry.dtype)).view(entry.shape)


def flat_bytes(tensor: Tensor) -> Tensor:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8)


def memory_of(tensor: Tensor) -> Any:
    """The same as a buffer of Python's, without a copy if it is on the CPU."""
    return flat_bytes(tensor).cpu().numpy()


class Digest:
    """Adds up tensors in other threads; `hexdigest` waits for them."""

    def __init__(self, num_threads: int = 1) -> None:
        self._threads = ThreadPoolExecutor(
            num_threads, "digest"
        )  # deadline: hashing waits for none
        self._waiting: deque[Future[None]] = deque()
        self._lines: dict[str, str] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Take in a contiguous tensor, which must keep its values until it has been hashed.

        Waits while too many are waiting.
        """
        self._waiting.append(self._threads.submit(self._hash, name, tensor))
        if len(self._waiting) > MAX_HASHED_AHEAD:
            self._waiting.popleft().result()  # deadline: hashing waits for none

    def hexdigest(self) -> str:
        """The digest of all tensors so far."""
        while self._waiting:
            self._waiting.popleft().result()  # deadline: hashing waits for none
        return hashlib.sha256(json.dumps(sorted(self._lines.items())).encode()).hexdigest()

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    def _hash(self, name: str, tensor: Tensor) -> None:
        content = hashlib.sha256(memory_of(tensor)).hexdigest()
        self._lines[name] = f"{tensor.dtype} {list(tensor.shape)} {content}"


def digest_of(tensors: Iterable[tuple[str, Tensor]], num_threads: int = 1) -> str:
    """The digest of tensors that are at hand."""
    digest = Digest(num_threads)
    try:
        for name, tensor in tensors:
            digest.add(name, tensor.detach().contiguous())
        return digest.hexdigest()
    finally:
        digest.close()


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found
