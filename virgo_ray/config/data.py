"""The model, the data it learns from, and how both are prompted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from virgo_ray.config.section import Section


class ModelConfig(Section):
    """The model to be taught and how its inputs are made, by trainer and sampler alike."""

    path: str = Field(description="`tiny` (bundled), a local directory, or a Hugging Face id")
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="of weights while sampling and training"
    )
    max_length: PositiveInt = Field(description="tokens of prompt (images expanded) plus response")
    min_pixels: PositiveInt | None = Field(
        None, description="image resize bound; null: the processor's own"
    )
    max_pixels: PositiveInt | None = Field(
        None, description="image resize bound; null: the processor's own"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> ModelConfig:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels} with max_pixels={self.max_pixels} lets no size "
                "pass; expected at most max_pixels"
            )
        return self


ReaderName = Literal[
    "tiny", "easyvqa", "jsonl", "json", "parquet", "dataset", "hub", "chat", "vlmevalkit",
    "geometry3k", "geoqa", "unigeo", "tabmwp", "chartqa", "figureqa", "clevr", "iconqa",
    "scienceqa", "mathvista", "mathverse", "mathvision", "olympiadbench", "mmmu", "mix",
]  # fmt: skip


class PartConfig(Section):
    """Where records come from: a reader by name, and what it needs. See docs/data.md."""

    reader: ReaderName = Field(description="how records are laid out; docs/data.md lists them")
    path: str | None = Field(None, description="file, directory, or Hugging Face id owner/name")
    split: str = Field("train", description="which split; rows that name another are left out")
    subset: str | tuple[str, ...] | None = Field(
        None,
        description="Hugging Face configuration(s) of a data set, such as Accounting; '*': all; of "
        "tiny: pictures, words or scenes (of its seed thoughts: puzzles or scenes)",
    )
    revision: str | None = Field(None, description="Hugging Face commit or tag; null: the newest")
    fields: dict[str, str] = Field(
        {}, description="canonical name -> name in the file, such as {question: query}"
    )
    image_dir: str | None = Field(
        None, description="where relative image paths start; null: what the layout says"
    )
    num: PositiveInt | None = Field(
        None, description="records to take, chosen by the run's seed; null: all"
    )
    max_rows: PositiveInt | None = Field(
        None, description="read no further than this many rows (a hub set is then streamed)"
    )
    style: Literal["long", "short"] = Field(
        "long", description="seed thoughts of the tiny puzzles: long or answer only"
    )


class SourceConfig(PartConfig):
    """One source, or with `reader: mix` several, each with a `num` of its own."""

    parts: tuple[PartConfig, ...] = Field((), description="of `reader: mix`: the sources mixed")

    @model_validator(mode="after")
    def _has_parts_if_mixed(self) -> SourceConfig:
        if (self.reader == "mix") != bool(self.parts):
            raise ValueError(
                f"reader={self.reader!r} with {len(self.parts)} parts; expected `reader: mix` and "
                "at least one part, or another reader and no parts"
            )
        of_a_part = ("num", "path", "fields", "max_rows", "subset", "revision", "image_dir")
        given = [key for key in of_a_part if self.parts and getattr(self, key)]
        if given:
            raise ValueError(f"{given[0]} stands beside `parts`; expected it inside each part")
        if any(part.reader == "mix" for part in self.parts):
            raise ValueError("a part may not be a mix itself; list its parts here")
        return self


class SeedThoughtsConfig(SourceConfig):
    """Textual long thoughts: a source, and which of them to keep."""

    min_tokens: NonNegativeInt = Field(0, description="shorter thoughts are left out, in tokens")
    max_tokens: PositiveInt | None = Field(None, description="longer thoughts are left out")
    shares: dict[str, PositiveFloat] = Field(
        {},
        description="domain -> share of `num`; domains not named are left out; empty: as they are",
    )

    @model_validator(mode="after")
    def _shares_need_a_number(self) -> SeedThoughtsConfig:
        if self.shares and self.num is None:
            raise ValueError("shares need `num`: how many thoughts in all")
        return self


class DataConfig(Section):
    train: SourceConfig = Field(description="problems to explore")
    heldout: SourceConfig = Field(description="problems to evaluate on, never trained on")
    seed_thoughts: SeedThoughtsConfig = Field(description="textual long thoughts")
    strict: bool = Field(
        True, description="refuse to start if a row cannot be used; false: put it in quarantine"
    )
    near_overlap: Literal["report", "refuse"] = Field(
        "report",
        description="training rows that look like held-out ones: name them, or treat as bad",
    )
    cache_dir: str | None = Field(
        None, description="where pictures that are no files yet are written; null: run_dir/data"
    )


# Texts that a prompt template stands for; a key that the config sets itself wins.
TEMPLATES: dict[str, dict[str, str]] = {
    "paper": {
        "system": "You are a helpful assistant.",
        "instruction": "Please first think deeply about the question, and then put the final "
        "answer in \\boxed{}.",
        "thought_format": "tags",
    },
    "think": {
        "system": "You are a helpful assistant. First think about the question inside "
        "<think> </think> tags, then give the answer.",
        "instruction": "Put the final answer in \\boxed{}.",
        "thought_format": "think",
    },
    "plain": {"system": "", "instruction": "", "thought_format": "tags"},
}


class PromptConfig(Section):
    template: Literal["paper", "think", "plain"] = Field(
        "paper", description="gives the three keys below where they are not set"
    )
    system: str = Field(
        TEMPLATES["paper"]["system"],
        description="system message; empty: what the model's chat template says",
    )
    instruction: str = Field(
        TEMPLATES["paper"]["instruction"],
        description="put between the images and the question",
    )
    thought_format: Literal["tags", "think"] = Field(
        "tags",
        description="of seed thoughts: tags (<|begin_of_thought|>, the paper's) or think (<think>)",
    )
    choices: Literal["(A)", "A.", "A:", "inline"] = Field(
        "(A)", description="how options are written: one a line, or inline: Choices: (A) 1 (B) 2"
    )

    @model_validator(mode="before")
    @classmethod
    def _filled_from_template(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        texts = TEMPLATES.get(given.get("template", "paper"), {})
        return {**texts, **given}
