"""How thoughts are sampled, and which of them are learned from."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from virgo_ray.config.section import Section


class SamplingConfig(Section):
    """How one request is sampled. Stored with every rollout."""

    temperature: NonNegativeFloat = Field(1.0, description="0: greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus")
    top_k: int = Field(0, ge=0, description="0: off")
    repetition_penalty: PositiveFloat = Field(1.0, description="1: off")
    max_tokens: PositiveInt = Field(description="longest response; longer ones are TRUNCATED")


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
    policy: Literal["improved", "faithful"] = Field(
        "improved", description="see virgo_ray/selection.py"
    )
    min_correct: PositiveInt = Field(2, description="improved: at least this many of n correct")
    min_pass_rate: float = Field(
        0.8, ge=0.0, le=1.0, description="faithful: keep problems at or above it (4 of 5)"
    )
    max_per_problem: PositiveInt = Field(
        2, description="improved: distinct traces kept per problem"
    )
    length_band: tuple[float, float] = Field(
        (0.1, 0.9), description="improved: quantiles of thought length kept"
    )
    max_reflections: PositiveInt = Field(25, description="improved: reflection markers per thought")
    last_rounds: PositiveInt | None = Field(
        None, description="draw from this many latest rounds; null: all"
    )
    max_traces: PositiveInt | None = Field(
        None, description="at most this many per round, balanced over bins"
    )
    drop_doubted: bool = Field(
        True, description="leave out traces that a second opinion doubts (verify.second_opinions)"
    )
