"""How long weights take from a trainer's memory to an engine, beside a copy in shared memory.

    python scripts/bench_push.py [--gb 1 4] [--by ipc broadcast disk] [--repeats 3]
    python scripts/bench_push.py --engine

Without `--engine` a process of its own receives, and copies every tensor into memory that it has
touched before, as an engine's loader does; hashing on both sides is part of it. `disk` writes,
hashes, flushes and reads the files, as a push without a trainer's memory does. The copy is what no
push can do without: into shared memory and out again, in one thread. Every push stands beside a
copy made just before it.

With `--engine` a real vLLM engine on this CPU takes a random model of 0.1 billion parameters
(0.4 GB) by each transport; the probe is timed beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from virgo_ray.weights.hashing import hash_files
from virgo_ray.weights.offer import Offer
from virgo_ray.weights.publish import publish
from virgo_ray.weights.streams import open_sender, receiver_of
from virgo_ray.weights.transport import DiskTransport

ADDRESS = "127.0.0.1"
DEADLINE_S = 600.0
TENSOR_ELEMENTS = 2**24  # 64 MiB, as a large layer
KINDS = ("ipc", "broadcast", "disk")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gb", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--by", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--receive", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.receive:
        receive(json.loads(args.receive))
        return
    if args.engine:
        asyncio.run(time_engine(args.repeats))
        return
    print("| GB | push by | seconds | copy, seconds | push / copy |\n|---|---|---|---|---|")
    for size in args.gb:
        tensors = make_tensors(size)
        for kind in args.by:
            print(row(kind, size, tensors, args.repeats), flush=True)
        del tensors


def row(kind: str, size: float, tensors: dict[str, Tensor], repeats: int) -> str:
    """The medians of all repeats, and of their ratios."""
    pairs = [(copy_seconds(tensors), push_seconds(kind, tensors)) for _ in range(repeats)]
    copy, push = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(push / copy for copy, push in pairs)
    return f"| {size:g} | {kind} | {push:.2f} | {copy:.2f} | {ratio:.1f} |"


def make_tensors(size: float) -> dict[str, Tensor]:
    num = max(1, round(size * 1e9 / (4 * TENSOR_ELEMENTS)))
    return {f"t{i:03d}": torch.randn(TENSOR_ELEMENTS) for i in range(num)}


def copy_seconds(tensors: dict[str, Tensor]) -> float:
    """Through anonymous shared memory into memory that was touched before."""
    out = [torch.zeros_like(tensor) for tensor in tensors.values()]
    began = time.perf_counter()
    file = os.memfd_create("copy")
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    os.ftruncate(file, num_bytes)
    shared = torch.frombuffer(mmap.mmap(file, num_bytes), dtype=torch.float32)
    pieces = shared.split([tensor.numel() for tensor in tensors.values()])
    for piece, tensor in zip(pieces, tensors.values(), strict=True):
        piece.copy_(tensor.reshape(-1))
    for target, piece in zip(out, pieces, strict=True):
        target.copy_(piece.view_as(target))
    os.close(file)
    return time.perf_counter() - began


def push_seconds(kind: str, tensors: dict[str, Tensor]) -> float:
    if kind == "disk":
        return disk_seconds(tensors)
    with closing(open_sender(kind, ADDRESS, 1, DEADLINE_S)) as sender:  # type: ignore[arg-type]
        offer = Offer(kind, 1, ADDRESS, sender.port, sender.nonce, 0, 1, DEADLINE_S)  # type: ignore[arg-type]
        with receiver(asdict(offer), len(tensors)) as start:
            began = time.perf_counter()
            start()
            sender.send(tensors.items())
            return time.perf_counter() - began


def disk_seconds(tensors: dict[str, Tensor]) -> float:
    """On the file system of the temporary directory."""
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        weights = publish(
            Path(root),
            1,
            lambda directory: save_file(tensors, directory / "model.safetensors"),
            partial(hash_files, tensors=tensors),
        )
        with receiver({"path": weights.path}, len(tensors)) as start:
            waiting = time.perf_counter()
            start()
        return (waiting - began) + start.seconds


class receiver:
    """A process that has touched its memory and waits for the word."""

    def __init__(self, what: dict[str, Any], num: int) -> None:
        told = json.dumps({"what": what, "num": num})
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--receive", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seconds = 0.0

    def __enter__(self) -> receiver:
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __call__(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def __exit__(self, *_: object) -> None:
        assert self._process.stdout is not None
        self.seconds = float(self._process.stdout.readline() or "nan")
        if self._process.wait():
            raise SystemExit("the receiver failed; its words are above")


def receive(told: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    out = [torch.zeros(TENSOR_ELEMENTS) for _ in range(told["num"])]
    what = told["what"]
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    source = DiskTransport() if "path" in what else receiver_of(Offer(**what), 0)
    for target, (_, tensor) in zip(out, source.receive(what.get("path", "")), strict=True):
        target.copy_(tensor)
    print(time.perf_counter() - began, flush=True)
    source.close()


async def time_engine(repeats: int) -> None:
    """A real engine, asked for what it serves after every load."""
    from probe_faults import build_large

    from virgo_ray.config import ModelConfig, PromptConfig, RolloutConfig
    from virgo_ray.rollout.engine import RolloutEngine
    from virgo_ray.weights.probe import ProbeItem

    with tempfile.TemporaryDirectory() as directory:
        path = build_large(Path(directory) / "model")
        model = ModelConfig(path=str(path), dtype="float32", max_length=384)
        rollout = RolloutConfig(kv_cache_gib=0.1, max_in_flight=4, enforce_eager=True)
        engine = RolloutEngine(model, PromptConfig(), rollout)
        await engine.start()
        tensors = {
            k: v for f in sorted(path.glob("*.safetensors")) for k, v in load_file(f).items()
        }
        items = [ProbeItem(tuple(range(5, 30)), tuple(range(5, 205))) for _ in range(5)]
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        copies = [copy_seconds(tensors) for _ in range(repeats)]
        print(f"{num_bytes / 1e9:.2f} GB; copy {statistics.median(copies):.2f} s")
        print("| push by | load, seconds | probe, seconds | load / copy |\n|---|---|---|---|")
        version = 0
        for kind in KINDS:
            loads, probes = [], []
            for _ in range(repeats):
                version += 1
                loads.append(await load_seconds(engine, kind, path, tensors, version))
                began = time.perf_counter()
                await engine.score(items)
                probes.append(time.perf_counter() - began)
            load, probe = statistics.median(loads), statistics.median(probes)
            ratio = load / statistics.median(copies)
            print(f"| {kind} | {load:.2f} | {probe:.2f} | {ratio:.1f} |", flush=True)
        engine.close()


async def load_seconds(
    engine: Any, kind: str, path: Path, tensors: dict[str, Tensor], version: int
) -> float:
    """From disk the files are there already: writing them is not part of it."""
    from virgo_ray.records import Weights

    weights = Weights(version, str(path))
    began = time.perf_counter()
    if kind == "disk":
        await engine.load(weights)
        return time.perf_counter() - began
    with (
        closing(open_sender(kind, ADDRESS, 1, DEADLINE_S)) as sender,  # type: ignore[arg-type]
        ThreadPoolExecutor(1) as threads,
    ):
        offer = Offer(kind, version, ADDRESS, sender.port, sender.nonce, 0, 1, DEADLINE_S)  # type: ignore[arg-type]
        sending = threads.submit(sender.send, tensors.items())
        await engine.load(weights, offer)
        sending.result(DEADLINE_S)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
