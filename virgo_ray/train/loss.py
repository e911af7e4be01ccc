"""The loss: cross-entropy on target tokens only, and the log-probabilities it is made of.

Guarantees: logits exist at target positions only, in the model's own dtype; the softmax is taken in
float32, a chunk of rows at a time. Summed over ranks and micro-batches the losses of one optimizer
step are the weighted mean over the step's target tokens, whoever held them. Knows no DeepSpeed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from virgo_ray.train.sizes import SOFTMAX_ELEMENTS as CHUNK_ELEMENTS


class TargetLogprobs(nn.Module):
    """Wraps a vision-language model; its forward gives log-probabilities of the target tokens.

    The decoder and the output layer run as one forward of this module, so that DeepSpeed's hooks
    see every parameter. `places` (T,) are flat positions `row * length + column` in the padded
    batch whose hidden state predicts `targets` (T,). Returns (T,) float32, in nats.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor], places: Tensor, targets: Tensor) -> Tensor:
        decoder: Any = self.model.model
        output_layer: Any = self.model.lm_head
        hidden = decoder(**inputs, use_cache=False, return_dict=True).last_hidden_state
        logits = output_layer(hidden.flatten(0, 1)[places])  # (T, V)
        result = ChunkedLogprobs.apply(logits, targets)
        assert isinstance(result, Tensor)
        return result


class ChunkedLogprobs(torch.autograd.Function):
    """`log_softmax(logits.float())[range(T), targets]` without a float32 copy of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        normalisers = torch.cat([chunk.float().logsumexp(-1) for chunk in _chunks(logits)])
        ctx.save_for_backward(logits, targets, normalisers)
        return logits.gather(-1, targets[:, None]).squeeze(-1).float() - normalisers

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, targets, normalisers = ctx.saved_tensors
        (grad,) = grads
        result = torch.empty_like(logits)
        start = 0
        for chunk in _chunks(logits):
            stop = start + len(chunk)
            share = (chunk.float() - normalisers[start:stop, None]).exp_()
            share.mul_(-grad[start:stop, None])
            share.scatter_add_(1, targets[start:stop, None], grad[start:stop, None])
            result[start:stop] = share
            start = stop
        return result, None


def weighted_nll(logprobs: Tensor, weights: Tensor, num_tokens: int) -> Tensor:
    """This micro-batch's share of the step's loss: `-sum(weight * logprob) / num_tokens`.

    `num_tokens` counts the target tokens of the whole optimizer step, all ranks together (from the
    Plan). Example: targets with log-probabilities -1 and -3, weights 1, a step of 4 tokens: 1.0.
    """
    return -(logprobs * weights).sum() / num_tokens


def learning_rate(step: int, num_steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up, then cosine to zero; `step` counts from 0.

    Example: peak 1, 10 steps, warm-up 0.2: 0.5, 1.0, then falling to 0.04 at the last step.
    """
    num_warmup = math.ceil(num_steps * warmup_ratio)
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    progress = (step - num_warmup + 1) / (num_steps - num_warmup + 1)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def _chunks(logits: Tensor) -> tuple[Tensor, ...]:
    rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    return logits.split(rows)
