"""What an engine is told of weights that a trainer holds in memory: where and how to fetch them.

A value without tensors. It travels through Ray's own calls, which is how a nonce and a meeting
place become known to the processes of this run and to nobody else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Stream = Literal["broadcast", "ipc", "adapter"]
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
EXPANDABLE = "expandable_segments:true"
STREAM = "stream"  # in place of a file's name, where what was read came from a stream


@dataclass(frozen=True)
class Offer:
    """One push of one version, as one engine sees it.

    All receiving processes of all engines are numbered from 0; those of this engine from
    `first_receiver` on, one per tensor-parallel process. `base` is the directory that adapters are
    merged into, empty for the other kinds.
    """

    kind: Stream
    version: int
    address: str  # of the meeting place (a TCPStore of the sender), and its port
    port: int
    nonce: str  # 32 hex digits, new for every push
    first_receiver: int
    num_receivers: int
    deadline_s: float
    base: str = ""
    device: Literal["cpu", "cuda"] = "cpu"  # where the sender's buckets lie


def find_expandable() -> str:
    """The variable of this process that asks PyTorch for expandable segments, which other processes
    cannot share; empty if none does."""
    for name in ALLOCATOR_VARIABLES:
        if EXPANDABLE in os.environ.get(name, "").lower().replace(" ", ""):
            return name
    return ""
