"""How answers are judged: formats, deadlines, second opinions."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from virgo_ray.config.section import Section


class Format(NamedTuple):
    """Tags around thought and solution: plain text, not special tokens.

    Without solution tags, everything after the thought is the solution.
    """

    begin_thought: Annotated[str, Field(min_length=1)]
    end_thought: Annotated[str, Field(min_length=1)]
    begin_solution: str = ""
    end_solution: str = ""


FORMATS = (
    Format(
        "<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"
    ),
    Format("<think>", "</think>", "<answer>", "</answer>"),
)


class JudgeConfig(Section):
    """A language model that gives a second opinion, behind an OpenAI-compatible endpoint."""

    url: str = Field(description="base address up to and including /v1")
    model: str = Field(description="its name there")
    key_env: str | None = Field(
        None, description="environment variable that holds the key; the key itself is never stored"
    )
    prompt: str | None = Field(
        None, description="text file with {question}, {gold} and {answer}; null: the bundled one"
    )
    budget: PositiveInt = Field(10_000, description="requests per start of the run, tries included")
    max_tokens: PositiveInt = Field(
        8, description="of a reply; one that thinks before </think> needs more"
    )
    num_tries: PositiveInt = Field(3, description="per question; then the opinion is unknown")
    deadline_s: PositiveFloat = Field(60.0, description="per request")
    num_parallel: PositiveInt = Field(8, description="requests in flight")
    cache: str | None = Field(
        None, description="JSON lines file of replies; null: judge.jsonl in the run directory"
    )


class VerifyConfig(Section):
    num_workers: PositiveInt = Field(2, description="verifier actors, each with a killable process")
    deadline_s: PositiveFloat = Field(5.0, description="wall clock per item; later is TIMEOUT")
    memory_mib: PositiveInt = Field(
        2048, description="address space of the killable process beyond its start"
    )
    batch_size: PositiveInt = Field(16, description="rollouts sent to an actor at once")
    max_failure_share: float = Field(
        0.1, ge=0.0, le=1.0, description="TIMEOUT + ERROR above it stops the round"
    )
    require_end_tag: bool = Field(
        True, description="a long thought without its end tag is TRUNCATED"
    )
    custom: str | None = Field(
        None, description="own verifier: `package.module:function` or an http(s) address"
    )
    formats: tuple[Format, ...] = Field(
        FORMATS,
        min_length=1,
        description="[begin of thought, end of thought, begin of solution, end of solution], the "
        "last two optional; the first whose tags a response holds counts",
    )
    second_opinions: tuple[Literal["steps", "consistency", "judge"], ...] = Field(
        (), description="asked of correct rollouts; they change no verdict, see select.drop_doubted"
    )
    judge: JudgeConfig | None = Field(None, description="who gives the second opinion `judge`")

    @property
    def local_opinions(self) -> tuple[str, ...]:
        """The second opinions that read only the text; the judge is asked elsewhere."""
        return tuple(name for name in self.second_opinions if name != "judge")

    @model_validator(mode="after")
    def _judge_is_known(self) -> VerifyConfig:
        if ("judge" in self.second_opinions) != (self.judge is not None):
            raise ValueError(
                f"second_opinions={list(self.second_opinions)} with judge="
                f"{self.judge and self.judge.model!r}: expected the opinion `judge` and its "
                "section verify.judge (url, model), or neither"
            )
        return self
