"""The objective of a fit: how its terms are counted, made, and described in metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from virgo_ray.config import DpoConfig, GrpoConfig, ObjectiveConfig
from virgo_ray.records import Example
from virgo_ray.train.objectives.policy import (
    bound_policy,
    measure_bounds,
    measure_likelihood,
    weigh_likelihood,
)
from virgo_ray.train.objectives.preference import measure_preference, prefer
from virgo_ray.train.objectives.scored import Scored

Means = dict[str, float]


class Objective(Protocol):
    """A loss over the micro-batches of a step, all ranks together."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of what `measure` sums, the same for every micro-batch."""
        ...

    def count(self, examples: Iterable[Example]) -> int:
        """What the loss of a step with these examples is divided by."""
        ...

    def loss(self, scored: Scored) -> Tensor:
        """The sum of a micro-batch's terms."""
        ...

    def measure(self, scored: Scored) -> Mapping[str, Tensor]:
        """Sums over a micro-batch for `summarise`."""
        ...

    def summarise(self, sums: Mapping[str, float]) -> Means:
        """What a step is said to have been, from sums over its micro-batches and all ranks."""
        ...


def find_objective(cfg: ObjectiveConfig, examples: Sequence[Example]) -> Objective | None:
    """The objective of a fit on these examples; None: imitation.

    A fit without any group, such as that of the seed thoughts, is imitation whatever the name is.
    """
    if not cfg.is_reinforcement or not any(example.group for example in examples):
        return None
    if cfg.name == "dpo":
        return Preference(cfg.dpo)
    return BoundedPolicy(cfg.grpo) if cfg.name == "grpo" else WeightedLikelihood()


@dataclass(frozen=True)
class WeightedLikelihood:
    """Reward-weighted regression and RLOO."""

    names = ("tokens", "surprise", "positive")

    def count(self, examples: Iterable[Example]) -> int:
        return _num_targets(examples)

    def loss(self, scored: Scored) -> Tensor:
        return weigh_likelihood(scored).sum()

    def measure(self, scored: Scored) -> Mapping[str, Tensor]:
        return measure_likelihood(scored)

    def summarise(self, sums: Mapping[str, float]) -> Means:
        return _of_tokens(sums)


@dataclass(frozen=True)
class BoundedPolicy:
    """GRPO and its variants. What compares with the sampler is said only where the objective needs
    its log-probabilities: elsewhere they may not be stored."""

    cfg: GrpoConfig

    @property
    def names(self) -> tuple[str, ...]:
        return (
            *(*WeightedLikelihood.names, "ratio", "clipped"),
            *(("to_sampler", "to_sampler_squared") if self.cfg.needs_logprobs else ()),
            *(("kl",) if self._has_start else ()),
            *(("gap", "dropped") if self._has_both else ()),
        )

    @property
    def _has_start(self) -> bool:
        return self.cfg.old_logprobs == "trainer" or self.cfg.kl > 0

    @property
    def _has_both(self) -> bool:
        """Whether log-probabilities under the start weights can be compared with the sampler's."""
        return self._has_start and self.cfg.needs_logprobs

    def count(self, examples: Iterable[Example]) -> int:
        if self.cfg.counting == "sequence":
            return sum(not example.is_filler for example in examples)
        return _num_targets(examples)

    def loss(self, scored: Scored) -> Tensor:
        return bound_policy(scored, self.cfg).sum()

    def measure(self, scored: Scored) -> Mapping[str, Tensor]:
        return measure_bounds(scored, self.cfg)

    def summarise(self, sums: Mapping[str, float]) -> Means:
        num = max(sums["tokens"], 1.0)
        means = _of_tokens(sums) | {
            "ratio_mean": sums["ratio"] / num,
            "clip_share": sums["clipped"] / num,
        }
        if self._has_start:
            means["start_kl"] = sums["kl"] / num
        if self.cfg.needs_logprobs:
            squared = sums["to_sampler_squared"]
            means["effective_share"] = sums["to_sampler"] ** 2 / (num * squared) if squared else 0.0
        if self._has_both:
            means["sampler_gap"] = sums["gap"] / num
            means["dropped_share"] = sums["dropped"] / num
        return means


@dataclass(frozen=True)
class Preference:
    """DPO and its forms; a pair counts as one."""

    cfg: DpoConfig
    names = ("pairs", "margin", "preferred", "chosen_moved", "rejected_moved")

    def count(self, examples: Iterable[Example]) -> int:
        return sum(not example.is_filler and example.role != "rejected" for example in examples)

    def loss(self, scored: Scored) -> Tensor:
        return prefer(scored, self.cfg).sum()

    def measure(self, scored: Scored) -> Mapping[str, Tensor]:
        return measure_preference(scored, self.cfg)

    def summarise(self, sums: Mapping[str, float]) -> Means:
        num = max(sums["pairs"], 1.0)
        return {
            "margin_mean": sums["margin"] / num,
            "preferred_share": sums["preferred"] / num,
            "chosen_logratio": sums["chosen_moved"] / num,
            "rejected_logratio": sums["rejected_moved"] / num,
        }


def _num_targets(examples: Iterable[Example]) -> int:
    return sum(len(example.target_ids) for example in examples if not example.is_filler)


def _of_tokens(sums: Mapping[str, float]) -> Means:
    num = max(sums["tokens"], 1.0)
    return {"entropy": sums["surprise"] / num, "positive_share": sums["positive"] / num}
