"""Fits of reinforcement, by one rank or two: `python objective_ranks.py RANK PORT DIRECTORY`.

Two ranks run all of `TWO_RANKS` in one go, because starting them is what takes time; rank 0 writes
what they reported to `DIRECTORY/results.json`.
"""

from __future__ import annotations

import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from small_model import draw_image

from virgo_ray.config import Config, parse_config
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Example, Plan, Problem, Weights
from virgo_ray.train.pack import pack

TEMPERATURE = 0.8
NUM_PROBLEMS, GROUP = 3, 3
NUM_SEEDS = 2
PADDED = {"packing": False}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "grpo": {"name": "grpo", "num_steps": 2, "grpo": {"kl": 0.1}},
    "gspo": {
        "name": "grpo", "num_steps": 2,
        "grpo": {"old_logprobs": "sampler", "ratio": "sequence", "aggregation": "sequence",
                 "eps_low": 0.2, "eps_high": 0.2},
    },
    "rloo": {"name": "rloo"},
    "dpo": {"name": "dpo", "num_steps": 2, "dpo": {"sft_weight": 0.5}},
}  # fmt: skip
# Objective, and how its work is spread.
TWO_RANKS: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo_zero2": ("grpo", {"zero_stage": 2, "micro_batch_tokens": 80}),
    "grpo_zero3": ("grpo", {"zero_stage": 3, "micro_batch_tokens": 80}),
    "gspo_zero0": ("gspo", {"zero_stage": 0, "micro_batch_tokens": 80, "packing": False}),
    "dpo_zero3": ("dpo", {"zero_stage": 3, "micro_batch_tokens": 160}),
}
SAMPLED = "sampled.json"


def config(directory: Path, name: str, objective: Any, num_workers: int, **train: Any) -> Config:
    source, sampling = {"reader": "tiny"}, {"sampling": {"max_tokens": 100}}
    usual = {"batch_size": 4, "micro_batch_tokens": 4096, "lr": 1e-3, "zero_stage": 0}
    return parse_config(
        {
            "name": name,
            "run_dir": str(directory / name),
            "model": {"path": str(directory / "model"), "dtype": "float32", "max_length": 256},
            "data": {"train": source, "heldout": source, "seed_thoughts": source},
            "explore": {"num_problems": 1, "num_samples": GROUP, **sampling},
            "evaluate": sampling,
            "train": {"num_workers": num_workers, **usual, **train, "objective": objective},
        }
    )


def draw_images(directory: Path) -> None:
    for i in range(0, NUM_PROBLEMS, 2):
        draw_image(directory / f"{i}.png", f"{i} + 3", (56, 28))


def make_examples(directory: Path, cfg: Config) -> list[Example]:
    """Groups with advantages and what the sampler noted, or pairs; and seed thoughts."""
    prompter = Prompter(cfg.model, cfg.prompt)
    path = directory / SAMPLED
    sampled = json.loads(path.read_text()) if path.exists() else {}
    made = []
    for i in range(NUM_PROBLEMS):
        images = (str(directory / f"{i}.png"),) if i % 2 == 0 else ()
        problem = Problem(str(i), f"what is {i} + 3 ?", str(i + 3), images)
        for j in range(GROUP):
            text = f"think: {i} + 3" + " step" * (i + 2 * j)
            plain = prompter.example(f"1/{i}/{j}", problem, text, (1.0, -0.25, -0.75)[j])
            made.append(
                replace(
                    plain, is_trace=True, group=f"1/{i}", temperature=TEMPERATURE,
                    old_logprobs=sampled.get(plain.id, ()),
                )
            )  # fmt: skip
    seeds = [
        prompter.example(f"seed-{i}", Problem(f"s{i}", f"{i} ?", "1"), "so one" + " and" * i)
        for i in range(NUM_SEEDS)
    ]
    return [*seeds, *(as_pairs(made) if cfg.train.objective.name == "dpo" else made)]


def as_pairs(examples: list[Example]) -> list[Example]:
    """The first two of every group."""
    pairs = []
    for i, example in enumerate(examples):
        if i % GROUP < 2:
            role: Any = ("chosen", "rejected")[i % GROUP]
            pairs.append(replace(example, group=f"{example.group}/0", role=role, weight=1.0))
    return pairs


def make_plan(directory: Path, cfg: Config) -> Plan:
    return pack(make_examples(directory, cfg), cfg.train, random.Random(0))


def fit(directory: Path, cfg: Config, stop_at: int = 0) -> list[dict[str, Any]]:
    """What every step reported; with `stop_at` the fit is cut off after that step, and is not
    published."""
    from virgo_ray.train.engine import TrainEngine

    steps: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        if "step" in event:
            steps.append(event)
            if event["step"] == stop_at:
                raise Interrupted

    start = Weights(0, str(directory / "model"))
    engine = TrainEngine(cfg)
    report = engine.fit(make_plan(directory, cfg), start, 1, listen)
    engine.settle()  # published
    of_last = steps[-1].get("entropy"), steps[-1].get("start_kl")
    assert (report.entropy, report.start_kl) == of_last  # what gates judge
    return steps


class Interrupted(Exception):
    """Stands for a killed process."""


def main(rank: int, port: int, directory: Path) -> None:
    import torch
    import torch.distributed as dist

    from virgo_ray.train import zero

    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    zero.join_group(rank, 2, store, config(directory, "group", "rloo", 2).train)
    found = {}
    for name, (objective, spread) in TWO_RANKS.items():
        cfg = config(directory, f"two_{name}", OBJECTIVES[objective], 2, **spread)
        found[name] = fit(directory, cfg)
    if rank == 0:
        (directory / "results.json").write_text(json.dumps(found))
    zero.leave_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads now and then abort an interpreter that is being torn down


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
