"""A bfloat16 model of a few hundred numbers in an engine: what a checkpoint keeps, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from virgo_ray.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    Values = dict[str, Tensor]

STAGES = (1, 2, 3)  # that hand a bfloat16 checkpoint over to another number of ranks


def run_small_engine(
    cfg: TrainConfig, directory: Path, num_steps: int = 0
) -> tuple[Values, Values]:
    """A small bfloat16 model that is trained for `num_steps` and saved, or without any is loaded.

    Returns the float32 values that AdamW updates, by name: as saved, and after one more step.
    """
    import torch
    from torch import nn

    from virgo_ray.train import zero

    settings = zero.zero_config(cfg, torch.bfloat16, 8, is_training=True)
    torch.manual_seed(0)
    layers = nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 8)
    module = nn.Sequential(*layers).to(torch.bfloat16)
    parameters, batch = dict(module.named_parameters()), torch.randn(4, 8).to(torch.bfloat16)
    engine = zero.ZeroEngine(module, settings, cfg)
    checkpoint = directory / f"bfloat16_zero{cfg.zero_stage}" / "step_3"

    def step() -> None:
        engine.backward(engine(batch).float().square().sum() / 4 / cfg.num_workers)
        engine.step(1e-3, lambda norm: None)

    if num_steps:
        engine.allocate()
        for _ in range(num_steps):
            step()
        checkpoint.mkdir(parents=True, exist_ok=True)  # by both ranks
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
