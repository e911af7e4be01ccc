"""Another model whose thoughts are learnt instead of one's own."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from virgo_ray.config.section import Section


class TeacherConfig(Section):
    """Who is asked in rounds 1 and later: a model behind an endpoint, or other weights of the same
    architecture, served by the run's own engines."""

    path: str | None = Field(
        None,
        description="the teacher's weights, of the same architecture as model.path: a directory "
        "or a Hugging Face id",
    )
    url: str | None = Field(
        None,
        description="the teacher's OpenAI-compatible endpoint: base address up to and including "
        "/v1",
    )
    model: str | None = Field(None, description="the teacher's name at its endpoint")
    key_env: str | None = Field(
        None,
        description="environment variable that holds the key of the teacher's endpoint; the key "
        "is never stored",
    )
    budget: PositiveInt = Field(
        100_000,
        description="most requests to the teacher per start of the run, retries included; one "
        "request gives one rollout",
    )
    num_tries: PositiveInt = Field(
        6,
        description="requests to the teacher per rollout before the run stops, to be resumed later",
    )
    deadline_s: PositiveFloat = Field(
        900.0, description="longest time for one request to the teacher, in seconds"
    )
    num_parallel: PositiveInt = Field(16, description="most requests to the teacher in flight")

    @model_validator(mode="after")
    def _is_one_model(self) -> TeacherConfig:
        is_remote = self.url is not None and self.model is not None and self.path is None
        is_local = self.path is not None and self.url is None and self.model is None
        if not (is_remote or is_local):
            raise ValueError(
                f"path={self.path!r}, url={self.url!r}, model={self.model!r}: expected `path` "
                "(weights that the run's own engines load) or `url` and `model` (an endpoint)"
            )
        return self

    @property
    def name(self) -> str:
        """What is stored with every rollout it wrote."""
        return str(self.model or self.path)
