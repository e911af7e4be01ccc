"""From the rewards of a group, which is all samples of one problem in one round, to advantages.

A group whose members are all worth the same has no signal: it is dropped whole, so that it neither
dilutes a mean nor feels a pull to the start weights. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from virgo_ray.config import ObjectiveConfig, RewardsConfig
from virgo_ray.records import Member
from virgo_ray.selection.rewards import find_reward

MAX_EXPONENT = 20.0  # of reward_weighted: no few rollouts outweigh all others, no float overflows
SAME = 1e-9  # rewards that differ by no more are equal but for rounding

Rewarded = tuple[Member, float]


@dataclass(frozen=True)
class Group:
    """The judged members of one group with their rewards; those that leave it are not in it."""

    members: tuple[Rewarded, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(reward for _, reward in self.members)

    @property
    def has_signal(self) -> bool:
        """Whether there is anything to compare: two members that are worth different things."""
        return len(self.members) > 1 and max(self.rewards) - min(self.rewards) > SAME


@dataclass(frozen=True)
class Signal:
    """How much a round's groups say, for metrics."""

    num_groups: int
    num_with_signal: int
    num_single: int  # groups of fewer than two members
    num_left: int  # rollouts that left their group
    mean_reward: float  # over all members; 0 where there are none
    reward_spread: float  # standard deviation within a group, mean over groups of two and more

    @property
    def share(self) -> float:
        """Of all groups those with signal."""
        return self.num_with_signal / max(self.num_groups, 1)


def make_groups(members: Mapping[str, Sequence[Member]], cfg: RewardsConfig) -> list[Group]:
    """A group per problem, in the order of problem ids."""
    return [_make_group(own, cfg) for _, own in sorted(members.items())]


def _make_group(members: Sequence[Member], cfg: RewardsConfig) -> Group:
    found = [(m, find_reward(m, cfg)) for m in sorted(members, key=lambda m: m.sample_index)]
    return Group(tuple((m, reward) for m, reward in found if reward is not None))


def measure_signal(
    members: Mapping[str, Sequence[Member]], groups: Sequence[Group], num_with_signal: int
) -> Signal:
    """Count what `make_groups` made of `members`."""
    rewards = [reward for group in groups for reward in group.rewards]
    spreads = [_deviation(group.rewards) for group in groups if len(group.members) > 1]
    return Signal(
        num_groups=len(groups),
        num_with_signal=num_with_signal,
        num_single=sum(len(group.members) < 2 for group in groups),
        num_left=sum(map(len, members.values())) - len(rewards),
        mean_reward=math.fsum(rewards) / max(len(rewards), 1),
        reward_spread=math.fsum(spreads) / max(len(spreads), 1),
    )


def weigh_group(group: Group, cfg: ObjectiveConfig) -> list[float]:
    """How much each member of a group with signal counts under `cfg.name`, in their order.

    For rloo and grpo these are advantages, which may be negative, for reward_weighted weights
    above 0.
    """
    estimate = estimator_of(cfg)
    limit = cfg.max_advantage
    advantages = [min(limit, max(-limit, a)) for a in estimate(group.rewards)]
    if cfg.name == "reward_weighted":
        temperature = cfg.reward_weighted.temperature
        return [math.exp(min(a / temperature, MAX_EXPONENT)) for a in advantages]
    return advantages


def estimator_of(cfg: ObjectiveConfig) -> Callable[[Sequence[float]], list[float]]:
    if cfg.name == "rloo":
        return leave_one_out
    if cfg.name == "grpo" and cfg.grpo.standardise:
        return standardised
    return centred


def centred(rewards: Sequence[float]) -> list[float]:
    """Reward minus the group's mean (Dr. GRPO, arXiv 2503.20783).

    >>> centred([1.0, 0.0, 0.0, 0.0])
    [0.75, -0.25, -0.25, -0.25]
    """
    mean = math.fsum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def standardised(rewards: Sequence[float]) -> list[float]:
    """Reward minus the mean, over the standard deviation with N - 1 (GRPO, arXiv 2402.03300).

    No constant is added to the deviation: groups without signal never come here.

    >>> standardised([1.0, -1.0, 0.0])
    [1.0, -1.0, 0.0]
    """
    deviation = _deviation(rewards)
    return [advantage / deviation for advantage in centred(rewards)]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """Reward minus the mean of the others (RLOO, arXiv 2402.14740): G/(G-1) times the centred one.

    >>> leave_one_out([1.0, 0.0, 0.0])
    [1.0, -0.5, -0.5]
    """
    num = len(rewards)
    return [advantage * num / (num - 1) for advantage in centred(rewards)]


def _deviation(rewards: Sequence[float]) -> float:
    return math.sqrt(math.fsum(a * a for a in centred(rewards)) / (len(rewards) - 1))
