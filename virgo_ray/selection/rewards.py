"""What a judged rollout is worth to reinforcement: one table by status, its length and form.

A wrong rollout is never worth more for its form: length and form count only together with
correctness.
Pure.
"""

from __future__ import annotations

from virgo_ray.config import RewardsConfig
from virgo_ray.records import Member, Status


def find_reward(member: Member, cfg: RewardsConfig) -> float | None:
    """The reward of a rollout, or None for one that leaves its group.

    TIMEOUT and ERROR always leave it: "could not judge" is never "wrong". Of a CORRECT rollout the
    penalties for length and form are taken off; of one that a second opinion doubts `cfg.doubted`
    is the most.
    """
    if member.status is Status.CORRECT:
        reward = cfg.correct - penalise_length(member.num_tokens, cfg)
        reward -= 0.0 if member.has_form else cfg.format_penalty
        if not member.is_doubted:
            return reward
        return None if cfg.doubted is None else min(cfg.doubted, reward)
    table = {
        Status.WRONG: cfg.wrong,
        Status.NO_ANSWER: cfg.no_answer,
        Status.TRUNCATED: cfg.truncated,
        Status.REPETITIVE: cfg.repetitive,
    }
    return table.get(member.status)


def penalise_length(num_tokens: int, cfg: RewardsConfig) -> float:
    """What a correct rollout of this length loses (DAPO's soft overlong punishment).

    >>> cfg = RewardsConfig(length_penalty=0.5, free_tokens=100, ramp_tokens=100)
    >>> [penalise_length(n, cfg) for n in (100, 150, 400)]
    [0.0, 0.25, 0.5]
    """
    excess = (num_tokens - cfg.free_tokens) / cfg.ramp_tokens
    return cfg.length_penalty * min(1.0, max(0.0, excess))
