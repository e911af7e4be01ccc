"""The tensors that every objective works on, and sums over the tokens of each example.

Sums are taken example by example, which are contiguous: the result does not depend on the order in
which a GPU's threads add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """T target tokens of E examples, which lie behind each other."""

    new: Tensor  # (T,) log-probabilities under the weights that are trained, with their gradient
    weights: Tensor  # (T,) of the example: its advantage where it has a group
    has_group: Tensor  # (T,) bool; False: to be imitated
    sampled: Tensor  # (T,) log-probabilities when they were sampled; 0 where nobody noted them
    start: Tensor  # (T,) log-probabilities under the start weights; 0 where nobody asked
    lengths: tuple[int, ...]  # (E,) targets of each example
    roles: tuple[str, ...]  # (E,) "chosen", "rejected" or ""


def sum_each(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """(E,) from (T,): the sum over the tokens of each example."""
    return torch.stack([part.sum() for part in values.split(list(lengths))])


def mean_each(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """(E,) from (T,): the mean over the tokens of each example."""
    return torch.stack([part.mean() for part in values.split(list(lengths))])


def spread(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """(T,) from (E,): the value of its example at every token."""
    return torch.cat([value.expand(n) for value, n in zip(values, lengths, strict=True)])
