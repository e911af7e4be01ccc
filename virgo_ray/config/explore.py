"""How thoughts are sampled, and which of them are learned from."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from virgo_ray.config.section import Section, Share


class SamplingConfig(Section):
    """How one request is sampled. Stored with every rollout."""

    temperature: NonNegativeFloat = Field(1.0, description="0: greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus")
    top_k: int = Field(0, ge=0, description="0: off")
    repetition_penalty: PositiveFloat = Field(1.0, description="1: off")
    max_tokens: PositiveInt = Field(description="longest response; longer ones are TRUNCATED")


class ExtraConfig(Section):
    """More rollouts, within the round, for problems with few correct ones."""

    max_samples: NonNegativeInt = Field(
        0, description="at most this many more per problem (8 in guided self-improvement); 0: off"
    )
    until_correct: PositiveInt = Field(4, description="correct rollouts that are enough")
    batch: PositiveInt = Field(
        4, description="asked per problem before it is looked at again; each batch waits for all"
    )
    budget: NonNegativeInt | None = Field(
        None, description="extra rollouts per round, least solved problems first; null: no limit"
    )


class ExploreConfig(Section):
    num_problems: PositiveInt = Field(description="problems asked per round")
    num_samples: PositiveInt = Field(description="rollouts per problem")
    sampling: SamplingConfig = Field(description="of the rollouts")
    screen: bool = Field(
        False, description="round 0: ask the base greedily, later drop what it solved (faithful)"
    )
    max_barren_rounds: PositiveInt = Field(
        3, description="this many rounds in a row without a new accepted thought stop the run"
    )
    prefer_unsolved: bool = Field(
        True, description="choose problems with a low or unknown solve rate first"
    )
    unsolved_share: Share = Field(
        0.0,
        description="of a round's problems, at least this share were tried and never solved",
    )
    rate_rounds: PositiveInt | None = Field(
        None, description="solve rates come from this many latest rounds; null: all"
    )
    extra: ExtraConfig = ExtraConfig()
    temperatures: tuple[NonNegativeFloat, ...] = Field(
        (), description="of rounds 1, 2, ..., the last for all later; empty: sampling.temperature"
    )
    blank_probe: bool = Field(
        False,
        description="ask solved problems once more, greedily, their pictures blanked: see "
        "select.blank_solved_weight",
    )


class RolloutConfig(Section):
    num_workers: PositiveInt = Field(2, description="vLLM engines")
    gpus_per_worker: NonNegativeInt = Field(
        0, description="GPUs (tensor parallel) per engine; 0: CPU"
    )
    gpu_memory_utilization: float = Field(
        0.85, gt=0.0, le=1.0, description="share of GPU memory for the engine"
    )
    kv_cache_gib: PositiveFloat = Field(0.5, description="KV cache per engine on CPU, GiB")
    max_in_flight: PositiveInt = Field(64, description="requests in flight per worker")
    enforce_eager: bool = Field(False, description="no compilation: slower, quicker to start")
    start_deadline_s: PositiveFloat = Field(600, description="engine start and warm-up")
    stall_deadline_s: PositiveFloat = Field(
        300, description="longest time without a finished rollout"
    )
    heartbeat_deadline_s: PositiveFloat = Field(
        120, description="an engine that does not answer for so long while it samples is restarted"
    )
    max_restarts: NonNegativeInt = Field(
        3, description="restarts of one worker before it is retired"
    )
    min_workers: PositiveInt = Field(1, description="fewer live workers stop the run")


class SelectConfig(Section):
    policy: Literal["improved", "faithful"] = Field("improved", description="see docs/selection.md")
    split: Literal["medium", "hard", "random"] = Field(
        "medium",
        description="faithful: pass rates from min_pass_rate up (4-5 of 5), from 0.4 up to below "
        "it (2-3 of 5), or any that is not 0",
    )
    min_pass_rate: Share = Field(
        0.8, description="faithful: where medium begins and hard ends (4 of 5)"
    )
    min_correct: PositiveInt = Field(
        2, description="improved: at least this many of n correct where guessing is likely"
    )
    max_luck: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="improved: and so many that a blind guesser gets them with at most this "
        "probability; 1: min_correct alone counts",
    )
    max_per_problem: PositiveInt = Field(
        2, description="improved: distinct traces kept per problem"
    )
    max_overlap: Share = Field(
        1.0,
        description="improved: traces of a problem that share more of their word 3-grams are not "
        "distinct; 1: only equal ones are not",
    )
    keep: Literal["newest", "random", "shortest", "second_shortest", "second_longest"] = Field(
        "newest", description="improved: which of a problem's traces come first"
    )
    length_band: tuple[Share, Share] = Field(
        (0.1, 0.9), description="improved: quantiles of thought length kept"
    )
    max_reflections: NonNegativeInt = Field(
        25, description="improved: reflection markers per thought"
    )
    require_thought: bool = Field(
        False, description="improved: only responses with a finished thought between its tags"
    )
    max_repetition: Share = Field(
        1.0, description="improved: share of a thought's word 4-grams seen before"
    )
    blank_solved_weight: Share = Field(
        0.25,
        description="improved: probability of learning from a problem that was solved with its "
        "pictures blanked (explore.blank_probe)",
    )
    last_rounds: PositiveInt | None = Field(
        None, description="draw from this many latest rounds; null: all"
    )
    max_traces: PositiveInt | None = Field(
        None, description="at most this many per round, balanced over bins"
    )
    balance: Literal["even", "inverse", "none"] = Field(
        "even",
        description="how max_traces is shared: in turn over sources and bins of pass rate, drawn "
        "by their inverse frequency, or drawn evenly",
    )
    loss_balance: Share = Field(
        0.0,
        description="loss weight of a trace: inverse frequency of its source and bin to this "
        "power; 0: all the same",
    )
    drop_doubted: bool = Field(
        True, description="leave out traces that a second opinion doubts (verify.second_opinions)"
    )

    @field_validator("length_band")
    @classmethod
    def _is_a_band(cls, band: tuple[float, float]) -> tuple[float, float]:
        if band[0] > band[1]:
            raise ValueError("expected the lower quantile first")
        return band
