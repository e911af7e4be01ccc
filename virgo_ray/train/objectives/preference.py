"""Preference losses: a correct rollout over another one about the same problem."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from virgo_ray.config import DpoConfig
from virgo_ray.train.objectives.scored import Scored, mean_each, sum_each

Sums = dict[str, Tensor]


def prefer(scored: Scored, cfg: DpoConfig) -> Tensor:
    """(E',) one term per pair, and one per example that is to be imitated.

    `sigmoid` (DPO, arXiv 2305.18290): `-log sigmoid(beta * D)`, D the difference of the sums of
    log-ratios to the start weights. `length_normalised` (Tulu 3, arXiv 2411.15124): the same of
    means per token. `ipo` (arXiv 2310.12036): `(D - 1 / (2 beta))^2` of means per token. With
    `sft_weight` the chosen one's negative log-likelihood per token is added (Iterative RPO, arXiv
    2404.19733).
    """
    margins = find_margins(scored, cfg)
    beta = cfg.strength
    if cfg.form == "ipo":
        terms = (margins - 1.0 / (2.0 * beta)).square()
    else:
        terms = -logsigmoid(beta * margins)
    likelihood = mean_each(scored.new, scored.lengths)
    if cfg.sft_weight:
        terms = terms - cfg.sft_weight * likelihood[_places(scored, "chosen")]
    weights = torch.stack([part[0] for part in scored.weights.split(list(scored.lengths))])
    alone = _places(scored, "")
    return torch.cat([terms, -(weights * likelihood)[alone]])


def find_margins(scored: Scored, cfg: DpoConfig) -> Tensor:
    """(P,) by how much the log-ratio of the chosen is above that of the rejected, of each pair."""
    gather = sum_each if cfg.form == "sigmoid" else mean_each
    moved = gather(scored.new - scored.start, scored.lengths)
    return moved[_places(scored, "chosen")] - moved[_places(scored, "rejected")]


@torch.no_grad()
def measure_preference(scored: Scored, cfg: DpoConfig) -> Sums:
    """What is said of pairs."""
    margins = find_margins(scored, cfg)
    moved = mean_each(scored.new - scored.start, scored.lengths)
    return {
        "pairs": torch.tensor(float(len(margins)), device=margins.device),
        "margin": margins.sum(),
        "preferred": (margins > 0).sum(),
        "chosen_moved": moved[_places(scored, "chosen")].sum(),
        "rejected_moved": moved[_places(scored, "rejected")].sum(),
    }


def _places(scored: Scored, role: str) -> list[int]:
    return [i for i, own in enumerate(scored.roles) if own == role]
