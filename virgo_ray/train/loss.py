"""The loss: cross-entropy on target tokens only, and the log-probabilities it is made of.

Guarantees: logits exist at target positions only, a chunk of them at a time (`head.py`). Summed
over ranks and micro-batches the losses of one optimizer step are the weighted mean over the step's
target tokens, whoever held them. Knows no DeepSpeed.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from virgo_ray.train import head


class TargetLogprobs(nn.Module):
    """Wraps a vision-language model; its forward gives log-probabilities of the target tokens.

    The decoder and the output layer run as one forward of this module, so that DeepSpeed's hooks
    see every parameter. `places` (T,) are flat positions `row * length + column` of the micro-batch
    (packed: of its only row), whose hidden states predict `targets` (T,). `temperatures` (T,)
    divide the logits; the ids `banned` have no probability. Returns (T,) float32, in nats.
    """

    def __init__(self, model: nn.Module, head_dtype: str | None = None) -> None:
        """`head_dtype` is that of the logits, `model.head_dtype`; None: the model's own."""
        super().__init__()
        self.model = model
        head.install(model, head_dtype)

    def forward(
        self,
        inputs: dict[str, Tensor],
        places: Tensor,
        targets: Tensor,
        temperatures: Tensor | None = None,
        banned: Tensor | None = None,
    ) -> Tensor:
        decoder: Any = self.model.model
        output_layer: Any = self.model.lm_head
        hidden = decoder(**inputs, use_cache=False, return_dict=True).last_hidden_state
        result = output_layer(hidden.flatten(0, 1)[places], targets, temperatures, banned)
        assert isinstance(result, Tensor)
        return result


def weighted_nll(logprobs: Tensor, weights: Tensor, num_tokens: int) -> Tensor:
    """This micro-batch's share of the step's loss: `-sum(weight * logprob) / num_tokens`.

    `num_tokens` counts the target tokens of the whole optimizer step, all ranks together (from the
    Plan). Example: targets with log-probabilities -1 and -3, weights 1, a step of 4 tokens: 1.0.
    """
    return -(logprobs * weights).sum() / num_tokens


def learning_rate(
    step: int, num_steps: int, peak: float, warmup_ratio: float, schedule: str = "cosine"
) -> float:
    """Linear warm-up, then to zero (`cosine`, `linear`) or the peak (`constant`); `step` counts
    from 0.

    Example: peak 1, 10 steps, warm-up 0.2: 0.5, 1.0, then falling to 0.04 at the last step.
    """
    num_warmup = math.ceil(num_steps * warmup_ratio)
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    if schedule == "constant":
        return peak
    progress = (step - num_warmup + 1) / (num_steps - num_warmup + 1)
    if schedule == "linear":
        return peak * (1.0 - progress)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
