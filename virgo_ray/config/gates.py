"""When a round is refused: limits on its held-out figures. docs/gates.md says why each is there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from virgo_ray.config.own import OwnFunction
from virgo_ray.config.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class GatesConfig(Section):
    """A figure outside its limit rejects the round; null switches that gate off."""

    on_failure: Literal["stop", "continue"] = Field(
        "stop",
        description="what a rejected round does to the run: end it, or let it go on from the "
        "weights before",
    )
    custom: tuple[OwnFunction, ...] | None = Field(
        None,
        description="your own gates, a list of `package.module:function`: each is given the "
        "evaluation and the accepted rounds before it, and returns a Failure or None; null: none",
    )
    margin: NonNegativeFloat = Field(
        2.75,
        description="noise that gates forgive, in standard errors: a fall must be larger than "
        "this and than its limit; a share must miss a fixed limit by this",
    )
    max_pass_at_1_fall: Share | None = Field(
        0.05,
        description="largest fall of pass@1 below the best accepted round or the base; null: no "
        "gate",
    )
    max_pass_at_k_fall: Share | None = Field(
        0.05, description="largest fall of pass@k below the best accepted round; null: no gate"
    )
    max_maj_at_k_fall: Share | None = Field(
        0.05,
        description="largest fall of maj@k (majority vote) below the best accepted round or the "
        "base; null: no gate",
    )
    max_truncated_share: Share | None = Field(
        0.5, description="largest share of greedy held-out answers that are cut off; null: no gate"
    )
    max_repetitive_share: Share | None = Field(
        0.25, description="largest share of greedy held-out answers that loop; null: no gate"
    )
    max_no_answer_share: Share | None = Field(
        0.25,
        description="largest share of greedy held-out responses in which no answer is found; "
        "null: no gate",
    )
    min_length_ratio: PositiveFloat | None = Field(
        0.5,
        description="smallest mean thought length, relative to the first accepted round; null: no "
        "gate",
    )
    max_length_ratio: PositiveFloat | None = Field(
        2.5,
        description="largest mean thought length, relative to the first accepted round; null: no "
        "gate",
    )
    min_distinct_share: Share | None = Field(
        0.1,
        description="smallest share of a problem's further samples that are unlike the ones "
        "before; null: no gate",
    )
    max_blank_image_rise: Share | None = Field(
        0.2,
        description="largest rise of pass@1 with blanked images above the lowest so far; null: no "
        "gate",
    )
    max_perception_fall: Share | None = Field(
        0.05,
        description="largest fall of the probe evaluate.perception below the best accepted round "
        "or the base; null: no gate",
    )
    max_text_fall: Share | None = Field(
        0.05,
        description="largest fall of the probe evaluate.text below the best accepted round or the "
        "base; null: no gate",
    )
    min_entropy: NonNegativeFloat | None = Field(
        None,
        description="smallest entropy of sampled tokens in the last step of a fit, in nats per "
        "token, of train.objective reward_weighted, rloo and grpo; null: no gate",
    )
    max_kl: PositiveFloat | None = Field(
        None,
        description="largest divergence from its start weights in the last step of a fit, in nats "
        "per token, of train.objective grpo; null: no gate",
    )

    @model_validator(mode="after")
    def _lengths_leave_room(self) -> GatesConfig:
        low, high = self.min_length_ratio, self.max_length_ratio
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"min_length_ratio={low} with max_length_ratio={high} lets no length pass; "
                "expected less"
            )
        return self
