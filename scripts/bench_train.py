"""How many useful tokens a second a fit trains on, beside a bare loop and TRL's SFTTrainer.

    python scripts/bench_train.py --repeats 5
    pip install --no-deps --target .trl trl==1.16.0
    python scripts/bench_train.py --repeats 5 --trl .trl

Every side trains the bundled tiny model on the same examples for the same number of optimizer
steps: two ranks, gloo, float32, one thread each. Useful tokens are those of prompt, pictures and
response, without padding. The first steps are not counted. The sides take turns, so that whatever
else the machine does meets all of them; the table gives the median and each side as a ratio of
`packed`.

Data: `short` are thoughts and puzzles as `configs/tiny.yaml` trains on them; `long` have log-normal
lengths of the shape median 1,500 and 95th percentile 8,000 tokens, a twelfth of it. 73 % of both
have a picture.

Sides: `packed` and `padded` are the trainer with `train.packing` on and off. `bare` and
`bare_padded` are plain PyTorch loops (DistributedDataParallel, torch's AdamW) over the same
micro-batches. `trl_N` is SFTTrainer with N examples a rank and forward pass, in random order;
`trl_N_grouped` groups by length, `trl_N_balanced` is its `batch_rebalance`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from virgo_ray.config import Config, parse_config
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Example, Plan, Problem, Weights
from virgo_ray.tiny.datasets import seed_thoughts_dataset
from virgo_ray.tiny.draw import write_picture
from virgo_ray.tiny.puzzles import make_puzzles
from virgo_ray.tiny.thoughts import long_thought

NUM_RANKS = 2
BATCH = 32
NUM_STEPS, NUM_SKIPPED = 14, 3
PICTURE_SHARE = 0.73
MEDIAN, P95, LONGEST = 1500 / 12, 8000 / 12, 1400  # tokens of `long`
OURS = ("packed", "padded", "bare", "bare_padded")
TRL = tuple(f"trl_{n}{order}" for n in (4, 8, 16) for order in ("", "_grouped", "_balanced"))
SPREAD_90 = 1.645  # standard deviations from the median to the 95th percentile


def main() -> int:
    args = parse_args()
    if args.worker:
        return work(args)
    sides = args.sides or [*OURS, *(TRL if args.trl else ())]
    with tempfile.TemporaryDirectory() as directory:
        for data in args.data:
            place = Path(directory) / data
            make_data(place, data)
            rates: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(args.repeats):
                for side in sides:
                    rates[side].append(measure(side, place, args))
                    print(f"  {data} {side} {rates[side][-1]:,.0f} tokens/s", flush=True)
            show(data, rates)
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side (default: 5)")
    parser.add_argument("--data", nargs="+", default=["short", "long"], choices=["short", "long"])
    parser.add_argument("--sides", nargs="+", choices=[*OURS, *TRL], help="default: all")
    parser.add_argument("--trl", type=Path, metavar="DIR", help="where TRL is installed")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def show(data: str, rates: dict[str, list[float]]) -> None:
    reference = median(rates.get("packed") or next(iter(rates.values())))
    print(f"{'data':<8} {'side':<18} {'tokens/s':>10} {'least':>8} {'most':>8} {'packed is':>10}")
    for side, found in rates.items():
        middle = median(found)
        print(
            f"{data:<8} {side:<18} {middle:>10,.0f} {min(found):>8,.0f} {max(found):>8,.0f} "
            f"{reference / middle:>9.2f}x",
            flush=True,
        )


# -- what is trained on ----------------------------------------------------------------------------


def config(place: Path, packing: bool) -> Config:
    source = {"reader": "tiny"}
    sampling = {"sampling": {"max_tokens": 100}}
    return parse_config(
        {
            "name": "bench",
            "run_dir": str(place / "run"),
            "model": {"path": "tiny", "dtype": "float32", "max_length": 4096},
            "data": {"train": source, "heldout": source, "seed_thoughts": source},
            "explore": {"num_problems": 1, "num_samples": 1, **sampling},
            "evaluate": sampling,
            "train": {
                "num_workers": NUM_RANKS, "gpus_per_worker": 0, "zero_stage": 2, "lr": 1e-5,
                "batch_size": BATCH, "micro_batch_tokens": 4096, "packing": packing,
                "checkpoint_every_s": 1e9, "num_epochs": 1,
            },
        }
    )  # fmt: skip


def make_data(place: Path, kind: str) -> None:
    """Write `records.json`: question, context, pictures and response of every example."""
    place.mkdir(parents=True)
    num = BATCH * NUM_STEPS
    num_pictures = round(PICTURE_SHARE * num)
    rng = random.Random(0)
    seeds = seed_thoughts_dataset(num - num_pictures, 0)
    records = [
        {"question": r["question"], "context": r["context"], "images": [],
         "response": r["thought"]} for r in seeds
    ]  # fmt: skip
    for puzzle in make_puzzles("train", num_pictures, 0):
        picture = str(write_picture(puzzle, place / "pictures"))
        records.append(
            {"question": puzzle.question, "context": "", "images": [picture],
             "response": long_thought(puzzle)}
        )  # fmt: skip
    if kind == "long":
        spread = math.log(P95 / MEDIAN) / SPREAD_90
        texts = [record["response"] for record in records]
        for record in records:
            length = min(rng.lognormvariate(math.log(MEDIAN), spread), LONGEST)
            record["response"] = _of_length(texts, round(length), rng)
    rng.shuffle(records)
    (place / "records.json").write_text(json.dumps(records))


def _of_length(texts: Sequence[str], num_words: int, rng: random.Random) -> str:
    """Words of several thoughts, as many as wanted: one is about one token."""
    words: list[str] = []
    while len(words) < num_words:
        words += rng.choice(texts).split(" ")
    return " ".join(words[: max(num_words, 1)])


def examples_of(place: Path, cfg: Config) -> list[Example]:
    prompter = Prompter(cfg.model, cfg.prompt)
    made = []
    for i, record in enumerate(json.loads((place / "records.json").read_text())):
        problem = Problem(
            str(i), record["question"], "0", tuple(record["images"]), context=record["context"]
        )
        made.append(prompter.example(str(i), problem, record["response"]))
    return made


# -- one run of one side ---------------------------------------------------------------------------


def measure(side: str, place: Path, args: argparse.Namespace) -> float:
    """Useful tokens a second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = place / "rate.json"
    out.unlink(missing_ok=True)
    env = os.environ | {
        "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(NUM_RANKS), "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    path = [str(Path(__file__).parents[1]), *([str(args.trl)] if args.trl else [])]
    env["PYTHONPATH"] = os.pathsep.join([*path, env.get("PYTHONPATH", "")])
    log = place / f"{side}.log"
    with log.open("w") as sink:
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", side, str(place), str(rank), str(port)],
                env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=sink, stderr=sink,
            )
            for rank in range(NUM_RANKS)
        ]  # fmt: skip
        codes = [rank.wait(1800) for rank in ranks]
    if any(codes):
        raise SystemExit(f"{side} ended with {codes}:\n{log.read_text()[-20000:]}")
    found = json.loads(out.read_text())
    return found["tokens"] / found["seconds"]


def work(args: argparse.Namespace) -> int:
    side, place, rank, port = args.worker
    import torch

    torch.set_num_threads(1)
    if side.startswith("trl"):
        from bench_train_trl import train_with_trl

        tokens, seconds = train_with_trl(side, Path(place), config(Path(place), False), BATCH)
    else:
        tokens, seconds = _ours(side, Path(place), int(rank), int(port))
    if rank == "0":
        (Path(place) / "rate.json").write_text(json.dumps({"tokens": tokens, "seconds": seconds}))
    return 0


def _ours(side: str, place: Path, rank: int, port: int) -> tuple[float, float]:
    import torch.distributed as dist

    from virgo_ray.train import zero
    from virgo_ray.train.pack import pack
    from virgo_ray.train.shape import read_shape
    from virgo_ray.train.work import count_work

    cfg = config(place, packing=side in ("packed", "bare"))
    store = dist.TCPStore("127.0.0.1", port, NUM_RANKS, is_master=rank == 0)
    zero.join_group(rank, NUM_RANKS, store, cfg.train)
    work = count_work(read_shape(str(TINY_DIRECTORY), cfg), cfg.train)
    plan = pack(examples_of(place, cfg), cfg.train, random.Random(0), work)
    train: Callable[[Config, Plan, int], tuple[float, float]]
    train = _bare if side.startswith("bare") else _trainer
    result = train(cfg, plan, rank)
    zero.leave_group()
    return result


class Finished(Exception):
    """All steps are measured: what follows, publishing, is not."""


def _trainer(cfg: Config, plan: Plan, rank: int) -> tuple[float, float]:
    """The trainer as a run uses it; its own clock measures each step."""
    from virgo_ray.train.engine import TrainEngine

    steps: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        if "step" in event:
            steps.append(event)
            if event["step"] == len(plan.steps):
                raise Finished

    with contextlib.suppress(Finished):
        TrainEngine(cfg).fit(plan, Weights(0, str(TINY_DIRECTORY)), 1, listen)
    counted = steps[NUM_SKIPPED:]
    return sum(s["num_tokens"] for s in counted), sum(s["seconds"] for s in counted)


def _bare(cfg: Config, plan: Plan, rank: int) -> tuple[float, float]:
    """What somebody would write by hand, given micro-batches and log-probabilities."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from virgo_ray.train.batch import Batcher
    from virgo_ray.train.loss import TargetLogprobs, learning_rate, weighted_nll
    from virgo_ray.train.model import load_model, prepare
    from virgo_ray.train.pack import num_target_tokens, num_tokens
    from virgo_ray.train.rows import packed_rows

    torch.manual_seed(0)
    path = str(TINY_DIRECTORY)
    model = load_model(path, cfg.model)
    prepare(model, cfg.train)
    layout = packed_rows(model) if cfg.train.packing else None
    module = DistributedDataParallel(TargetLogprobs(model))
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)
    batcher = Batcher(path, cfg.model, torch.device("cpu"), layout)
    tokens, began = 0.0, 0.0
    for step in range(len(plan.steps)):
        if step == NUM_SKIPPED:
            began = time.monotonic()
        mine = plan.steps[step][rank]
        for number, micro_batch in enumerate(mine, 1):
            batch = batcher.collate([plan.examples[i] for i in micro_batch])
            module.require_backward_grad_sync = number == len(mine)
            logprobs = module(batch.inputs, batch.places, batch.targets)
            loss = weighted_nll(logprobs, batch.weights, num_target_tokens(plan, step))
            (loss * NUM_RANKS).backward()
        torch.nn.utils.clip_grad_norm_(trained, cfg.train.max_grad_norm)
        rate = learning_rate(step, len(plan.steps), cfg.train.lr, cfg.train.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        tokens += num_tokens(plan, step) if step >= NUM_SKIPPED else 0
    return tokens, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
