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

    url: str = Field(
        description="the judge's OpenAI-compatible endpoint: base address up to and including /v1"
    )
    model: str = Field(description="the judge's name at its endpoint")
    key_env: str | None = Field(
        None,
        description="environment variable that holds the key of the judge's endpoint; the key is "
        "never stored",
    )
    prompt: str | None = Field(
        None,
        description="text file with the judge's prompt, which holds {question}, {gold} and "
        "{answer}; null: the bundled one",
    )
    budget: PositiveInt = Field(
        10_000, description="most requests to the judge per start of the run, retries included"
    )
    max_tokens: PositiveInt = Field(
        8,
        description="longest reply of the judge in tokens; one that thinks before </think> needs "
        "more",
    )
    num_tries: PositiveInt = Field(
        3, description="requests to the judge per question before its opinion is `unknown`"
    )
    deadline_s: PositiveFloat = Field(
        60.0, description="longest time for one request to the judge, in seconds"
    )
    num_parallel: PositiveInt = Field(8, description="most requests to the judge in flight")
    cache: str | None = Field(
        None,
        description="JSON lines file that keeps the judge's replies; null: judge.jsonl in the run "
        "directory",
    )


class VerifyConfig(Section):
    """How answers are judged."""

    num_workers: PositiveInt = Field(
        2, description="number of verifier actors, each with a process that can be killed"
    )
    deadline_s: PositiveFloat = Field(
        5.0,
        description="longest time to judge one answer, in seconds of CPU time (of the wall clock "
        "for `custom`); a slower one counts as TIMEOUT, one that does not compute after ten times "
        "as long",
    )
    memory_mib: PositiveInt = Field(
        2048,
        description="memory that judging may take beyond what its process has at the start, in "
        "MiB of address space",
    )
    batch_size: PositiveInt = Field(16, description="number of rollouts sent to a verifier at once")
    max_failure_share: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="share of answers that could not be judged (TIMEOUT, ERROR) above which the "
        "round stops",
    )
    require_end_tag: bool = Field(
        True, description="count a long thought without its end tag as TRUNCATED"
    )
    custom: str | None = Field(
        None,
        description="your own verifier in place of ours: `package.module:function` or an http(s) "
        "address",
    )
    formats: tuple[Format, ...] = Field(
        FORMATS,
        min_length=1,
        description="tags of known thought formats, each [begin of thought, end of thought, begin "
        "of solution, end of solution], the last two optional; the first format "
        "found in a response counts",
    )
    second_opinions: tuple[Literal["steps", "consistency", "judge"], ...] = Field(
        (),
        description="second opinions asked about correct rollouts; they change no verdict (see "
        "select.drop_doubted)",
    )
    judge: JudgeConfig | None = Field(
        None, description="the language model that gives the second opinion `judge`"
    )

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
