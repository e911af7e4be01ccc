"""Rows `head/<targets>`: the trainer's output head, by chunks, against all logits at once.

The second holds the logits of all targets and their gradient in memory, as plain transformers does;
its softmax alone goes by chunks. Both give the log-probabilities of the targets and the gradients
of hidden states and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from train_checks import card
from train_checks.attention import relative_error
from train_checks.kit import Emit, Kit
from virgo_ray.train.head import ChosenLogprobs

ERRORS = ("logprob_error", "hidden_grad_error", "weight_grad_error")
LARGEST_ERROR = 0.02  # of a gradient, against all logits, in bfloat16


SOFTMAX_ROWS = 441  # of the reference, at a time


class WholeLogits(torch.autograd.Function):
    """`log_softmax(logits.float())[range(T), targets]` without a float32 copy of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        chunks = logits.split(SOFTMAX_ROWS)
        normalisers = torch.cat([chunk.float().logsumexp(-1) for chunk in chunks])
        ctx.save_for_backward(logits, targets, normalisers)
        return logits.gather(-1, targets[:, None]).squeeze(-1).float() - normalisers

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, targets, normalisers = ctx.saved_tensors
        (upstream,) = grads
        result = torch.empty_like(logits)
        for start in range(0, len(logits), SOFTMAX_ROWS):
            part = slice(start, start + SOFTMAX_ROWS)
            grad = upstream[part, None]
            share = (logits[part].float() - normalisers[part, None]).exp_().mul_(-grad)
            result[part] = share.scatter_add_(1, targets[part, None], grad)
        return result, None


def whole(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """(T,) log-probabilities, by (T, V) logits."""
    result = WholeLogits.apply(hidden @ weight.T, targets)
    assert isinstance(result, Tensor)
    return result


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same as the trainer computes it."""
    result = ChosenLogprobs.apply(hidden, weight, targets, None, weight.dtype)
    assert isinstance(result, Tensor)
    return result


def run(kit: Kit, rows: Sequence[str], emit: Emit) -> None:
    for row in rows:
        _measure(kit, row, int(row.split("/")[1]), emit)


def _measure(kit: Kit, row: str, num_targets: int, emit: Emit) -> None:
    text = kit.scale.shapes[kit.scale.full].text
    torch.manual_seed(0)
    size = {"device": kit.device, "dtype": torch.bfloat16}
    hidden = torch.randn(num_targets, text["hidden_size"], **size).requires_grad_()
    weight = (0.02 * torch.randn(text["vocab_size"], text["hidden_size"], **size)).requires_grad_()
    targets = torch.randint(text["vocab_size"], (num_targets,), device=kit.device)
    upstream = torch.rand(num_targets, device=kit.device) / num_targets
    figures: dict[str, Any] = {}
    found: list[list[Any]] = []
    for name, head in (("whole", whole), ("chunked", chunked)):

        def work(head: Any = head) -> Tensor:
            hidden.grad = weight.grad = None
            logprobs: Tensor = head(hidden, weight, targets)
            logprobs.backward(upstream)
            return logprobs.detach()

        cost = card.measured(work, num_calls=3)
        figures |= {f"{name}_ms": cost.ms, f"{name}_gb": cost.gb}
        found.append([work(), hidden.grad, weight.grad])
    errors = [relative_error(a, b) for a, b in zip(*found, strict=True)]
    figures |= dict(
        zip(("logprob_error", "hidden_grad_error", "weight_grad_error"), errors, strict=True)
    )
    said = ""
    if max(errors) > LARGEST_ERROR:
        said = f"the two heads are {max(errors):.3g} apart, expected at most {LARGEST_ERROR}"
    emit(row, figures, error=said)
