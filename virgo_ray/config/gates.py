"""When a round is refused: limits on its held-out figures. docs/gates.md says why each is there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from virgo_ray.config.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class GatesConfig(Section):
    """A figure outside its limit rejects the round; null switches that gate off."""

    on_failure: Literal["stop", "continue"] = Field(
        "stop", description="after a rejected round: end the run, or go on from the weights before"
    )
    margin: NonNegativeFloat = Field(
        2.0, description="standard errors by which a share must miss its limit: noise is forgiven"
    )
    max_pass_at_1_fall: Share | None = Field(
        0.05, description="of pass@1, below the best accepted round or the base"
    )
    max_pass_at_k_fall: Share | None = Field(
        0.05, description="of pass@k, below the best accepted round"
    )
    max_maj_at_k_fall: Share | None = Field(
        0.05, description="of maj@k, below the best accepted round or the base"
    )
    max_truncated_share: Share | None = Field(0.5, description="greedy answers cut off")
    max_repetitive_share: Share | None = Field(0.25, description="greedy answers that loop")
    max_no_answer_share: Share | None = Field(
        0.25, description="greedy answers in which none was found"
    )
    min_length_ratio: PositiveFloat | None = Field(
        0.5, description="mean thought length, of that of the first accepted round"
    )
    max_length_ratio: PositiveFloat | None = Field(2.5, description="the same, upwards")
    min_distinct_share: Share | None = Field(
        0.1, description="of the further samples of a problem, those unlike the ones before"
    )
    max_blank_image_rise: Share | None = Field(
        0.2, description="of pass@1 with blanked images, above the lowest so far"
    )
    max_perception_fall: Share | None = Field(
        0.05, description="of evaluate.perception, below the best accepted round or the base"
    )
    max_text_fall: Share | None = Field(
        0.05, description="of evaluate.text, below the best accepted round or the base"
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
