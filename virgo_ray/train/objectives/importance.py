"""Weights of tokens by how much likelier the trainer finds them than the sampler did.

The two compute the same probabilities with other kernels, and in bfloat16 they differ. Neither is
under the weights that are trained, so the weights have no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from virgo_ray.config import GrpoConfig
from virgo_ray.train.objectives.ratios import MAX_LOG_RATIO
from virgo_ray.train.objectives.scored import spread


def weigh_tokens(old: Tensor, sampled: Tensor, lengths: Sequence[int], cfg: GrpoConfig) -> Tensor:
    """(T,) of trainer's (`old`) over sampler's probability: 1 with `none`; cut at the bounds with
    `tis` (truncated importance sampling); 0 outside of them with `icepop`.

    All tokens of an example with one below `cfg.veto` weigh 0.
    """
    if cfg.weighting == "none":
        return torch.ones_like(old)
    ratios = (old - sampled).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    low, high = cfg.bounds
    if cfg.weighting == "tis":
        weights = ratios.clamp(low, high)
    else:
        weights = ratios * ((ratios >= low) & (ratios <= high))
    if not cfg.veto:
        return weights
    least = torch.stack([part.min() for part in ratios.split(list(lengths))])
    return weights * spread((least >= cfg.veto).to(weights.dtype), lengths)
