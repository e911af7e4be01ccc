"""An engine whose logits can be given another number format behind its back (`test_head_dtype.py`).

vLLM imports this file in its own process.
"""

from __future__ import annotations

import torch
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from virgo_ray.rollout.worker_extension import WorkerExtension


class Switching(WorkerExtension):
    def compute_logits_in(self, name: str) -> None:
        for module in self.model_runner.get_model().modules():
            if isinstance(module, LogitsProcessor):
                module.head_dtype = getattr(torch, name)
