#!/usr/bin/env python
"""How long ranks wait for each other: `python scripts/simulate_balance.py [--steps 40]`.

Draws the lengths of thoughts from a log-normal distribution, arranges optimizer steps as a fit does
and counts the FLOPs of a 7B model (virgo_ray/train/work.py). Prints what share of the ranks' time
is lost to waiting and to padding, with padded and with packed micro-batches, and the least that any
arrangement would lose: one example is computed by one rank. The table of docs/performance.md is its
output. At the end it says how long it takes to arrange an epoch.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "gpu"))

from train_checks.kit import model_config
from train_checks.scale import REAL

from virgo_ray.config import TrainConfig
from virgo_ray.records import Example, Step
from virgo_ray.train.balance import idle_share
from virgo_ray.train.pack import arrange, is_meeting_often, pack
from virgo_ray.train.shape import measure
from virgo_ray.train.work import Load, Work, count_work
from virgo_ray.weights.layout import build_empty

MEDIAN, P95, SHORTEST = 1500, 8000, 100  # tokens of an example
PICTURE_SHARE, PICTURE = 0.73, (256, 1280)  # of the examples have one, of so many tokens
QUESTION = 50  # tokens of the prompt beside it
TRAIN = TrainConfig(gradient_checkpointing=True)
NUM_IN_EPOCH = 50_000


@dataclass(frozen=True)
class Case:
    longest: int
    limit: int  # micro_batch_tokens
    batch: int
    num_ranks: int

    def config(self, zero_stage: int, packing: bool) -> TrainConfig:
        return TrainConfig.model_validate(
            {
                "num_workers": self.num_ranks, "micro_batch_tokens": self.limit,
                "batch_size": self.batch, "zero_stage": zero_stage, "packing": packing,
            }
        )  # fmt: skip


CASES = (
    *(Case(12288, 16384, 128, n) for n in (8, 16, 32, 64)),
    Case(12288, 16384, 512, 64),
    *(Case(16384, 16384, 128, n) for n in (8, 16, 32, 64)),
    *(Case(32768, 16384, 128, n) for n in (8, 16, 32, 64)),
    *(Case(16384, 24576, 128, n) for n in (8, 16)),
    *(Case(32768, 32768, 128, n) for n in (8, 16)),
)


def work_of_7b() -> Work:
    with tempfile.TemporaryDirectory() as directory:
        model_config(REAL.shapes["7b_lora"]).save_pretrained(directory)
        return count_work(measure(build_empty(Path(directory), False, "7B"), TRAIN), TRAIN)


def draw(num: int, longest: int, rng: random.Random) -> Iterator[Example]:
    deviation = math.log(P95 / MEDIAN) / 1.645
    for i in range(num):
        length = round(math.exp(rng.gauss(math.log(MEDIAN), deviation)))
        tokens = min(longest, max(SHORTEST, length))
        has_picture = rng.random() < PICTURE_SHARE
        picture = min(rng.randint(*PICTURE), tokens - QUESTION - 1) if has_picture else 0
        targets = tokens - picture - QUESTION
        prompt = [1] * (QUESTION + has_picture)
        yield Example(str(i), prompt, [1] * targets, ("picture",) * has_picture, tokens)


def lost(step: Step, loads: Sequence[Load], cfg: TrainConfig, work: Work) -> tuple[float, float]:
    """FLOPs of the examples of a step, and those of all ranks until the slowest is done."""
    useful = sum(loads[i].flops for rank in step for row in rank for i in row)
    rows = [[_with_padding([loads[i] for i in row], cfg, work) for row in rank] for rank in step]
    flat = [row for rank in rows for row in rank]
    places = iter(range(len(flat)))
    numbered = tuple(tuple((next(places),) for _ in rank) for rank in rows)
    share = idle_share(numbered, flat, is_meeting_often(cfg))
    return useful, sum(row.flops for row in flat) / (1 - share)


def _with_padding(row: Sequence[Load], cfg: TrainConfig, work: Work) -> Load:
    """A micro-batch; attention over padding is left out."""
    tokens = sum(load.tokens for load in row)
    padding = 0 if cfg.packing else len(row) * max(load.tokens for load in row) - tokens
    return Load(tokens, sum(load.flops for load in row) + padding * work.token, True)


def simulate(case: Case, num_steps: int, work: Work) -> list[float]:
    """Shares that are lost: ZeRO-2, 3 padded and packed, ZeRO-0, 1 the same, and the least."""
    loads = [work.load(e) for e in draw(num_steps * case.batch, case.longest, random.Random(0))]
    batches = [range(i * case.batch, (i + 1) * case.batch) for i in range(num_steps)]
    found = []
    for zero_stage in (2, 1):  # which stand for 3 and 0
        for packing in (False, True):
            cfg = case.config(zero_stage, packing)
            sums = [lost(arrange(batch, loads, cfg), loads, cfg, work) for batch in batches]
            found.append(1 - sum(useful for useful, _ in sums) / sum(spent for _, spent in sums))
    flops = [[loads[i].flops for i in batch] for batch in batches]
    bounds = [max(sum(f), case.num_ranks * max(f)) for f in flops]
    return [*found, 1 - sum(map(sum, flops)) / sum(bounds)]


def time_an_epoch(work: Work) -> Iterator[str]:
    examples = list(draw(NUM_IN_EPOCH, 12288, random.Random(0)))
    for case in (CASES[1], CASES[4]):
        began = time.perf_counter()
        pack(examples, case.config(3, True), random.Random(0), work)
        seconds = time.perf_counter() - began
        yield (
            f"{NUM_IN_EPOCH:,} examples, batch {case.batch} on {case.num_ranks} ranks: "
            f"arranged in {seconds:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each row")
    num_steps = parser.parse_args().steps
    work = work_of_7b()
    print(
        "| longest | `micro_batch_tokens` | batch | ranks | ZeRO-2, 3 padded "
        "| ZeRO-2, 3 packed | ZeRO-0, 1 padded | ZeRO-0, 1 packed | at least |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for case in CASES:
        shares = " | ".join(f"{share:.1%}" for share in simulate(case, num_steps, work))
        print(
            f"| {case.longest:,} | {case.limit:,} | {case.batch} | {case.num_ranks} | {shares} |",
            flush=True,
        )
    print(*time_an_epoch(work), sep="\n")


if __name__ == "__main__":
    main()
