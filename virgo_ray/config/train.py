"""Fits, and how their weights reach the engines."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from virgo_ray.config.objective import ObjectiveConfig
from virgo_ray.config.passthrough import check_deepspeed, check_stage
from virgo_ray.config.section import Section, Share


class LoraConfig(Section):
    """Low-rank adapters, merged before weights are published."""

    rank: PositiveInt = Field(16, description="rank of the LoRA adapters")
    alpha: PositiveFloat = Field(
        32, description="scale of the LoRA adapters, which is alpha / rank"
    )
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="dropout on the inputs of the LoRA adapters"
    )
    target_modules: str = Field(
        r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        description="regular expression that the names of the modules with LoRA adapters must "
        "match",
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
    """How the model is fine-tuned each round."""

    num_workers: PositiveInt = Field(2, description="number of DeepSpeed ranks")
    gpus_per_worker: int | None = Field(
        None,
        ge=0,
        le=1,
        description="GPUs of one DeepSpeed rank; 0: CPU and gloo; null: 1 where the cluster has "
        "GPUs, else 0",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = Field(
        "none",
        description="what lies in host memory between its uses: AdamW's states and gradients, or "
        "parameters too (ZeRO stage 3); less GPU memory, a much slower update",
    )
    deepspeed: dict[str, Any] = Field(
        {},
        description="further keys of DeepSpeed's JSON, nested as there; docs/config.md lists those "
        "that are let through",
    )
    lr: PositiveFloat = Field(7e-6, description="peak learning rate of AdamW")
    warmup_ratio: float = Field(
        0.1,
        ge=0.0,
        lt=1.0,
        description="share of the steps in which the learning rate rises; after them it goes as "
        "train.schedule says",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine",
        description="learning rate after its rise: falls to zero within each fit, or within "
        "train.schedule_steps, as a cosine or a line, or stays at its peak",
    )
    schedule_steps: PositiveInt | None = Field(
        None,
        description="optimizer steps of all rounds together that the learning rate is planned for, "
        "with train.carry_optimizer; null: every fit has its own plan",
    )
    weight_decay: NonNegativeFloat = Field(0.0, description="weight decay of AdamW")
    max_grad_norm: PositiveFloat = Field(
        1.0, description="gradient norm above which gradients are clipped"
    )
    objective: ObjectiveConfig = ObjectiveConfig()
    batch_size: PositiveInt = Field(128, description="examples per optimizer step, over all ranks")
    micro_batch_tokens: PositiveInt = Field(
        8192,
        description="most tokens of a micro-batch on a rank, padding included; an example that is "
        "longer is a micro-batch of its own",
    )
    packing: bool = Field(
        True,
        description="examples of a micro-batch lie behind each other in one row, without padding; "
        "false: one row each, padded to the longest",
    )
    num_epochs: PositiveFloat = Field(
        1.0, description="passes of a fit over its examples; ignored if train.num_tokens is set"
    )
    num_tokens: PositiveInt | None = Field(
        None,
        description="tokens (prompt, images and response) that a fit trains on; null: "
        "train.num_epochs counts",
    )
    stop_epoch: PositiveFloat | None = Field(
        None,
        description="epochs after which a fit ends early, on the learning rates planned for "
        "train.num_epochs; null: no early end",
    )
    restart_from: Literal["base", "previous"] = Field(
        "base", description="weights that each round's fit starts from"
    )
    resident: bool = Field(
        False,
        description="model and optimizer stay in memory between fits, in host memory while engines "
        "use their devices (ZeRO stages 1 and 2 only); needs train.restart_from=previous",
    )
    carry_optimizer: bool = Field(
        False,
        description="AdamW's moments, its float32 weights and the place in the learning rate's "
        "plan go on from round to round; needs train.restart_from=previous",
    )
    freeze_vision: bool = Field(True, description="leave the vision tower untrained")
    freeze_connector: bool = Field(
        False, description="leave the projection from vision to language untrained"
    )
    lora: LoraConfig | None = Field(
        None,
        description="LoRA adapters, trained in place of all weights; null: all weights are trained",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more compute"
    )
    liger: bool = Field(
        False,
        description="normalisation, rotary positions and SwiGLU by liger-kernel (GPU only, and the "
        "package must be installed)",
    )
    checkpoint_every_s: PositiveFloat = Field(
        60, description="time between two checkpoints within a fit, in seconds"
    )
    seed_share: Share | Annotated[tuple[Share, ...], Field(min_length=1)] = Field(
        1.0,
        description="largest share of seed thoughts among the examples of a round that has traces; "
        "1.0: all seed thoughts; a list: for rounds 1, 2, ..., the last for all later rounds",
    )
    seed_floor: Share = Field(
        1.0,
        description="least tokens of a round's examples, as a share of the tokens of all seed "
        "thoughts: where train.seed_share leaves fewer, seed thoughts are put back; 0: no floor",
    )
    max_restarts: NonNegativeInt = Field(
        2,
        description="number of times in a row, without a new checkpoint in between, that a fit's "
        "ranks are started again after one died",
    )
    step_deadline_s: PositiveFloat = Field(
        600,
        description="longest time without progress in a fit (a finished step, 64 MiB read or "
        "written), in seconds",
    )

    @field_validator("deepspeed")
    @classmethod
    def _may_pass(cls, values: dict[str, Any]) -> dict[str, Any]:
        return check_deepspeed(values)

    @model_validator(mode="after")
    def _fits_its_stage(self) -> TrainConfig:
        check_stage(self.deepspeed, self.zero_stage)
        least = {"none": 0, "optimizer": 2, "optimizer_and_parameters": 3}[self.offload]
        if self.zero_stage < least:
            stages = "3" if least == 3 else "2 or 3"
            raise ValueError(
                f"offload={self.offload} with zero_stage={self.zero_stage}: expected "
                f"zero_stage={stages}, or offload=none"
            )
        return self

    @model_validator(mode="after")
    def _goes_on_with_what_stays(self) -> TrainConfig:
        if self.resident and self.restart_from != "previous":
            raise ValueError(
                f"resident=true with restart_from={self.restart_from}: every fit loads the base, "
                "so nothing could stay; expected restart_from=previous, or resident=false"
            )
        return self

    @model_validator(mode="after")
    def _carries_what_it_plans(self) -> TrainConfig:
        if not self.carry_optimizer:
            if self.schedule_steps is not None:
                raise ValueError(
                    f"schedule_steps={self.schedule_steps} plans the steps of several fits, and "
                    "carry_optimizer=false begins every fit anew; expected carry_optimizer=true, "
                    "or no schedule_steps"
                )
            return self
        if self.restart_from != "previous":
            raise ValueError(
                f"carry_optimizer=true with restart_from={self.restart_from}: the moments of one "
                "fit say nothing about a fit that starts from other weights; expected "
                "restart_from=previous, or carry_optimizer=false"
            )
        if self.schedule != "constant" and self.schedule_steps is None:
            raise ValueError(
                f"carry_optimizer=true with schedule={self.schedule}: the learning rate would fall "
                "to zero in every fit; expected schedule=constant, or schedule_steps, the "
                "optimizer steps of all rounds together"
            )
        if self.schedule_steps is not None and self.stop_epoch is not None:
            raise ValueError(
                f"stop_epoch={self.stop_epoch:g} ends fits early on a plan for num_epochs, and "
                f"schedule_steps={self.schedule_steps} is another plan; expected one of the two"
            )
        return self

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
    """How new weights reach the engines."""

    transport: Literal["auto", "disk", "broadcast", "ipc", "adapter"] = Field(
        "auto",
        description="how new weights reach the engines: from disk, or from the trainer's memory "
        "by a process group (broadcast), by shared memory (ipc), or as adapters; auto: adapter "
        "where only adapters are trained, else ipc on one node, else broadcast",
    )
    deadline_s: PositiveFloat = Field(
        600,
        description="longest time for all engines together to take over new weights, in seconds",
    )
    probe_tokens: int = Field(
        1000,
        ge=200,
        description="target tokens whose log-probabilities are compared after every push, about; "
        "chosen once for a run. Fewer than 200 cannot show that an engine kept old weights",
    )
    max_logprob_diff: PositiveFloat | None = Field(
        None,
        description="largest difference of log-probabilities between engine and trainer after a "
        "push that 1 in 100 tokens may exceed, in nats, however large or small the noise of "
        "version 0; null: 3 times that noise, at most 0.001 in float32, 0.5 in bfloat16",
    )
