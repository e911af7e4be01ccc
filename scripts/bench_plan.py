"""How far a plan's bytes are from what is measured: a fit of a random model, by its allocator.

    python scripts/bench_plan.py [--size small] [--cases zero2 zero3 ...]
    python scripts/bench_plan.py --size 0.5b --cases zero2      # needs 12 GB of memory

Each case is a fit of two steps in a process of its own, one rank. On a GPU the peak is PyTorch's
count for the device, on a CPU that of its CPU allocator, which the profiler reports with every
allocation. Prints planned and measured bytes of each phase, of a checkpoint and of the published
weights. Exits 1 where bytes of a peak are more than 10 % or those on disk more than 5 % apart.

    python scripts/bench_plan.py --write-config 7b DIRECTORY

writes the config.json of a model of that size, for a plan on a machine without network.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2VLConfig

sys.path.append(str(Path(__file__).parent / "gpu"))

from train_checks.kit import Kit, model_config
from train_checks.scale import REAL, SMALL, SMALL_TEXT, SMALL_VISION, Scale, Shape

from virgo_ray.config import Config, TrainConfig
from virgo_ray.plan.disk import checkpoint_bytes, version_bytes
from virgo_ray.plan.ranks import BYTES, MicroBatch, Rank
from virgo_ray.records import Example, Plan
from virgo_ray.train.engine import TrainEngine
from virgo_ray.train.pack import arrange, sequence_length
from virgo_ray.train.shape import ModelShape, read_shape
from virgo_ray.train.work import TOKENS

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
        "num_attention_heads": 4, "vocab_size": 8000,
    },
    "0.1b": {
        "hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 12,
        "num_attention_heads": 10, "vocab_size": 30_000,
    },
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "vocab_size": 75_000,
    },
}  # fmt: skip
LORA = {"lora": {"rank": 16}, "freeze_connector": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "zero2": ("bfloat16", {"zero_stage": 2}),
    "zero3": ("bfloat16", {"zero_stage": 3}),
    "zero1": ("bfloat16", {"zero_stage": 1}),
    "zero0": ("bfloat16", {"zero_stage": 0}),
    "zero2_kept": ("bfloat16", {"zero_stage": 2, "gradient_checkpointing": False}),
    "zero2_float32": ("float32", {"zero_stage": 2}),
    "zero2_lora": ("bfloat16", {"zero_stage": 2, **LORA}),
    "zero3_lora": ("bfloat16", {"zero_stage": 3, **LORA}),
}
MOST_APART = {"load": 0.10, "fit": 0.10, "publish": 0.10, "checkpoint": 0.05, "weights": 0.05}
NUM_EXAMPLES, LENGTH = 4, 256  # two micro-batches of two


def main() -> int:
    args = parse_args()
    if args.write_config:
        write_config(*args.write_config)
        return 0
    if args.measure:
        print(json.dumps(measure(args.size, args.measure)))
        return 0
    is_bad = False
    print("| case | bytes of | planned, MB | measured, MB | apart |\n|---|---|---|---|---|")
    for case in args.cases:
        command = [sys.executable, __file__, "--size", args.size, "--measure", case]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for name, (planned, measured) in json.loads(done.stdout.splitlines()[-1]).items():
            apart = planned / measured - 1
            is_bad |= abs(apart) > MOST_APART[name]
            print(
                f"| {case} | {name} | {planned / 1e6:.1f} | {measured / 1e6:.1f} | {apart:+.1%} |"
            )
            sys.stdout.flush()
    return int(is_bad)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--write-config", nargs=2, metavar=("3b|7b|72b", "DIRECTORY"))
    return parser.parse_args()


def measure(size: str, case: str) -> dict[str, tuple[int, int]]:
    """Planned and measured bytes by name."""
    dtype, train = CASES[case]
    with tempfile.TemporaryDirectory() as directory:
        kit = make_kit(size, Path(directory))
        cfg = kit.config("model", "fit", dtype, **train, checkpoint_every_s=1e-9)
        kit.join_group(cfg)
        plan = make_plan(kit, cfg)
        found: dict[str, int] = {}
        marks: list[tuple[int, str]] = []

        def listen(event: dict[str, Any]) -> None:
            if "phase" in event:
                marks.append((time.time_ns(), event["phase"]))
            if "saved_step" in event:
                found["checkpoint"] = bytes_in(Path(cfg.run_dir) / "checkpoints")

        start = kit.weights("model")
        with allocations(kit.device) as peaks:
            engine = TrainEngine(cfg)
            engine.fit(plan, start, 1, listen)
            engine.settle()
        found |= peaks(marks)
        found["weights"] = bytes_in(Path(cfg.run_dir) / "weights")
        planned = plan_of(cfg, start.path, plan)
    return {name: (planned[name], found[name]) for name in MOST_APART}


def make_kit(size: str, directory: Path) -> Kit:
    text = {**SMALL_TEXT, **SIZES[size], "rope_parameters": ROPE}
    shape = Shape(text, SMALL_VISION, False, 8, (256, 9216))
    scale: Scale = replace(SMALL, shapes={"model": shape}, full="model", lora="model")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Kit(scale, device, directory, directory)


def make_plan(kit: Kit, cfg: Config) -> Plan:
    rng = random.Random(0)
    examples = [kit.example(str(i), LENGTH, i % 2 == 0, rng) for i in range(NUM_EXAMPLES)]
    loads = [TOKENS.load(e) for e in examples]
    limit = NUM_EXAMPLES // 2 * LENGTH
    step = arrange(range(NUM_EXAMPLES), loads, TrainConfig(num_workers=1, micro_batch_tokens=limit))
    return Plan(tuple(examples), (step, step))


def plan_of(cfg: Config, directory: str, plan: Plan) -> dict[str, int]:
    shape = read_shape(directory, cfg)
    rank = Rank(shape, cfg.train, cfg.model.dtype, 1, torch.cuda.is_available())
    memory = [
        rank.memory(batch)
        for batch in micro_batches(plan, shape.patches_per_token, cfg.train.packing)
    ]
    mapped = mapped_bytes(shape, cfg)
    return {
        "load": memory[0].load - mapped,
        "fit": max(max(m.micro_batch, m.update) for m in memory) - mapped,
        "publish": memory[0].publish - mapped,
        "checkpoint": checkpoint_bytes(shape, cfg.train, cfg.model.dtype),
        "weights": version_bytes(shape, cfg.model.dtype, Path(directory)),
    }


def mapped_bytes(shape: ModelShape, cfg: Config) -> int:
    """Frozen weights that stay where they were read on a CPU: in the file's pages, which take
    memory and are not the allocator's. ZeRO-3 copies them."""
    is_copied = torch.cuda.is_available() or cfg.train.zero_stage == 3
    return 0 if is_copied else BYTES[cfg.model.dtype] * shape.frozen


def micro_batches(plan: Plan, patches_per_token: int, is_packed: bool) -> Iterator[MicroBatch]:
    for number, batch in enumerate(plan.steps[0][0]):
        examples: list[Example] = [plan.examples[i] for i in batch]
        lengths = [sequence_length(e) for e in examples]
        hidden = sum(e.num_tokens - len(e.prompt_ids) - len(e.target_ids) for e in examples)
        targets = sum(len(e.target_ids) for e in examples)
        tokens = sum(lengths) if is_packed else len(batch) * max(lengths)
        yield MicroBatch(tokens, targets, patches_per_token * hidden, is_first=number == 0)


def bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


# -- what the allocator says -----------------------------------------------------------------------


@contextmanager
def allocations(device: str) -> Iterator[Callable[[list[tuple[int, str]]], dict[str, int]]]:
    """Inside, allocations are followed; afterwards the function gives the peak of each phase."""
    counts: list[tuple[int, int]] = []  # nanoseconds, bytes held then
    profiler = torch.profiler
    kinds = [profiler.ProfilerActivity.CPU]
    with profiler.profile(activities=kinds, profile_memory=True, acc_events=True) as profile:
        yield lambda marks: peaks_between(counts, marks)
    results: Any = profile.profiler
    for event in _walk(results.kineto_results.experimental_event_tree()):
        fields = event.typed[1]
        if type(fields).__name__ == "_ExtraFields_Allocation" and fields.device.type == device:
            counts.append((event.start_time_ns, fields.total_allocated))
    counts.sort()


def _walk(nodes: list[Any]) -> Iterator[Any]:
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        waiting.extend(node.children)
        yield node


def peaks_between(counts: list[tuple[int, int]], marks: list[tuple[int, str]]) -> dict[str, int]:
    """Loading ends with the first try of a micro-batch, the fit with its publishing."""
    at = {name: moment for moment, name in reversed(marks)}
    borders = (0, at["largest micro-batch"], at["gather"], 1 << 62)
    phases = zip(("load", "fit", "publish"), borders, borders[1:], strict=False)
    return {
        name: max(held for moment, held in counts if begin <= moment < end)
        for name, begin, end in phases
    }


def write_config(name: str, directory: str) -> None:
    """The sizes of the models on the hub."""
    if name == "72b":  # Qwen2-VL's, which are the defaults of transformers
        config: Any = Qwen2VLConfig(
            text_config={"vocab_size": 152064},
            vision_config={"hidden_size": 8192},
            tie_word_embeddings=False,
            architectures=["Qwen2VLForConditionalGeneration"],
        )
    else:
        shapes = {"3b": REAL.shapes[REAL.full], "7b": REAL.shapes[REAL.lora]}
        config = model_config(shapes[name])
    config.save_pretrained(directory)


if __name__ == "__main__":
    sys.exit(main())
