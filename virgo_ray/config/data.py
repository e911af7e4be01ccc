"""The model, the data it learns from, and how both are prompted."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from virgo_ray.config.importing import is_import_path
from virgo_ray.config.own import OWN_FUNCTION_SCHEMA, OwnFunction
from virgo_ray.config.section import Section

EVERY_CHANGE = "all"  # in data.accept_changes


class ModelConfig(Section):
    """The model to be taught and how its inputs are made, by trainer and sampler alike."""

    path: str = Field(
        description="the model to teach: `tiny` (bundled), a local directory, or a Hugging Face id"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="number format of the weights while sampling and training"
    )
    head_dtype: Literal["float32"] | None = Field(
        None,
        description="number format of the logits, in trainer and engines alike; float32: those of "
        "a bfloat16 model are not rounded; null: that of the weights",
    )
    max_length: PositiveInt = Field(
        description="most tokens of a prompt (with its images expanded) and its response together"
    )
    min_pixels: PositiveInt | None = Field(
        None,
        description="images with fewer pixels are enlarged to this many; null: the processor's "
        "own bound",
    )
    max_pixels: PositiveInt | None = Field(
        None,
        description="images with more pixels are shrunk to this many; null: the processor's own "
        "bound",
    )
    trust_remote_code: bool = Field(
        False, description="run the Python code that comes with the model"
    )

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> ModelConfig:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels} with max_pixels={self.max_pixels} lets no size "
                "pass; expected at most max_pixels"
            )
        return self


ReaderName = Literal[
    "tiny", "easyvqa", "jsonl", "json", "csv", "parquet", "dataset", "hub", "chat", "vlmevalkit",
    "llamafactory",
    "geometry3k", "geoqa", "unigeo", "tabmwp", "chartqa", "figureqa", "clevr", "iconqa",
    "scienceqa", "mathvista", "mathverse", "mathvision", "olympiadbench", "mmmu", "mix",
]  # fmt: skip
READERS: tuple[str, ...] = get_args(ReaderName)


def _is_reader(name: str) -> str:
    if name not in READERS and not is_import_path(name):
        expected = f"{', '.join(map(repr, READERS))} or `package.module:function`"
        raise PydanticKnownError("literal_error", {"expected": expected})
    return name


Reader = Annotated[
    str,
    AfterValidator(_is_reader),
    WithJsonSchema({"anyOf": [{"enum": list(READERS)}, OWN_FUNCTION_SCHEMA]}),
]


class PartConfig(Section):
    """Where records come from: a reader by name, and what it needs. See docs/data.md."""

    reader: Reader = Field(
        description="how the records of the source are laid out; docs/data.md lists the readers; "
        "or a function of yours that yields them, `package.module:function`"
    )
    path: str | None = Field(
        None,
        description="where the records lie: a file, a directory, or a Hugging Face id owner/name",
    )
    split: str = Field(
        "train",
        description="which split of the data set is read; rows that name another split are left "
        "out",
    )
    subset: str | tuple[str, ...] | None = Field(
        None,
        description="which Hugging Face configurations of the data set are read, such as "
        "Accounting; '*': all; for the reader llamafactory: a name in dataset_info.json; for the "
        "reader tiny: pictures, words or scenes (of its seed thoughts: puzzles or scenes)",
    )
    revision: str | None = Field(
        None, description="Hugging Face commit or tag of the data set; null: the newest"
    )
    fields: dict[str, str] = Field(
        {},
        description="names of the fields in the file, by our name: {question: query} reads "
        "`query` as question",
    )
    image_dir: str | None = Field(
        None,
        description="directory that relative image paths start from; null: what the layout says",
    )
    num: PositiveInt | None = Field(
        None, description="how many records are taken, chosen by the run's seed; null: all"
    )
    max_rows: PositiveInt | None = Field(
        None,
        description="reading stops after this many rows (a set on the hub is then streamed); "
        "null: at the end",
    )
    text_only: bool = Field(
        False,
        description="the source has no pictures on purpose; otherwise one without any is refused",
    )
    answer_index: Literal[0, 1] | None = Field(
        None,
        description="the gold answer of a choice is the place of its option, counted from 0 or 1; "
        "null: it is a letter or the option's text",
    )
    answer_text: bool = Field(
        False,
        description="gold answers that are numbers are the text of an option, not its place",
    )
    turns: Literal["one", "last", "each"] = Field(
        "one",
        description="which questions of a chat are read: its only one (others are refused), the "
        "last, or each, with the turns before as context",
    )
    style: Literal["long", "short"] = Field(
        "long",
        description="form of the tiny puzzles' seed thoughts: long thoughts, or the answer only",
    )
    extra_cells: int = Field(
        0,
        ge=0,
        le=3,
        description="cells of the tiny puzzles, with pictures or in words, beyond the 5 or 6 of "
        "the usual ones; more cells are harder",
    )


class SourceConfig(PartConfig):
    """One source, or with `reader: mix` several, each with a `num` of its own."""

    parts: tuple[PartConfig, ...] = Field(
        (), description="list of the sources that `reader: mix` mixes"
    )

    @model_validator(mode="after")
    def _has_parts_if_mixed(self) -> SourceConfig:
        if (self.reader == "mix") != bool(self.parts):
            raise ValueError(
                f"reader={self.reader!r} with {len(self.parts)} parts; expected `reader: mix` and "
                "at least one part, or another reader and no parts"
            )
        of_a_part = (
            "num", "path", "fields", "max_rows", "subset", "revision", "image_dir", "text_only",
            "answer_index", "answer_text", "turns", "extra_cells",
        )  # fmt: skip
        defaults = {key: PartConfig.model_fields[key].default for key in of_a_part}
        given = [key for key in of_a_part if self.parts and getattr(self, key) != defaults[key]]
        if given:
            raise ValueError(f"{given[0]} stands beside `parts`; expected it inside each part")
        if any(part.reader == "mix" for part in self.parts):
            raise ValueError("a part may not be a mix itself; list its parts here")
        return self


class SeedThoughtsConfig(SourceConfig):
    """Textual long thoughts: a source, and which of them to keep."""

    min_tokens: NonNegativeInt = Field(0, description="seed thoughts of fewer tokens are left out")
    max_tokens: PositiveInt | None = Field(
        None, description="seed thoughts of more tokens are left out; null: no limit"
    )
    shares: dict[str, PositiveFloat] = Field(
        {},
        description="share of `num` that each domain gets, by name; unnamed domains are left out; "
        "{}: as they come",
    )

    @model_validator(mode="after")
    def _shares_need_a_number(self) -> SeedThoughtsConfig:
        if self.shares and self.num is None:
            raise ValueError("shares need `num`: how many thoughts in all")
        return self


class DataConfig(Section):
    """The problems to learn from and to be measured on, and the seed thoughts."""

    train: SourceConfig = Field(description="problems that the model explores and learns from")
    heldout: SourceConfig = Field(
        description="problems that the model is evaluated on and never trained on"
    )
    seed_thoughts: SeedThoughtsConfig = Field(
        description="textual long thoughts that round 0 imitates"
    )
    strict: bool = Field(
        True,
        description="refuse to start if a row of the data cannot be used; false: put such rows in "
        "quarantine",
    )
    near_overlap: Literal["report", "refuse"] = Field(
        "report",
        description="what happens to training rows that look like held-out ones: they are "
        "reported, or treated as bad rows",
    )
    cache_dir: str | None = Field(
        None,
        description="where pictures that are no files yet are written, and what was found out "
        "about the data; null: `data` in the run directory",
    )
    accept_changes: tuple[str, ...] = Field(
        (),
        description="ids of records that may have changed since the run began (all: any): what was "
        "sampled about changed problems is left aside; needed for one start only",
    )

    @field_validator("accept_changes", mode="before")
    @classmethod
    def _as_ids(cls, given: Any) -> Any:
        """One id may stand alone, and ids may look like numbers."""
        ids = given if isinstance(given, list | tuple) else [given]
        return [str(id) if isinstance(id, int) and not isinstance(id, bool) else id for id in ids]


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
    """How a problem becomes a prompt."""

    template: Literal["paper", "think", "plain"] = Field(
        "paper",
        description="named prompt that sets system, instruction and thought_format where they are "
        "not given",
    )
    system: str = Field(
        TEMPLATES["paper"]["system"],
        description="the system message; empty: what the model's chat template says",
    )
    instruction: str = Field(
        TEMPLATES["paper"]["instruction"],
        description="text put between the images and the question",
    )
    thought_format: Literal["tags", "think"] = Field(
        "tags",
        description="tags that seed thoughts are written in: the paper's <|begin_of_thought|> "
        "(tags), or <think> (think)",
    )
    custom: OwnFunction | None = Field(
        None,
        description="your own function in place of instruction, question and options: "
        "`package.module:function` is given the problem and returns the text after its pictures",
    )
    choices: Literal["(A)", "A.", "A:", "inline"] = Field(
        "(A)",
        description="how the options of a multiple choice are written: one a line, or `Choices: "
        "(A) 1 (B) 2` in one line (inline)",
    )

    @model_validator(mode="before")
    @classmethod
    def _filled_from_template(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        texts = TEMPLATES.get(given.get("template", "paper"), {})
        return {**texts, **given}
