"""Probability ratios to the weights that an update begins at, and the bounds on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from virgo_ray.train.objectives.scored import mean_each, spread

MAX_LOG_RATIO = 20.0  # beyond it a ratio is cut, so that no exponential overflows (as in verl)


def find_ratios(new: Tensor, old: Tensor, lengths: Sequence[int], kind: str) -> Tensor:
    """(T,) `token`: new over old probability of each; `sequence`: of each example the geometric
    mean of those (GSPO, arXiv 2507.18071), at all of its tokens."""
    log_ratios = new - old
    if kind == "sequence":
        log_ratios = spread(mean_each(log_ratios, lengths), lengths)
    return log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clip_ppo(ratios: Tensor, advantages: Tensor, epsilons: tuple[float, float]) -> Tensor:
    """(T,) loss `-min(ratio * A, clip(ratio, 1 - low, 1 + high) * A)` (PPO, arXiv 1707.06347; with
    two bounds DAPO, arXiv 2503.14476)."""
    low, high = epsilons
    clipped = ratios.clamp(1.0 - low, 1.0 + high)
    return -torch.minimum(ratios * advantages, clipped * advantages)


def clip_cispo(
    ratios: Tensor, new: Tensor, advantages: Tensor, epsilons: tuple[float, float]
) -> Tensor:
    """(T,) loss `-sg(clip(ratio)) * A * log-probability` (CISPO, arXiv 2506.13585): every token
    keeps a gradient."""
    low, high = epsilons
    clipped = ratios.detach().clamp(1.0 - low, 1.0 + high)
    return -clipped * advantages * new


def is_beyond(ratios: Tensor, advantages: Tensor, epsilons: tuple[float, float]) -> Tensor:
    """(T,) bool: where PPO's clip takes the gradient away."""
    low, high = epsilons
    up = (advantages > 0) & (ratios > 1.0 + high)
    return up | ((advantages < 0) & (ratios < 1.0 - low))


def penalise_k2(new: Tensor, start: Tensor) -> Tensor:
    """(T,) `(new - start)^2 / 2`: its mean over samples has the gradient of the KL divergence from
    the start weights (Schulman's k2 estimator)."""
    return (new - start).square() / 2.0
