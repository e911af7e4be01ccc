"""Liger's Triton kernels in place of the decoder's normalisation, rotation and SwiGLU.

Only modules of the model at hand are changed, and the function that rotates queries and keys in the
file of its class. The loss and the output layer are the trainer's own, and the vision tower stays
as it is. The rotation is plain RoPE: transformers merges M-RoPE's sections into one table before,
and Liger's own M-RoPE expects them apart. Needs a GPU and the package liger-kernel, which no extra
installs; not run yet, so it is off until a row of docs/gpu-results.md shows a gain.
"""

from __future__ import annotations

import importlib
import sys
from types import MethodType
from typing import Any

import torch

from virgo_ray.errors import TrainingError

PACKAGE = "liger_kernel.transformers"


def use_kernels(model: Any) -> None:
    """Change the decoder of a loaded model.

    Raises:
        TrainingError: no GPU, or liger-kernel is not installed.
    """
    if not torch.cuda.is_available():
        raise TrainingError(
            "train.liger=true on a rank without a GPU; expected one, or train.liger=false"
        )
    try:
        liger = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise TrainingError(
            f"train.liger=true, and {PACKAGE} cannot be imported ({error}); expected the package "
            "on every node: `pip install liger-kernel`, or train.liger=false"
        ) from error
    for module in model.model.language_model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.offset, module.casting_mode, module.in_place = 0.0, "llama", False
            module.row_mode = None
            module.forward = MethodType(liger.LigerRMSNorm.forward, module)
        elif type(module).__name__.endswith("MLP"):
            module.forward = MethodType(liger.LigerSwiGLUMLP.forward, module)
    family: Any = sys.modules[type(model).__module__]
    family.apply_rotary_pos_emb = liger.liger_rotary_pos_emb
