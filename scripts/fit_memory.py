"""What `bench_memory.py --fits` measures: the memory of a rank over several fits of a 0.4 B model.

The peak is the kernel's own (VmHWM), begun anew before every fit.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from virgo_ray.actors.cluster import connect_cluster
from virgo_ray.actors.trainers.group import TrainerGroup
from virgo_ray.config import Config, parse_config
from virgo_ray.model.files import TINY_DIRECTORY
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, Weights
from virgo_ray.train.pack import pack

MAX_GROWTH = 1.03  # of the peak, from the first fit to a later one
MAX_REST_GB = 2.0
# Qwen2.5-0.5B with a smaller vocabulary: 0.41 billion parameters.
TEXT = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "layer_types": ["full_attention"] * 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 60_000,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12],
    },
}  # fmt: skip


def compare_fits(num_fits: int) -> int:
    """Measure in both number formats; 1 if memory grows or stays."""
    is_bad = False
    print(f"{'dtype':<10} {'fit':>3} {'peak, GB':>9} {'bytes a parameter':>18} {'after, GB':>10} s")
    with tempfile.TemporaryDirectory() as directory:
        num_parameters = build_model(Path(directory) / "model")
        for dtype in ("bfloat16", "float32"):
            cfg = fit_config(Path(directory), dtype)
            with connect_cluster(cfg):
                peaks, rests = measure_fits(cfg, num_fits, num_parameters)
            is_bad |= max(peaks) > MAX_GROWTH * peaks[0] or max(rests) > MAX_REST_GB
    if is_bad:
        print(f"a peak grew by more than 3 %, or more than {MAX_REST_GB:g} GB stayed")
    return int(is_bad)


def measure_fits(
    cfg: Config, num_fits: int, num_parameters: int
) -> tuple[list[float], list[float]]:
    """Peak, and rest after it, of every fit of one group; GB."""
    prompter = Prompter(cfg.model, cfg.prompt)
    examples = [
        prompter.example(str(i), Problem(str(i), f"What is {i} + 3?", str(i + 3)), f"{i} and 3 ...")
        for i in range(4)
    ]
    plan = pack(examples, cfg.train, random.Random(0))
    group = TrainerGroup(cfg)
    peaks, rests = [], []
    try:
        group.come_up()
        (pid,) = group.pids
        empty = memory_gb(pid, "VmRSS")
        for version in range(1, num_fits + 1):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
            began = time.monotonic()
            report = group.fit(plan, Weights(0, cfg.model.path), version)
            group.settle()
            peaks.append(memory_gb(pid, "VmHWM"))
            rests.append(memory_gb(pid, "VmRSS"))
            per_parameter = (peaks[-1] - empty) * 1e9 / num_parameters
            print(
                f"{cfg.model.dtype:<10} {version:>3} {peaks[-1]:>9.2f} {per_parameter:>18.1f} "
                f"{rests[-1]:>10.2f} {time.monotonic() - began:.0f}",
                flush=True,
            )
            shutil.rmtree(report.weights.path)
    finally:
        group.close()
    return peaks, rests


def memory_gb(pid: int, name: str) -> float:
    """`VmRSS` or `VmHWM`, its peak, of a process."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None, f"no {name} in /proc/{pid}/status"
    return int(found[1]) * 1024 / 1e9


def build_model(path: Path) -> int:
    """The bundled model's shape, grown and random, in bfloat16; returns its parameters."""
    fields = json.loads((TINY_DIRECTORY / "config.json").read_text())
    fields["text_config"] |= TEXT
    fields["vision_config"] |= {"out_hidden_size": TEXT["hidden_size"]}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**fields))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(path)
    AutoProcessor.from_pretrained(TINY_DIRECTORY).save_pretrained(path)
    return sum(parameter.numel() for parameter in model.parameters())


def fit_config(directory: Path, dtype: str) -> Config:
    source, sampling = {"reader": "tiny"}, {"sampling": {"max_tokens": 100}}
    return parse_config(
        {
            "name": "fits",
            "run_dir": str(directory / dtype),
            "model": {"path": str(directory / "model"), "dtype": dtype, "max_length": 256},
            "data": {"train": source, "heldout": source, "seed_thoughts": source},
            "explore": {"num_problems": 1, "num_samples": 1, **sampling},
            "evaluate": sampling,
            "train": {
                "num_workers": 1, "batch_size": 2, "gradient_checkpointing": True, "lr": 1e-5,
            },
        }
    )  # fmt: skip
