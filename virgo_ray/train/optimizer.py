"""AdamW that needs next to no memory of its own while it updates.

torch's AdamW makes two temporaries as large as what it updates: 8 bytes a parameter where ZeRO
hands it one flat tensor. This one walks through large tensors in chunks. Every operation is
element by element, so the numbers are torch's to the last bit. On a GPU torch's fused kernel does
the same in one pass and without temporaries; what is offloaded from one is updated by the fused
kernel for CPUs, on all threads of the rank. Knows no ZeRO.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from virgo_ray.train.sizes import ADAM_ELEMENTS as CHUNK_ELEMENTS


class FrugalAdamW(torch.optim.AdamW):
    """As torch.optim.AdamW with its defaults, for real tensors; its state is interchangeable.

    With `is_fused` the numbers are those of `torch.optim.AdamW(fused=True)`.
    """

    def __init__(self, params: Any, is_fused: bool = False, **settings: Any) -> None:
        super().__init__(params, **settings)
        self._is_fused = is_fused

    def allocate(self) -> None:
        """Make the moments of every parameter that has none yet, instead of in the first step.

        Then what fits into memory before the first step fits after it, too.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                self._state_of(parameter)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "a closure is not supported"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self._state_of(parameter)
        assert parameter.grad is not None
        beta1, beta2 = group["betas"]
        whole = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
        for weight, grad, moment, square in [whole] if self._is_fused else _chunks(whole):
            step = state["step"].to(weight.device, copy=True)  # it is counted up there
            adam(
                [weight], [grad], [moment], [square], [], [step],
                foreach=False, fused=self._is_fused,
                decoupled_weight_decay=True, amsgrad=False, maximize=False,
                beta1=beta1, beta2=beta2, lr=group["lr"], eps=group["eps"],
                weight_decay=group["weight_decay"],
            )  # fmt: skip
        state["step"] += 1

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def groups_of(
    parameters: Sequence[nn.Parameter], sizes: Sequence[int], most: int
) -> list[dict[str, list[nn.Parameter]]]:
    """Parameter groups of at most `most` elements each, in order; a larger parameter is alone.

    Example: sizes 3, 3, 9, 1 and at most 6: [3, 3], [9], [1].
    """
    groups: list[dict[str, list[nn.Parameter]]] = []
    filled = 0
    for parameter, size in zip(parameters, sizes, strict=True):
        if not groups or filled + size > most:
            groups.append({"params": []})
            filled = 0
        groups[-1]["params"].append(parameter)
        filled += size
    return groups


def _chunks(tensors: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """The same elements of all tensors, as views; at once where memory is not in one piece."""
    if not all(tensor.is_contiguous() for tensor in tensors):
        yield tensors
        return
    yield from zip(*(tensor.view(-1).split(CHUNK_ELEMENTS) for tensor in tensors), strict=True)
