"""Fits, and how their weights reach the engines."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from virgo_ray.config.section import Section, Share


class LoraConfig(Section):
    rank: PositiveInt = Field(16, description="of the adapters")
    alpha: PositiveFloat = Field(32, description="scale is alpha / rank")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="on adapter inputs")
    target_modules: str = Field(
        r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        description="regular expression; must match",
    )

    @field_validator("target_modules")
    @classmethod
    def _is_an_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return pattern


class TrainConfig(Section):
    num_workers: PositiveInt = Field(2, description="DeepSpeed ranks")
    gpus_per_worker: int = Field(0, ge=0, le=1, description="1 on GPU machines; 0: CPU and gloo")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    lr: PositiveFloat = Field(7e-6, description="peak learning rate (AdamW)")
    warmup_ratio: float = Field(
        0.1, ge=0.0, lt=1.0, description="share of steps; then cosine to zero"
    )
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW")
    max_grad_norm: PositiveFloat = Field(1.0, description="gradient clipping")
    batch_size: PositiveInt = Field(128, description="examples per optimizer step, over all ranks")
    micro_batch_tokens: PositiveInt = Field(
        8192, description="padded tokens per rank and micro-step"
    )
    num_epochs: PositiveFloat = Field(
        1.0, description="passes over the examples; ignored if num_tokens is set"
    )
    num_tokens: PositiveInt | None = Field(
        None, description="train on this many tokens per fit instead (prompt, images, response)"
    )
    stop_epoch: PositiveFloat | None = Field(
        None,
        description="end after this many of the num_epochs that the learning rate is planned for",
    )
    restart_from: Literal["base", "previous"] = Field("base", description="where each round starts")
    freeze_vision: bool = Field(True, description="vision tower")
    freeze_connector: bool = Field(False, description="the projection from vision to language")
    lora: LoraConfig | None = Field(None, description="adapters instead of full fine-tuning")
    gradient_checkpointing: bool = Field(False, description="trade compute for memory")
    checkpoint_every_s: PositiveFloat = Field(60, description="in-round checkpoint interval")
    seed_share: Share | Annotated[tuple[Share, ...], Field(min_length=1)] = Field(
        0.5,
        description="most of a mixed round that seed thoughts may be; a list: of rounds 1, 2, ..., "
        "the last for all later",
    )
    max_restarts: NonNegativeInt = Field(
        2, description="rebuilds of the group after a rank died, per fit"
    )
    step_deadline_s: PositiveFloat = Field(600, description="longest time without a finished step")

    @model_validator(mode="after")
    def _stops_within_its_epochs(self) -> TrainConfig:
        if self.stop_epoch is None:
            return self
        if self.num_tokens is not None or self.stop_epoch > self.num_epochs:
            raise ValueError(
                f"stop_epoch={self.stop_epoch:g} with num_epochs={self.num_epochs:g}, num_tokens="
                f"{self.num_tokens}: expected at most num_epochs, and no num_tokens"
            )
        return self


class PushConfig(Section):
    transport: Literal["disk"] = Field("disk", description="how weights reach the engines")
    deadline_s: PositiveFloat = Field(600, description="for all workers together")
    max_logprob_diff: PositiveFloat = Field(
        1e-3, description="parity probe limit, nats; about 0.3 in bfloat16"
    )
