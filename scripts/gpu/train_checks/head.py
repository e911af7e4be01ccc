"""Rows `head/<targets>`: the output layer as it is today against one applied chunk by chunk.

Today the logits of all targets and their gradient are in memory at once. The other one keeps none:
it takes the logits of some rows, forgets them, and takes them again in the backward pass. Both give
the log-probabilities of the targets and the gradients of hidden states and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from train_checks import card
from train_checks.attention import relative_error
from train_checks.kit import Emit, Kit
from virgo_ray.train import loss

ERRORS = ("logprob_error", "hidden_grad_error", "weight_grad_error")
LARGEST_ERROR = 0.02  # of a gradient, against today's, in bfloat16


class ChunkedHead(torch.autograd.Function):
    """`log_softmax(hidden @ weight.T)[range(T), targets]`, (T,) float32, no logits kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int
    ) -> Tensor:
        chosen, normalisers = [], []
        for rows, ids in zip(hidden.split(chunk_rows), targets.split(chunk_rows), strict=True):
            logits = (rows @ weight.T).float()
            normalisers.append(logits.logsumexp(-1))
            chosen.append(logits.gather(-1, ids[:, None]).squeeze(-1))
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalisers))
        ctx.chunk_rows = chunk_rows
        return torch.cat(chosen) - torch.cat(normalisers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, targets, normalisers = ctx.saved_tensors
        (upstream,) = grads
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), ctx.chunk_rows):
            part = slice(start, start + ctx.chunk_rows)
            rows, grad = hidden[part], upstream[part, None]
            share = ((rows @ weight.T).float() - normalisers[part, None]).exp_().mul_(-grad)
            share.scatter_add_(1, targets[part, None], grad)
            share = share.to(weight.dtype)
            to_hidden[part] = share @ weight
            to_weight.addmm_(share.T, rows)
        return to_hidden, to_weight, None, None


def today(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """What `TargetLogprobs` does with the hidden states."""
    result = loss.ChunkedLogprobs.apply(hidden @ weight.T, targets)
    assert isinstance(result, Tensor)
    return result


def _chunked(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int) -> Tensor:
    result = ChunkedHead.apply(hidden, weight, targets, chunk_rows)
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
    chunked = partial(_chunked, chunk_rows=kit.scale.head_chunk)
    for name, head in (("today", today), ("chunked", chunked)):

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
