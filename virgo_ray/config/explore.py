"""How thoughts are sampled, and which of them are learned from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from virgo_ray.config.own import OwnFunction
from virgo_ray.config.passthrough import check_engine_args
from virgo_ray.config.section import Section, Share

HARD_PASS_RATE = 0.4  # 2 of 5: where the paper's hard split begins


class SamplingConfig(Section):
    """How one request is sampled. Stored with every rollout."""

    temperature: NonNegativeFloat = Field(
        1.0, description="temperature that responses are sampled at; 0: greedy"
    )
    top_p: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="nucleus sampling: only the likeliest tokens that make up this probability "
        "are drawn",
    )
    top_k: int = Field(
        0, ge=0, description="only this many likeliest tokens are drawn from; 0: all"
    )
    repetition_penalty: PositiveFloat = Field(
        1.0, description="penalty on tokens that the text already holds; 1: none"
    )
    max_tokens: PositiveInt = Field(
        description="longest response in tokens; a longer one is cut off and counts as TRUNCATED"
    )

    def used_for(self, is_greedy: bool) -> SamplingConfig:
        """How a request of a call with this sampling is sampled: with the same limits, but at
        temperature 0 if it asks for that."""
        return self.model_copy(update={"temperature": 0.0}) if is_greedy else self


class ExtraConfig(Section):
    """More rollouts, within the round, for problems with few correct ones."""

    max_samples: NonNegativeInt = Field(
        0,
        description="most extra rollouts per problem within the round (guided self-improvement "
        "uses 8); 0: none",
    )
    until_correct: PositiveInt = Field(
        4, description="number of correct rollouts after which a problem gets no extra ones"
    )
    batch: PositiveInt = Field(
        4,
        description="extra rollouts asked per problem at a time; its next batch waits until they "
        "are judged",
    )
    budget_share: NonNegativeFloat | None = Field(
        None,
        description="most extra rollouts per problem asked in the round, on average, given to the "
        "least solved problems first; 1: as many as problems; null: no limit",
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_budget(cls, raw: Any) -> Any:
        """Earlier versions stored `budget`, a number of rollouts; null was no limit, as now."""
        if isinstance(raw, dict) and raw.get("budget", 0) is None:
            return {key: value for key, value in raw.items() if key != "budget"}
        return raw


def budget_as_share(budget: int | None, num_problems: int) -> float | None:
    """The `budget_share` of a `budget`, which earlier versions stored: a number of rollouts in a
    round that asks `num_problems`.

    >>> budget_as_share(800, 400)
    2.0
    """
    return None if budget is None else budget / max(num_problems, 1)


class ExploreConfig(Section):
    """How problems are chosen and asked."""

    num_problems: PositiveInt = Field(description="number of problems asked per round")
    num_samples: PositiveInt = Field(description="number of rollouts per problem")
    sampling: SamplingConfig = Field(description="how the rollouts of an exploration are sampled")
    screen: bool = Field(
        False,
        description="ask the base every problem once in round 0, greedily, and later drop what it "
        "solved (the paper's recipe)",
    )
    max_barren_rounds: PositiveInt = Field(
        3, description="number of rounds in a row without a new accepted thought that stops the run"
    )
    prefer_unsolved: bool = Field(
        True, description="choose problems with a low or unknown solve rate first"
    )
    unsolved_share: Share = Field(
        0.0,
        description="share of a round's problems, at least, that were tried before and never "
        "solved",
    )
    rate_rounds: PositiveInt | None = Field(
        None, description="number of latest rounds that solve rates are computed from; null: all"
    )
    extra: ExtraConfig = Field(
        ExtraConfig(),
        description="extra rollouts, within the round, for problems with few correct ones",
    )
    temperatures: tuple[NonNegativeFloat, ...] = Field(
        (),
        description="sampling temperatures of rounds 1, 2, ..., the last for all later rounds; "
        "[]: explore.sampling.temperature in every round",
    )
    blank_probe: bool = Field(
        False,
        description="ask every solved problem once more with its pictures blanked, greedily; "
        "select.blank_solved_weight uses the result",
    )


class RolloutConfig(Section):
    """The vLLM engines that sample."""

    num_workers: PositiveInt = Field(2, description="number of vLLM engines")
    gpus_per_worker: NonNegativeInt | None = Field(
        None,
        description="GPUs of one engine, used tensor-parallel; 0: the engine runs on the CPU; "
        "null: 1 where the cluster has GPUs, else 0",
    )
    gpu_memory_utilization: float = Field(
        0.85, gt=0.0, le=1.0, description="share of a GPU's memory that an engine may use"
    )
    kv_cache_gib: PositiveFloat = Field(
        0.5, description="size of an engine's KV cache on the CPU, in GiB"
    )
    max_in_flight: PositiveInt = Field(
        64, description="most requests that one engine works on at a time"
    )
    enforce_eager: bool = Field(
        False,
        description="run engines without compilation: they start sooner and sample more slowly",
    )
    engine_args: dict[str, Any] = Field(
        {},
        description="further arguments of vLLM's engines; docs/config.md lists those that are let "
        "through",
    )
    start_deadline_s: PositiveFloat = Field(
        600, description="longest time for an engine to start and warm up, in seconds"
    )
    stall_deadline_s: PositiveFloat = Field(
        300,
        description="longest time without a finished rollout before an engine is restarted, in "
        "seconds",
    )
    heartbeat_deadline_s: PositiveFloat = Field(
        120,
        description="longest time that a sampling engine may give no sign of life before it is "
        "restarted, in seconds",
    )
    max_restarts: NonNegativeInt = Field(
        3,
        description="number of restarts in a row after which an engine is given up; also the "
        "number of engines that one request may end",
    )
    min_workers: PositiveInt = Field(
        1, description="number of working engines below which the run stops"
    )

    @field_validator("engine_args")
    @classmethod
    def _may_pass(cls, values: dict[str, Any]) -> dict[str, Any]:
        return check_engine_args(values)


class SelectConfig(Section):
    """Which thoughts are learned from."""

    policy: Literal["improved", "faithful"] = Field(
        "improved",
        description="recipe by which traces are selected; docs/selection.md explains both",
    )
    custom: OwnFunction | None = Field(
        None,
        description="your own function in place of the policy: `package.module:function` is given "
        "the candidates and a random generator, and returns those to learn from",
    )
    split: Literal["medium", "hard", "random"] = Field(
        "medium",
        description="pass rates that the faithful policy learns from: min_pass_rate and above "
        "(medium: 4-5 of 5), 0.4 up to below it (hard: 2-3 of 5), or any but 0 (random)",
    )
    min_pass_rate: Share = Field(
        0.8,
        description="faithful policy: pass rate at which the medium split begins and the hard one "
        "ends (4 of 5)",
    )
    max_luck: float = Field(
        0.05,
        gt=0.0,
        le=1.0,
        description="improved policy: highest probability that a blind guesser gets as many "
        "rollouts right; 1: no limit",
    )
    min_correct: PositiveInt = Field(
        1,
        description="improved policy: correct rollouts that a problem needs besides, where one "
        "could be a guess; 1: select.max_luck alone decides",
    )
    max_per_problem: PositiveInt = Field(
        2, description="improved policy: most distinct traces kept per problem"
    )
    max_overlap: Share = Field(
        1.0,
        description="improved policy: share of common word 3-grams above which two traces of a "
        "problem are not distinct; 1: only equal ones are not",
    )
    keep: Literal["newest", "random", "shortest", "second_shortest", "second_longest"] = Field(
        "newest", description="improved policy: which traces of a problem come first"
    )
    length_band: tuple[Share, Share] = Field(
        (0.1, 0.9),
        description="improved policy: lowest and highest quantile of thought length that is kept",
    )
    max_reflections: NonNegativeInt = Field(
        25, description="improved policy: most reflection markers (such as `wait`) in a thought"
    )
    require_thought: bool = Field(
        False,
        description="improved policy: only learn from responses with a finished thought between "
        "its tags",
    )
    max_repetition: Share = Field(
        1.0,
        description="improved policy: highest share of a thought's word 4-grams that stood in it "
        "before",
    )
    blank_solved_weight: Share = Field(
        0.25,
        description="improved policy: probability of learning from a problem that was solved with "
        "its pictures blanked (explore.blank_probe)",
    )
    last_rounds: PositiveInt | None = Field(
        None, description="number of latest rounds that traces are selected from; null: all"
    )
    max_traces: PositiveInt | None = Field(
        None,
        description="most traces that a round trains on, shared as select.balance says; null: no "
        "limit",
    )
    balance: Literal["even", "inverse", "none"] = Field(
        "even",
        description="how select.max_traces is shared: in turn over sources and bins of pass rate "
        "(even), drawn by the inverse of their frequency (inverse), or drawn evenly "
        "(none)",
    )
    loss_balance: Share = Field(
        0.0,
        description="power of the inverse frequency of its source and bin that weights a trace's "
        "loss; 0: all weights are equal",
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
