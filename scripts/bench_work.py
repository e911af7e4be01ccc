#!/usr/bin/env python
"""The count of FLOPs against measured times: `python scripts/bench_work.py [--size 0.1b]`.

Times forward and backward pass of micro-batches of a random model, short and long, with and without
pictures, with many targets and few, and compares them with what virgo_ray/train/work.py counts: for
the balance of ranks a micro-batch's time must follow its FLOPs, whatever it is made of. Prints the
mean and the largest error of a line through the measured times (a cost of each micro-batch, and one
of each FLOP), and the same for tokens in the place of FLOPs. In float32, on a CPU or a GPU; other
work on the machine is in the times, so each is the least of several.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench_plan import ROPE, SIZES
from train_checks.kit import Kit
from train_checks.scale import SMALL, SMALL_TEXT, SMALL_VISION, Shape

from virgo_ray.config import Config
from virgo_ray.records import Example
from virgo_ray.train.batch import Batcher
from virgo_ray.train.loss import TargetLogprobs, weighted_nll
from virgo_ray.train.model import load_model, prepare
from virgo_ray.train.pack import row_tokens
from virgo_ray.train.rows import packed_rows
from virgo_ray.train.shape import measure
from virgo_ray.train.work import Work, count_work

PATCH = 8  # pixels
VISION = SMALL_VISION | {
    "depth": 8, "hidden_size": 256, "intermediate_size": 768, "num_heads": 4, "window_size": 64,
    "fullatt_block_indexes": [3, 7], "patch_size": PATCH, "spatial_patch_size": PATCH,
}  # fmt: skip


@dataclass(frozen=True)
class Kinds:
    """Micro-batches to time: how many examples, of how many tokens, with how large a picture."""

    num: int
    tokens: int
    side: int = 0  # pixels of a square picture; 0: none
    target_share: float = 0.8


KINDS = (
    *(Kinds(1, n) for n in (256, 512, 1024, 2048, 4096)),
    *(Kinds(n, 128) for n in (2, 4, 8, 16)),
    *(Kinds(2, n) for n in (512, 1024)),
    *(Kinds(1, n, target_share=0.05) for n in (512, 1024, 2048)),
    Kinds(8, 128, target_share=0.05),
    *(Kinds(1, 1024, side) for side in (128, 256, 384)),
    Kinds(2, 512, 256), Kinds(1, 2048, 512),
)  # fmt: skip


@dataclass(frozen=True)
class Timed:
    kind: Kinds
    tokens: int
    flops: float
    seconds: float


def make_kit(size: str, directory: Path) -> Kit:
    """A model with a vision tower that counts beside its decoder, as those of real models do."""
    text = {**SMALL_TEXT, **SIZES[size], "rope_parameters": ROPE}
    shape = Shape(text, VISION, False, PATCH, (256, 2**20))
    scale = replace(SMALL, shapes={"model": shape}, full="model", lora="model")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Kit(scale, device, directory, directory)


class Bench:
    """A random model with the parts that a fit uses."""

    def __init__(self, kit: Kit, cfg: Config) -> None:
        self._kit = kit
        self._cfg = cfg
        device = torch.device(kit.device)
        model = load_model(cfg.model.path, cfg.model).to(device)
        prepare(model, cfg.train)
        self._module = TargetLogprobs(model)
        self._batcher = Batcher(cfg.model.path, cfg.model, device, packed_rows(model))
        self.work: Work = count_work(measure(model, cfg.train), cfg.train)

    def time(self, kind: Kinds, num_times: int) -> Timed:
        examples = list(self._examples(kind))
        seconds = min(self._once(examples) for _ in range(num_times + 1))
        flops = sum(self.work.load(example).flops for example in examples)
        return Timed(kind, row_tokens(examples, self._cfg.train.packing), flops, seconds)

    def _examples(self, kind: Kinds) -> Iterator[Example]:
        scale = replace(self._kit.scale, side=kind.side or self._kit.scale.side)
        kit = replace(self._kit, scale=scale)
        rng = random.Random(0)
        for i in range(kind.num):
            example = kit.example(f"{kind.side}-{i}", kind.tokens, kind.side > 0, rng)
            ids = [*example.prompt_ids, *example.target_ids]
            num_targets = max(1, round(kind.target_share * len(ids)))
            yield replace(example, prompt_ids=ids[:-num_targets], target_ids=ids[-num_targets:])

    def _once(self, examples: Sequence[Example]) -> float:
        batch = self._batcher.collate(examples)
        self._synchronize()
        began = time.perf_counter()
        logprobs = self._module(batch.inputs, batch.places, batch.targets)
        weighted_nll(logprobs, batch.weights, len(batch.targets)).backward()
        self._synchronize()
        seconds = time.perf_counter() - began
        self._module.zero_grad()
        return seconds

    def _synchronize(self) -> None:
        if self._kit.device == "cuda":
            torch.cuda.synchronize()


def errors(costs: Sequence[float], seconds: Sequence[float]) -> np.ndarray:
    """Relative errors of the line `seconds = a + b * cost` that keeps their squares least."""
    measured = np.array(seconds)
    terms = np.stack([np.ones(len(costs)), np.array(costs)], axis=1) / measured[:, None]
    line, *_ = np.linalg.lstsq(terms, np.ones(len(costs)), rcond=None)
    return np.abs(terms @ line - 1)


def show(one: Timed) -> Timed:
    kind = one.kind
    print(
        f"{kind.num:8d} {kind.tokens:12d} {kind.side:8d} {kind.target_share:8.0%} "
        f"{one.flops / 1e9:7.1f} {one.seconds:8.3f} {one.flops / one.seconds / 1e9:8.0f}",
        flush=True,
    )
    return one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small", help="of the random model")
    parser.add_argument("--times", type=int, default=3, help="that each micro-batch is measured")
    parser.add_argument(
        "--longest", type=int, default=4096, help="tokens of a micro-batch, at most"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        kit = make_kit(args.size, Path(directory))
        bench = Bench(
            kit, kit.config("model", "work", dtype="float32", gradient_checkpointing=False)
        )
        kinds = [kind for kind in KINDS if kind.num * kind.tokens <= args.longest]
        print("examples  tokens each  picture  targets   GFLOP  seconds  GFLOP/s")
        timed = [show(bench.time(kind, args.times)) for kind in kinds]
    seconds = [one.seconds for one in timed]
    for name in ("flops", "tokens"):
        off = errors([getattr(one, name) for one in timed], seconds)
        print(f"a line through {name}: mean error {off.mean():.1%}, largest {off.max():.1%}")


if __name__ == "__main__":
    main()
