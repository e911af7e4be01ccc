"""The output head: log-probabilities of targets, with the logits of a chunk of them at a time.

Guarantees: full logits exist neither in the forward nor in the backward pass, which computes each
chunk anew; a frozen head costs no gradient of its weight; gradients of the log-probabilities may be
any, one per target. The number of chunks may differ from rank to rank: a pass is one call of the
module, so that ZeRO-3 gathers the weight once, whatever the number of targets, none included.
Knows neither the decoder below nor what the log-probabilities are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from virgo_ray.errors import TrainingError
from virgo_ray.train import sizes


class LogprobHead(nn.Linear):
    """An output layer that takes targets too. It is made of a model's own by `install`."""

    logit_dtype: torch.dtype | None  # None: the weight's own

    def forward(
        self,
        input: Tensor,
        targets: Tensor | None = None,
        temperatures: Tensor | None = None,
        banned: Tensor | None = None,
    ) -> Tensor:
        """Log-probabilities in nats, (T,) float32, of `targets` (T,) after hidden states (T, H).

        `temperatures` (T,) divide the logits of each target; left out, they are 1. The ids `banned`
        have no probability, as where they were banned at sampling. Without targets it gives logits,
        as transformers' own forward expects.
        """
        if targets is None:
            return super().forward(input)
        dtype = self.logit_dtype or self.weight.dtype
        result = ChosenLogprobs.apply(input, self.weight, targets, temperatures, dtype, banned)
        assert isinstance(result, Tensor)
        return result


def install(model: Any, dtype: str | None = None) -> None:
    """Make `model.lm_head` a LogprobHead, in place: its parameters and their names stay.

    `dtype` is that of the logits, as `model.head_dtype` names it, or None for the weight's own.

    Raises:
        TrainingError: it has a bias or adapters.
    """
    head = model.lm_head
    if type(head) not in (nn.Linear, LogprobHead) or head.bias is not None:
        raise TrainingError(
            f"lm_head is of {type(head)}, expected a linear layer without bias and without "
            "adapters: leave it out of train.lora.target_modules"
        )
    head.__class__ = LogprobHead
    head.logit_dtype = dtype and getattr(torch, dtype)


class ChosenLogprobs(torch.autograd.Function):
    """`log_softmax(hidden @ weight.T / temperatures)[range(T), targets]`, (T,) float32.

    Logits are rounded to `dtype`, the softmax is taken in float32. With `dtype` float32 a bfloat16
    head keeps the sums of its products as they are, as vLLM's `head_dtype` does: on a GPU without
    a float32 copy of the weight, on a CPU with one. The gradient of the logits is rounded to the
    weight's dtype before it is multiplied with hidden states and weight, whatever `dtype` is.
    The weight is saved as the parameter that it is: ZeRO-3 may free and gather it in between.
    Logits of `banned` ids are minus infinity, in both passes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperatures: Tensor | None,
        dtype: torch.dtype,
        banned: Tensor | None = None,
    ) -> Tensor:
        chosen, normalisers = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(2))
        for part in _parts(hidden, weight):
            logits = _logits(hidden[part], weight, _part_of(temperatures, part), dtype, banned)
            chosen[part] = logits.gather(-1, targets[part, None]).squeeze(-1)
            top = logits.amax(-1)
            normalisers[part] = logits.sub_(top[:, None]).exp_().sum(-1).log_().add_(top)
            del logits  # before the next chunk is made
        ctx.save_for_backward(hidden, weight, targets, temperatures, normalisers)
        ctx.dtype, ctx.banned = dtype, banned
        return chosen - normalisers

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, temperatures, normalisers = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        to_hidden = torch.empty_like(hidden) if needs_hidden else None
        to_weight = torch.zeros_like(weight) if needs_weight else None
        upstream = upstream if temperatures is None else upstream / temperatures
        for part in _parts(hidden, weight):
            own = _part_of(temperatures, part)
            logits = _logits(hidden[part], weight, own, ctx.dtype, ctx.banned)
            grad = upstream[part, None]
            share = logits.sub_(normalisers[part, None]).exp_().mul_(-grad)
            share = share.scatter_add_(1, targets[part, None], grad).to(weight.dtype)
            if to_hidden is not None:
                torch.mm(share, weight, out=to_hidden[part])
            if to_weight is not None:
                to_weight.addmm_(share.T, hidden[part])
            del logits, share
        return to_hidden, to_weight, None, None, None, None


def _logits(
    rows: Tensor,
    weight: Tensor,
    temperatures: Tensor | None,
    dtype: torch.dtype,
    banned: Tensor | None,
) -> Tensor:
    """(rows, V) float32, which the caller may write to."""
    if dtype == weight.dtype:
        logits = (rows @ weight.T).float()
    elif rows.is_cuda:
        logits = torch.mm(rows, weight.T, out_dtype=dtype)
    else:
        logits = rows.to(dtype) @ weight.T.to(dtype)
    if banned is not None:
        logits = logits.index_fill_(-1, banned, -torch.inf)
    return logits if temperatures is None else logits.div_(temperatures[:, None])


def _parts(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    rows = sizes.softmax_rows(len(weight))
    return (slice(start, start + rows) for start in range(0, len(hidden), rows))


def _part_of(values: Tensor | None, part: slice) -> Tensor | None:
    return None if values is None else values[part]
