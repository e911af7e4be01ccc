"""What two ranks do for test_precision.py: `python precision_ranks.py RANK PORT DIRECTORY`.

Fits with parts of the model in host memory or partitioned otherwise, beside the same fit without;
and the error of a gradient that is summed over many micro-batches. Rank 0 writes what was found to
`DIRECTORY/results.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import train_ranks

NUM_MICRO_BATCHES = 48
KEPT = {"checkpoint_every_s": 1e-9}
SCENARIOS: dict[str, dict[str, Any]] = {
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "zero2_offload": {"zero_stage": 2, "offload": "optimizer"},
    "zero3_offload": {"zero_stage": 3, "offload": "optimizer"},
    "zero3_offload_all": {"zero_stage": 3, "offload": "optimizer_and_parameters"},
    "zero2_offload_interrupted": {"zero_stage": 2, "offload": "optimizer", **KEPT},
    "zero3_offload_all_interrupted": {
        "zero_stage": 3, "offload": "optimizer_and_parameters", **KEPT,
    },
    "zero3_hpz": {
        "zero_stage": 3, "deepspeed": {"zero_optimization": {"zero_hpz_partition_size": 2}},
    },
    "zero3_hpz_again": {  # by the same processes
        "zero_stage": 3, "deepspeed": {"zero_optimization": {"zero_hpz_partition_size": 2}},
    },
    "zero3_lora_offload_all": {
        "zero_stage": 3, "offload": "optimizer_and_parameters", "lora": {"rank": 4},
        "freeze_connector": True,
    },
}  # fmt: skip
# How gradients are summed: keys of `train`, and whether DeepSpeed is told to use float32.
SUMS: dict[str, tuple[dict[str, Any], bool]] = {
    "zero1": ({"zero_stage": 1}, True),
    "zero2": ({"zero_stage": 2}, True),
    "zero3": ({"zero_stage": 3}, True),
    "zero2_offload": ({"zero_stage": 2, "offload": "optimizer"}, True),
    "zero3_offload": ({"zero_stage": 3, "offload": "optimizer"}, True),
    "zero2_bfloat16": ({"zero_stage": 2}, False),
    "zero3_bfloat16": ({"zero_stage": 3}, False),
}

# Stages whose bfloat16 checkpoint of two ranks is read by one.
HANDED_OVER = (1, 2, 3)


def gradient_error(directory: Path, name: str) -> float:
    """Of the gradient that AdamW is given, relative to the exact sum of the same bfloat16 gradients
    of all micro-batches of both ranks."""
    import torch
    from deepspeed.utils import safe_get_full_optimizer_state
    from torch import nn

    from virgo_ray.train import zero

    keys, is_told = SUMS[name]
    cfg = train_ranks.config(directory, name, 2, max_grad_norm=1e9, **keys).train
    settings = zero.zero_config(cfg, torch.bfloat16, 64, is_training=True)
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    if not is_told:
        del settings["data_types"], settings["communication_data_type"]
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).to(torch.bfloat16)
    batches = torch.randn(2, NUM_MICRO_BATCHES, 16, 64).to(torch.bfloat16)

    def loss_of(output: torch.Tensor) -> torch.Tensor:
        return output.float().square().sum() / (2 * NUM_MICRO_BATCHES)

    exact = [torch.zeros_like(p, dtype=torch.float64) for p in module.parameters()]
    for batch in batches.flatten(0, 1):
        grads = torch.autograd.grad(loss_of(module(batch)), list(module.parameters()))
        for total, grad in zip(exact, grads, strict=True):
            total += grad
    engine = zero.ZeroEngine(module, settings, cfg)
    for batch in batches[torch.distributed.get_rank()]:
        engine.backward(loss_of(engine(batch)))
    engine.step(0.0, lambda norm: None)
    moments = [safe_get_full_optimizer_state(p, "exp_avg") for p in module.parameters()]
    engine.close()
    found = torch.cat([moment.flatten().double() * 10 for moment in moments])  # 1 / (1 - beta1)
    wanted = torch.cat([total.flatten() for total in exact])
    return float((found - wanted).norm() / wanted.norm())


def published_tensors(path: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(Path(path) / "model.safetensors")


def fit_twice(directory: Path, name: str) -> dict[str, bool]:
    """Adapters of a bfloat16 model over two fits, the second one without learning anything."""
    import torch
    from safetensors.torch import load_file

    from virgo_ray.records import Weights
    from virgo_ray.train.engine import TrainEngine

    found = []
    start = Weights(0, str(directory / "model"))
    for version, lr in ((1, 1e-3), (2, 1e-30)):
        cfg = train_ranks.config(
            directory, f"twice_{name}", 2, lr=lr, lora={"rank": 4}, restart_from="previous",
            num_epochs=1.0, **SCENARIOS[name],
        )  # fmt: skip
        cfg = cfg.model_copy(update={"model": cfg.model.model_copy(update={"dtype": "bfloat16"})})
        work = (train_ranks.plan(directory, cfg), start, version)
        start = train_ranks.fit_whole(TrainEngine(cfg), *work).weights
        masters = load_file(Path(start.path) / "adapters" / "adapters.safetensors")
        found.append((masters, published_tensors(start.path)))
    (first, merged), (second, again) = found
    return {
        "kept": all(torch.equal(first[name], second[name]) for name in first),
        "merged_alike": all(torch.equal(merged[name], again[name]) for name in merged),
        "finer": any(bool((v != v.bfloat16().float()).any()) for v in first.values()),
    }


def step_small(directory: Path, num_ranks: int, stage: int, num_steps: int) -> Any:
    """A small bfloat16 engine, after so many steps, or where `directory` has one, loaded from it.

    Returns the float32 values that AdamW updates, by name: as they are, and after one more step.
    """
    import torch
    from torch import nn

    from virgo_ray.train import zero

    cfg = train_ranks.config(directory, "small", num_ranks, zero_stage=stage).train
    settings = zero.zero_config(cfg, torch.bfloat16, 8, is_training=True)
    torch.manual_seed(0)
    layers = nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 8)
    module = nn.Sequential(*layers).to(torch.bfloat16)
    parameters, batch = dict(module.named_parameters()), torch.randn(4, 8).to(torch.bfloat16)
    engine = zero.ZeroEngine(module, settings, cfg)
    checkpoint = directory / f"bfloat16_zero{stage}" / "step_3"

    def step() -> None:
        engine.backward(engine(batch).float().square().sum() / 4 / num_ranks)
        engine.step(1e-3, lambda norm: None)

    if num_steps:
        engine.allocate()
        for _ in range(num_steps):
            step()
        checkpoint.mkdir(parents=True, exist_ok=True)
        torch.distributed.barrier()
        engine.save(checkpoint)
        torch.distributed.barrier()
    else:
        engine.load(checkpoint)
    found = engine.masters(parameters)
    step()
    after = engine.masters(parameters)
    engine.close()
    return found, after


def work(directory: Path) -> dict[str, Any]:
    import torch

    train_ranks.SCENARIOS.update(SCENARIOS)
    for stage in HANDED_OVER:
        values = step_small(directory, 2, stage, 3)
        if torch.distributed.get_rank() == 0:
            torch.save(values, directory / f"values{stage}.pt")
    return {
        "fits": {name: train_ranks.run_scenario(directory, name, 2) for name in SCENARIOS},
        "errors": {name: gradient_error(directory, name) for name in SUMS},
        "twice": {name: fit_twice(directory, name) for name in ("zero2", "zero3", "zero3_hpz")},
    }


if __name__ == "__main__":
    train_ranks.main(sys.argv[1:], work)
