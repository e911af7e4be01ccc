"""Another model whose thoughts are learnt instead of one's own."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from virgo_ray.config.section import Section


class TeacherConfig(Section):
    """Who is asked in rounds 1 and later: a model behind an endpoint, or other weights of the same
    architecture, served by the run's own engines."""

    path: str | None = Field(
        None, description="weights like model.path's: a directory or a Hugging Face id"
    )
    url: str | None = Field(
        None, description="OpenAI-compatible endpoint, base address up to and including /v1"
    )
    model: str | None = Field(None, description="its name at the endpoint")
    key_env: str | None = Field(
        None, description="environment variable that holds the key; the key itself is never stored"
    )
    budget: PositiveInt = Field(
        100_000, description="requests per start of the run, tries included; one gives one rollout"
    )
    num_tries: PositiveInt = Field(6, description="per rollout; then the run stops, to be resumed")
    deadline_s: PositiveFloat = Field(900.0, description="per request")
    num_parallel: PositiveInt = Field(16, description="requests in flight")

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
