"""The loss of policy gradients: likelihood weighted by advantage, and GRPO's with its variants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from virgo_ray.config import GrpoConfig
from virgo_ray.train.objectives.importance import weigh_tokens
from virgo_ray.train.objectives.ratios import (
    clip_cispo,
    clip_ppo,
    find_ratios,
    is_beyond,
    penalise_k2,
)
from virgo_ray.train.objectives.scored import Scored, spread

Sums = dict[str, Tensor]  # over the tokens that have a group


def weigh_likelihood(scored: Scored) -> Tensor:
    """(T,) `-weight * log-probability`: imitation, reward-weighted regression (arXiv 1910.00177)
    and, with advantages for weights, REINFORCE at the weights that sampled (RLOO)."""
    return -(scored.new * scored.weights)


def bound_policy(scored: Scored, cfg: GrpoConfig) -> Tensor:
    """(T,) GRPO's loss of tokens with a group, the likelihood's of those without.

    Summed and divided by the tokens of the step, or with `cfg.counting` sequence by its examples.
    """
    old = old_logprobs(scored, cfg)
    ratios = find_ratios(scored.new, old, scored.lengths, cfg.ratio)
    if cfg.clip == "cispo":
        terms = clip_cispo(ratios, scored.new, scored.weights, cfg.epsilons)
    else:
        terms = clip_ppo(ratios, scored.weights, cfg.epsilons)
    terms = terms * weigh_tokens(old, scored.sampled, scored.lengths, cfg)
    if cfg.kl:
        terms = terms + cfg.kl * penalise_k2(scored.new, scored.start)
    terms = torch.where(scored.has_group, terms, weigh_likelihood(scored))
    return terms * share_tokens(scored.lengths, terms, cfg.counting)


def old_logprobs(scored: Scored, cfg: GrpoConfig) -> Tensor:
    """(T,) what ratios begin at."""
    return scored.sampled if cfg.old_logprobs == "sampler" else scored.start


def share_tokens(lengths: Sequence[int], like: Tensor, counting: str) -> Tensor:
    """(T,) how much of its count a token is: 1 of one token, or one over its example's length."""
    if counting == "token":
        return torch.ones_like(like)
    return spread(torch.tensor([1.0 / n for n in lengths]).to(like), lengths)


@torch.no_grad()
def measure_likelihood(scored: Scored) -> Sums:
    """What is said of every policy objective."""
    mask = scored.has_group
    return {
        "tokens": mask.sum(),
        "surprise": -(scored.new * mask).sum(),
        "positive": ((scored.weights > 0) & mask).sum(),
    }


@torch.no_grad()
def measure_bounds(scored: Scored, cfg: GrpoConfig) -> Sums:
    """What is said of GRPO: ratios before any cut, and how far sampler and trainer are apart."""
    mask = scored.has_group
    old = old_logprobs(scored, cfg)
    ratios = find_ratios(scored.new, old, scored.lengths, cfg.ratio)
    to_sampler = find_ratios(scored.new, scored.sampled, scored.lengths, "token") * mask
    sums = {
        "ratio": (ratios * mask).sum(),
        "clipped": (is_beyond(ratios, scored.weights, cfg.epsilons) & mask).sum(),
        "to_sampler": to_sampler.sum(),
        "to_sampler_squared": to_sampler.square().sum(),
    }
    if cfg.old_logprobs == "trainer" or cfg.kl:
        weights = weigh_tokens(old, scored.sampled, scored.lengths, cfg)
        sums |= {
            "kl": (penalise_k2(scored.new, scored.start) * mask).sum(),
            "gap": ((scored.start - scored.sampled).abs() * mask).sum(),
            "dropped": ((weights == 0) & mask).sum(),
        }
    return {**measure_likelihood(scored), **sums}
