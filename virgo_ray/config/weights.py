"""Which versions of the weights a run writes and keeps."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from virgo_ray.config.section import Section


class WeightsConfig(Section):
    """Which published versions keep their tensors. The last accepted one, and what the run still
    needs, always do."""

    keep_last: PositiveInt | None = Field(
        None,
        description="number of newest rounds whose weights are kept; those of older rounds are "
        "deleted, except the last accepted and the best; null: all are kept",
    )
    keep_every: PositiveInt | None = Field(
        None,
        description="with weights.keep_last: the weights of rounds 0, k, 2k, ... are also kept; "
        "null: none of them",
    )

    publish_every: PositiveInt = Field(
        1,
        description="weights of rounds 0, k, 2k, ... and of the last are written to disk; those "
        "between stay in the trainer's memory, and a run that goes on later trains them again",
    )

    @model_validator(mode="after")
    def _keeps_what_is_written(self) -> WeightsConfig:
        if self.keep_every is not None and self.keep_every % self.publish_every:
            raise ValueError(
                f"keep_every={self.keep_every} would keep rounds that "
                f"publish_every={self.publish_every} does not write; expected a multiple of it"
            )
        return self

    @model_validator(mode="after")
    def _has_something_to_except(self) -> WeightsConfig:
        if self.keep_every is not None and self.keep_last is None:
            raise ValueError(
                f"keep_every={self.keep_every} excepts rounds from keep_last, which is null; set "
                "keep_last too, or leave both out: then all weights are kept"
            )
        return self
