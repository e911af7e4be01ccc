"""What a fit makes better: the likelihood of thoughts that were kept, or the reward of all.

Every objective has a section for its own options. docs/reinforcement.md gives each formula with its
source. Knows no torch.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from virgo_ray.config.section import Section, Share

Name = Literal["imitation", "reward_weighted", "rloo", "dpo", "grpo"]
# Those whose gradient is that of the expected reward under the weights that sampled.
ON_POLICY = ("rloo", "grpo")
# Steps of a fit if nobody says how many. Those of grpo are bounded by its clip.
STEPS = {"rloo": 1, "grpo": 4}
VETO = 1e-4
# Where a clip begins if nobody says it, by what is clipped: (eps_low, eps_high).
CLIPS = {
    ("ppo", "token"): (0.2, 0.28),
    ("ppo", "sequence"): (3e-4, 4e-4),
    ("cispo", "token"): (1.0, 4.0),
}


class RewardsConfig(Section):
    """What a rollout is worth, by its status. What could not be judged (TIMEOUT, ERROR) is worth
    nothing known and leaves its group."""

    correct: float = Field(1.0, description="reward of a CORRECT rollout")
    doubted: float | None = Field(
        None,
        description="reward of a CORRECT rollout that a second opinion doubts; null: it leaves its "
        "group",
    )
    wrong: float = Field(0.0, description="reward of a WRONG rollout")
    no_answer: float | None = Field(
        0.0, description="reward of a NO_ANSWER rollout; null: it leaves its group"
    )
    truncated: float | None = Field(
        0.0, description="reward of a TRUNCATED rollout; null: it leaves its group"
    )
    repetitive: float | None = Field(
        0.0, description="reward of a REPETITIVE rollout; null: it leaves its group"
    )
    length_penalty: NonNegativeFloat = Field(
        0.0,
        description="most that a CORRECT rollout loses for its length, from "
        "train.objective.rewards.free_tokens + ramp_tokens on",
    )
    format_penalty: NonNegativeFloat = Field(
        0.0,
        description="what a CORRECT rollout loses whose thought is missing or empty, or whose tags "
        "are not whole",
    )
    free_tokens: NonNegativeInt = Field(
        0, description="tokens up to which the length of a rollout costs nothing"
    )
    ramp_tokens: PositiveInt = Field(
        4096,
        description="tokens beyond train.objective.rewards.free_tokens over which the length "
        "penalty rises to its most",
    )

    @model_validator(mode="after")
    def _correct_is_best(self) -> RewardsConfig:
        least = self.correct - self.length_penalty - self.format_penalty
        for name in ("wrong", "no_answer", "truncated", "repetitive"):
            value = getattr(self, name)
            if value is not None and value >= least:
                raise ValueError(
                    f"{name}={value:g} is not below what the longest correct rollout without a "
                    f"form is worth, correct - length_penalty - format_penalty = {least:g}; "
                    "expected a lower reward or penalty"
                )
        if self.doubted is not None and self.doubted > self.correct:
            raise ValueError(
                f"doubted={self.doubted:g} is above correct={self.correct:g}; expected at most "
                "as much"
            )
        return self


class RewardWeightedConfig(Section):
    """Imitation of all rollouts, each weighted by exp(advantage / temperature)."""

    temperature: float = Field(
        1.0,
        ge=0.05,
        description="divides the advantage; the lower, the more only the best ones count",
    )


class DpoConfig(Section):
    """Preference of a correct rollout over another one about the same problem."""

    form: Literal["sigmoid", "length_normalised", "ipo"] = Field(
        "sigmoid",
        description="sums of log-ratios in a sigmoid (DPO), their means per token in a sigmoid, or "
        "their means per token with a squared error (IPO)",
    )
    beta: PositiveFloat | None = Field(
        None,
        description="strength of the pull to the start weights; null: 0.1, for length_normalised 5",
    )
    sft_weight: NonNegativeFloat = Field(
        0.0,
        description="weight of the negative log-likelihood per token of the chosen rollout beside "
        "the preference",
    )
    pairs_per_problem: PositiveInt = Field(
        2,
        description="most pairs of one problem; no rollout is in two of them",
    )

    @property
    def strength(self) -> float:
        """`beta`, or what holds in its place."""
        return self.beta or (5.0 if self.form == "length_normalised" else 0.1)


class GrpoConfig(Section):
    """Policy gradient with advantages from groups, and a bound on how far a step may go."""

    standardise: bool = Field(
        False,
        description="divide the advantages of a group by their standard deviation (GRPO); false: "
        "subtract the mean alone (Dr. GRPO)",
    )
    aggregation: Literal["token", "sequence"] | None = Field(
        None,
        description="every token counts the same (DAPO), or every rollout does, whatever its "
        "length (GRPO); null: as train.objective.grpo.ratio",
    )
    ratio: Literal["token", "sequence"] = Field(
        "token",
        description="probability ratios of each token, or one per rollout: the geometric mean of "
        "its tokens' (GSPO)",
    )
    clip: Literal["ppo", "cispo"] = Field(
        "ppo",
        description="beyond its bounds a ratio has no gradient where it would go farther (ppo), or "
        "it stays a constant weight of the log-probability (cispo)",
    )
    eps_low: PositiveFloat | None = Field(
        None,
        description="ratios are clipped below 1 - eps_low; null: 0.2, with ratio=sequence 3e-4, "
        "with clip=cispo 1 (no bound)",
    )
    eps_high: PositiveFloat | None = Field(
        None,
        description="ratios are clipped above 1 + eps_high; null: 0.28, with ratio=sequence 4e-4, "
        "with clip=cispo 4",
    )
    kl: NonNegativeFloat = Field(
        0.0,
        description="weight of the squared log-ratio to the start weights of the fit, over two "
        "(k2); 0: none",
    )
    old_logprobs: Literal["sampler", "trainer"] = Field(
        "trainer",
        description="log-probabilities that ratios begin at: those stored when a rollout was "
        "sampled, or the trainer's own under the start weights, in one more pass per fit",
    )
    importance: Literal["none", "tis", "icepop"] | None = Field(
        None,
        description="weight of a token by trainer's over sampler's probability: none, cut at its "
        "upper bound (tis), or 0 outside its bounds (icepop); null: icepop with "
        "old_logprobs=trainer, else none",
    )
    importance_bounds: tuple[NonNegativeFloat, PositiveFloat] | None = Field(
        None,
        description="lowest and highest weight of a token by train.objective.grpo.importance; "
        "null: 0 and 2 for tis, 0.5 and 5 for icepop",
    )
    veto: Share = Field(
        VETO,
        description="a rollout with a token whose importance is below this counts nothing; 0: no "
        "veto",
    )

    @property
    def counting(self) -> str:
        """`aggregation`, or what holds in its place."""
        return self.aggregation or self.ratio

    @property
    def epsilons(self) -> tuple[float, float]:
        """How far a ratio may be below and above 1."""
        low, high = CLIPS[self.clip, self.ratio]
        return self.eps_low or low, self.eps_high or high

    @property
    def weighting(self) -> str:
        """`importance`, or what holds in its place."""
        return self.importance or ("icepop" if self.old_logprobs == "trainer" else "none")

    @property
    def needs_logprobs(self) -> bool:
        """Whether the log-probabilities that rollouts were sampled with are needed."""
        return self.old_logprobs == "sampler" or self.weighting != "none"

    @property
    def bounds(self) -> tuple[float, float]:
        """Of importance weights."""
        return self.importance_bounds or ((0.5, 5.0) if self.weighting == "icepop" else (0.0, 2.0))

    @model_validator(mode="after")
    def _belongs_together(self) -> GrpoConfig:
        if self.clip == "cispo" and self.ratio == "sequence":
            raise ValueError(
                "clip=cispo with ratio=sequence: CISPO weights tokens by their own ratios; "
                "expected ratio=token, or clip=ppo"
            )
        if self.importance not in (None, "none") and self.old_logprobs == "sampler":
            raise ValueError(
                f"importance={self.importance} with old_logprobs=sampler: ratios begin at the "
                "sampler's probabilities already, and would be corrected twice; expected "
                "old_logprobs=trainer, or importance=none"
            )
        if self.weighting == "none" and (self.importance_bounds or self.veto != VETO):
            name = "importance_bounds" if self.importance_bounds else "veto"
            raise ValueError(
                f"{name} is set where tokens are not weighted by importance; expected importance "
                "tis or icepop, or no such key"
            )
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"importance_bounds=[{low:g}, {high:g}]: expected the lower one first")
        if self.clip == "ppo" and self.epsilons[0] >= 1.0:
            raise ValueError(f"eps_low={self.epsilons[0]:g}: expected less than 1 with clip=ppo")
        return self


class ObjectiveConfig(Section):
    """What a fit makes better. A name alone stands for the section with that name."""

    name: Name = Field(
        "imitation",
        description="likelihood of selected thoughts (imitation) or of all, weighted by reward "
        "(reward_weighted); reward by policy gradient (rloo; grpo with ratios); preference (dpo)",
    )
    rewards: RewardsConfig = RewardsConfig()
    num_steps: PositiveInt | None = Field(
        None,
        description="optimizer steps of a fit, which share all its examples once; null: 1 for "
        "rloo, 4 for grpo, else as train.batch_size and train.num_epochs say",
    )
    max_advantage: PositiveFloat = Field(
        5.0, description="advantages beyond this, up or down, are cut to it"
    )
    max_refills: NonNegativeInt = Field(
        0,
        description="times in a round that as many other problems are asked as groups had no "
        "signal (all rollouts worth the same)",
    )
    reward_weighted: RewardWeightedConfig = RewardWeightedConfig()
    dpo: DpoConfig = DpoConfig()
    grpo: GrpoConfig = GrpoConfig()

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw

    @property
    def is_reinforcement(self) -> bool:
        """Whether groups of rollouts are learned from, wrong ones included."""
        return self.name != "imitation"

    @property
    def is_on_policy(self) -> bool:
        return self.name in ON_POLICY

    @property
    def needs_logprobs(self) -> bool:
        """Whether the log-probabilities that rollouts were sampled with are needed."""
        return self.name == "grpo" and self.grpo.needs_logprobs

    @property
    def has_reference(self) -> bool:
        """Whether log-probabilities under the start weights are needed."""
        grpo = self.grpo
        uses = grpo.old_logprobs == "trainer" or grpo.kl > 0
        return self.name == "dpo" or (self.name == "grpo" and uses)

    @property
    def steps(self) -> int | None:
        """`num_steps`, or what holds in its place; None: as the batch size says."""
        return self.num_steps or STEPS.get(self.name)
