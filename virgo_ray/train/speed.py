"""How fast a fit goes on its device: model FLOPs utilization and peak memory; nothing on CPU.

FLOPs are counted for the language model's matrix products, per parameter and token: 2 forward, 4
backward (with adapters, whose base needs no weight gradients, 2), and 2 where the forward pass is
recomputed, as in docs/gpu-checks.md. Attention itself and the vision tower are left out, and so is
an input embedding that is not the output layer too: it is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from virgo_ray.config import TrainConfig
from virgo_ray.train.model import Part
from virgo_ray.train.zero import full_size

MIB = 2**20
LANGUAGE = "language model"
# Dense bfloat16 tensor-core peaks, TFLOP/s, as NVIDIA's data sheets give them; by a part of the
# name that CUDA gives a card. What is not here has no utilization.
PEAK_TFLOPS = {
    "H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "H800": 989.0,
    "A100": 312.0, "A800": 312.0, "L40S": 362.0, "B200": 2250.0,
}  # fmt: skip


def peak_flops(card: str) -> float | None:
    """FLOP/s of a card by its name; None for one that is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("NVIDIA H100 PCIe"), peak_flops("T4")
    (989000000000000.0, 756000000000000.0, None)
    """
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in card), None)


def looked_up(model: Any) -> int:
    """Parameters of the input embedding; 0 where it is the output layer too."""
    embedding = model.get_input_embeddings().weight
    return 0 if embedding is model.get_output_embeddings().weight else full_size(embedding)


def flops_per_token(table: Sequence[Part], cfg: TrainConfig, num_looked_up: int) -> float:
    """Of forward and backward pass; `table` holds the parts of the model, of which
    `num_looked_up` parameters multiply nothing.

    >>> table = [Part("language model", 9, 10), Part("vision tower", 0, 5)]
    >>> flops_per_token(table, TrainConfig(), num_looked_up=2)
    48.0
    """
    num = sum(part.num_parameters for part in table if part.name == LANGUAGE) - num_looked_up
    backward = 4.0 if cfg.lora is None else 2.0
    return (2.0 + backward + 2.0 * cfg.gradient_checkpointing) * num


def device_values(
    device: torch.device, flops: float, seconds: float, num_devices: int
) -> dict[str, float]:
    """`mfu` and `device_peak_mib` of a step that took `seconds`; empty on CPU.

    The peak is the process's since it began: it is not reset, so that others may measure one, too.
    """
    if device.type != "cuda":
        return {}
    values = {"device_peak_mib": round(torch.cuda.max_memory_allocated(device) / MIB, 1)}
    if peak := peak_flops(torch.cuda.get_device_name(device)):
        values["mfu"] = flops / (seconds * peak * num_devices)
    return values
