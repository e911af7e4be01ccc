"""How fast a fit goes on its device: model FLOPs utilization and peak memory; nothing on CPU.

FLOPs are counted for the language model's matrix products, per parameter and token: 2 forward, 4
backward (with adapters, whose base needs no weight gradients, 2), and 2 where the forward pass is
recomputed, as in docs/gpu-checks.md. Attention itself and the vision tower are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from virgo_ray.config import TrainConfig
from virgo_ray.train.model import Part

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


def flops_per_token(table: Sequence[Part], cfg: TrainConfig) -> float:
    """Of forward and backward pass; `table` holds the parts of the model.

    >>> flops_per_token([Part("language model", 9, 10), Part("vision tower", 0, 5)], TrainConfig())
    60.0
    """
    num = sum(part.num_parameters for part in table if part.name == LANGUAGE)
    backward = 4.0 if cfg.lora is None else 2.0
    return (2.0 + backward + 2.0 * cfg.gradient_checkpointing) * num


def device_values(
    device: torch.device, flops: float, seconds: float, num_devices: int
) -> dict[str, float]:
    """`mfu` and `device_peak_mib` of a step that took `seconds`; empty on CPU."""
    if device.type != "cuda":
        return {}
    values = {"device_peak_mib": round(torch.cuda.max_memory_allocated(device) / MIB, 1)}
    if peak := peak_flops(torch.cuda.get_device_name(device)):
        values["mfu"] = flops / (seconds * peak * num_devices)
    return values
