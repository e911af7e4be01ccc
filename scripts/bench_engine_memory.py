"""How the memory of one CPU engine grows with its requests, and what bounds it.

    python scripts/bench_engine_memory.py [--capacities 1024 64 16] [--batches 120]

For each capacity of oneDNN's kernel cache, one after the other in processes of their own: an engine
of the bundled model answers the same batches of 4 to 24 requests; their sizes and lengths are
drawn, so that steps have many different numbers of tokens, as in a run. Prints the memory that is
the engine process's own (USS) after the first tenth and at the end, and the time. 1024 is oneDNN's
default, 64 is what `virgo_ray.rollout` sets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
NUM_PROBLEMS = 24


def main() -> None:
    options = parse()
    if options.measure:
        print(json.dumps(asyncio.run(measure(options.batches, options.seed))))
        return
    table = Table("kernels kept", "requests", "MiB after a tenth", "MiB at the end", "seconds")
    for capacity in options.capacities:
        command = [sys.executable, __file__, "--measure", f"--batches={options.batches}"]
        done = subprocess.run(
            [*command, f"--seed={options.seed}"], env={**os.environ, NAME: str(capacity)},
            check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        seen = json.loads(done.stdout.splitlines()[-1])
        table.add_row(
            str(capacity), f"{seen['requests']:,}", f"{seen['first_mib']:.0f}",
            f"{seen['last_mib']:.0f}", f"{seen['seconds']:.1f}",
        )  # fmt: skip
    Console().print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--capacities", type=int, nargs="+", default=[1024, 64, 16])
    parser.add_argument("--batches", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


async def measure(num_batches: int, seed: int) -> dict[str, Any]:
    from virgo_ray.config import load_config
    from virgo_ray.records import Problem, Request
    from virgo_ray.rollout.engine import RolloutEngine
    from virgo_ray.tiny.datasets import problems_dataset

    cfg = load_config(str(Path(__file__).parents[1] / "configs/tiny.yaml"))
    rng, asked, first = random.Random(seed), 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        problems = [
            Problem(row["id"], row["question"], row["answer"], tuple(row["images"]))
            for row in problems_dataset("train", NUM_PROBLEMS, seed, folder)
        ]
        engine = RolloutEngine(cfg.model, cfg.prompt, cfg.rollout)
        await engine.start()
        began = time.monotonic()
        for batch in range(num_batches):
            num = rng.randint(4, NUM_PROBLEMS)
            length = {"max_tokens": rng.randint(8, 24)}
            sampling = cfg.explore.sampling.model_copy(update=length)
            requests = [Request(p, 0, rng.randrange(2**31)) for p in rng.sample(problems, num)]
            await asyncio.gather(*(engine.generate(r, sampling) for r in requests))
            asked += num
            if batch == num_batches // 10:
                first = own_mib()
        seconds, last = time.monotonic() - began, own_mib()
        engine.close()
    return {"requests": asked, "first_mib": first, "last_mib": last, "seconds": seconds}


def own_mib() -> float:
    """Of all processes that this one has started."""
    children = psutil.Process().children(recursive=True)
    return sum(float(child.memory_full_info().uss) for child in children) / 2**20


if __name__ == "__main__":
    main()
