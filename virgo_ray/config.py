"""One YAML file, one frozen schema. Every default stands here and nowhere else.

A component's constructor takes its own section. Unknown keys, wrong types and impossible values
raise ConfigError naming the key, the value, what was expected and the nearest valid key.
Nothing is written to a config after it was loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from virgo_ray.errors import ConfigError

Share = Field(ge=0.0, le=1.0)
# A storage option whose name holds one of these is a credential.
SECRET_WORDS = (
    "secret", "token", "password", "access_key", "account_key", "api_key", "credential",
    "service_account", "sas_",
)  # fmt: skip


class Section(BaseModel):
    """A frozen part of the config in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Section)


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
        description="Hugging Face configuration(s) of a data set, such as Accounting; '*': all",
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


class SamplingConfig(Section):
    """How one request is sampled. Stored with every rollout."""

    temperature: NonNegativeFloat = Field(1.0, description="0: greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus")
    top_k: int = Field(0, ge=0, description="0: off")
    repetition_penalty: PositiveFloat = Field(1.0, description="1: off")
    max_tokens: PositiveInt = Field(description="longest response; longer ones are TRUNCATED")


class ExploreConfig(Section):
    num_problems: PositiveInt = Field(description="problems asked per round")
    num_samples: PositiveInt = Field(description="rollouts per problem")
    sampling: SamplingConfig = Field(description="of the rollouts")
    screen: bool = Field(
        False, description="round 0: ask the base greedily, later drop what it solved (faithful)"
    )
    prefer_unsolved: bool = Field(
        True, description="choose problems with a low or unknown solve rate first"
    )


class RolloutConfig(Section):
    num_workers: PositiveInt = Field(2, description="vLLM engines")
    gpus_per_worker: NonNegativeInt = Field(
        0, description="GPUs (tensor parallel) per engine; 0: CPU"
    )
    gpu_memory_utilization: float = Field(
        0.85, gt=0.0, le=1.0, description="share of GPU memory for the engine"
    )
    kv_cache_gib: PositiveFloat = Field(0.5, description="KV cache per engine on CPU, GiB")
    max_in_flight: PositiveInt = Field(64, description="requests in flight per worker")
    enforce_eager: bool = Field(False, description="no compilation: slower, quicker to start")
    start_deadline_s: PositiveFloat = Field(600, description="engine start and warm-up")
    stall_deadline_s: PositiveFloat = Field(
        300, description="longest time without a finished rollout"
    )
    max_restarts: NonNegativeInt = Field(
        3, description="restarts of one worker before it is retired"
    )
    min_workers: PositiveInt = Field(1, description="fewer live workers stop the run")


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


class StoreConfig(Section):
    """Where the replay buffer lies. Nothing secret may stand here: config.yaml keeps it."""

    path: str | None = Field(
        None, description="a directory or s3://, gs:// address; null: `buffer.lance` in run_dir"
    )
    storage_options: dict[str, str] = Field(
        {}, description="Lance's, such as {region: eu-west-1}; credentials: environment only"
    )

    @field_validator("storage_options", mode="before")
    @classmethod
    def _is_public(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        secret = [key for key in options if any(word in str(key).lower() for word in SECRET_WORDS)]
        if secret:
            raise ValueError(
                f"{secret[0]} is a credential; leave it out and set it in the environment "
                "(such as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or "
                "GOOGLE_APPLICATION_CREDENTIALS)"
            )
        words = {True: "true", False: "false"}
        return {
            str(k): words[v] if isinstance(v, bool) else str(v) if isinstance(v, int) else v
            for k, v in options.items()
        }


class SelectConfig(Section):
    policy: Literal["improved", "faithful"] = Field(
        "improved", description="see virgo_ray/selection.py"
    )
    min_correct: PositiveInt = Field(2, description="improved: at least this many of n correct")
    min_pass_rate: float = Field(
        0.8, ge=0.0, le=1.0, description="faithful: keep problems at or above it (4 of 5)"
    )
    max_per_problem: PositiveInt = Field(
        2, description="improved: distinct traces kept per problem"
    )
    length_band: tuple[float, float] = Field(
        (0.1, 0.9), description="improved: quantiles of thought length kept"
    )
    max_reflections: PositiveInt = Field(25, description="improved: reflection markers per thought")
    last_rounds: PositiveInt | None = Field(
        None, description="draw from this many latest rounds; null: all"
    )
    max_traces: PositiveInt | None = Field(
        None, description="at most this many per round, balanced over bins"
    )
    drop_doubted: bool = Field(
        True, description="leave out traces that a second opinion doubts (verify.second_opinions)"
    )


class LoraConfig(Section):
    rank: PositiveInt = Field(16, description="of the adapters")
    alpha: PositiveFloat = Field(32, description="scale is alpha / rank")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="on adapter inputs")
    target_modules: str = Field(
        r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        description="regular expression; must match",
    )


class TrainConfig(Section):
    num_workers: PositiveInt = Field(2, description="DeepSpeed ranks")
    gpus_per_worker: NonNegativeInt = Field(0, description="1 on GPU machines; 0: CPU and gloo")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    lr: PositiveFloat = Field(7e-6, description="peak learning rate (AdamW)")
    warmup_ratio: float = Field(
        0.1, ge=0.0, lt=1.0, description="share of steps; then cosine to zero"
    )
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW")
    max_grad_norm: PositiveFloat = Field(1.0, description="gradient clipping")
    batch_size: PositiveInt = Field(128, description="examples per optimizer step, over all ranks")
    micro_batch_tokens: PositiveInt = Field(
        8192, description="padded tokens per rank and micro-step"
    )
    num_epochs: PositiveFloat = Field(
        1.0, description="passes over the examples; ignored if num_tokens is set"
    )
    num_tokens: PositiveInt | None = Field(
        None, description="train on this many tokens per fit instead (prompt, images, response)"
    )
    restart_from: Literal["base", "previous"] = Field("base", description="where each round starts")
    freeze_vision: bool = Field(True, description="vision tower")
    freeze_connector: bool = Field(False, description="the projection from vision to language")
    lora: LoraConfig | None = Field(None, description="adapters instead of full fine-tuning")
    gradient_checkpointing: bool = Field(False, description="trade compute for memory")
    checkpoint_every_s: PositiveFloat = Field(60, description="in-round checkpoint interval")
    seed_share: float = Field(
        0.5, ge=0.0, le=1.0, description="most of a mixed round that seed thoughts may be"
    )
    max_restarts: NonNegativeInt = Field(
        2, description="rebuilds of the group after a rank died, per fit"
    )
    step_deadline_s: PositiveFloat = Field(600, description="longest time without a finished step")


class PushConfig(Section):
    transport: Literal["disk"] = Field("disk", description="how weights reach the engines")
    deadline_s: PositiveFloat = Field(600, description="for all workers together")
    max_logprob_diff: PositiveFloat = Field(
        1e-3, description="parity probe limit, nats; about 0.3 in bfloat16"
    )


class EvaluateConfig(Section):
    k: PositiveInt = Field(4, description="samples per problem for pass@k and maj@k")
    sampling: SamplingConfig = Field(
        description="of the k samples; pass@1 is greedy with the same limits"
    )
    blank_image: bool = Field(True, description="also with every image blanked")
    permute_options: NonNegativeInt = Field(
        0, description="ask choices again under this many orders of their options; 0: not"
    )


class PlacementConfig(Section):
    mode: Literal["colocated", "disaggregated"] = Field(
        "colocated", description="engines sleep while training, or not"
    )
    deadline_s: PositiveFloat = Field(300, description="for the placement group")
    cpus_per_worker: NonNegativeFloat = Field(0.1, description="Ray CPUs claimed by each actor")


class WandbConfig(Section):
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online if a key is set"
    )
    project: str = Field("virgo_ray", description="W&B project")
    entity: str | None = Field(None, description="W&B team")


class RayConfig(Section):
    address: str | None = Field(
        None, description="null: RAY_ADDRESS if set, else start a local cluster"
    )
    dashboard_port: PositiveInt | None = Field(
        None, description="of a local cluster; null: 8265, or the next free one"
    )


class Config(Section):
    """The whole set-up of a run."""

    name: str = Field(description="shown in W&B and on the console")
    seed: int = Field(0, ge=0, description="of data, sampling and training")
    run_dir: str = Field(description="where the run lives; the same directory resumes")
    rounds: NonNegativeInt = Field(2, description="self-distillation rounds after round 0")
    model: ModelConfig
    data: DataConfig
    prompt: PromptConfig = PromptConfig()
    explore: ExploreConfig
    rollout: RolloutConfig = RolloutConfig()
    verify: VerifyConfig = VerifyConfig()
    store: StoreConfig = StoreConfig()
    select: SelectConfig = SelectConfig()
    train: TrainConfig = TrainConfig()
    push: PushConfig = PushConfig()
    evaluate: EvaluateConfig
    placement: PlacementConfig = PlacementConfig()
    wandb: WandbConfig = WandbConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _is_possible(self) -> Config:
        for where, sampling in (
            ("explore", self.explore.sampling),
            ("evaluate", self.evaluate.sampling),
        ):
            if sampling.max_tokens >= self.model.max_length:
                raise ValueError(
                    f"{where}.sampling.max_tokens={sampling.max_tokens} leaves no room "
                    f"for a prompt in model.max_length={self.model.max_length}; expected less"
                )
        if self.rollout.min_workers > self.rollout.num_workers:
            raise ValueError(
                f"rollout.min_workers={self.rollout.min_workers} can never be met with "
                f"rollout.num_workers={self.rollout.num_workers}"
            )
        if self.train.batch_size % self.train.num_workers:
            raise ValueError(
                f"train.batch_size={self.train.batch_size} must be a multiple of "
                f"train.num_workers={self.train.num_workers}"
            )
        return self


# Changing one of these on an existing run directory changes no result, only how or where it is
# computed (`rounds` only says how far to go).
HARMLESS_KEYS = (
    "run_dir", "name", "rounds", "wandb", "ray", "placement", "push", "rollout",
    "store", "data.cache_dir", "verify.num_workers", "verify.batch_size", "verify.judge.url",
    "verify.judge.key_env", "verify.judge.budget", "verify.judge.num_tries",
    "verify.judge.deadline_s", "verify.judge.num_parallel", "verify.judge.cache",
    "train.num_workers", "train.checkpoint_every_s", "train.max_restarts",
    "train.step_deadline_s", "train.gpus_per_worker", "train.micro_batch_tokens",
)  # fmt: skip


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read, override and validate a config.

    Example: ``load_config("configs/tiny.yaml", ["seed=1", "train.lr=3e-4"])``.

    Raises:
        ConfigError: file missing, YAML malformed, key unknown, value impossible.
    """
    if not Path(path).is_file():
        known = [str(p) for p in Path("configs").glob("**/*.yaml")]
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"config file {path!r} does not exist; "
            f"expected a YAML file such as configs/tiny.yaml{hint}"
        )
    try:
        loaded = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    return parse_config(_overridden(loaded, overrides, path), path)


def _overridden(loaded: Any, overrides: Sequence[str], origin: str) -> dict[str, Any]:
    """A plain mapping of what was loaded, with `key=value` overrides applied."""
    bad = [o for o in overrides if "=" not in o or o.startswith("-")]
    if bad:
        raise ConfigError(f"override {bad[0]!r} is not of the form key=value, for example seed=1")
    try:
        merged = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
        raw = OmegaConf.to_container(merged, resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{origin} cannot be read as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{origin} holds {type(raw).__name__}, expected a mapping of sections")
    return {str(k): v for k, v in raw.items()}


def resolve_run_dir(run_dir: str) -> Path:
    """Absolute path of a run directory.

    A relative one is taken from VIRGO_RAY_HOME if that is set. Inside a Ray job the working
    directory is a throw-away copy, so there it is taken from `~/virgo_ray`; elsewhere from the
    working directory. On a cluster it must be on a file system that every node sees.
    """
    path = Path(run_dir).expanduser()
    if path.is_absolute():
        return path
    home = os.environ.get("VIRGO_RAY_HOME")
    if home:
        return (Path(home) / path).resolve()
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return (Path.home() / "virgo_ray" / path).resolve()
    return path.resolve()


def parse_config(raw: dict[str, Any], origin: str = "config") -> Config:
    """Validate a plain mapping; every problem found is listed in one ConfigError."""
    return _validated(Config, raw, origin)


def parse_section(section: type[S], overrides: Sequence[str], origin: str) -> S:
    """A section alone, from its defaults and `key=value` overrides.

    Example: ``parse_section(VerifyConfig, ["deadline_s=2", "judge.model=m"], "the command line")``.
    """
    return _validated(section, _overridden({}, overrides, origin), origin)


def _validated(section: type[S], raw: dict[str, Any], origin: str) -> S:
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(e, section) for e in error.errors()]
        raise ConfigError(f"{origin} is not a valid config:\n  " + "\n  ".join(lines)) from error


def _explain(error: Any, section: type[Section]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        valid = _valid_keys(error["loc"][:-1], section)
        near = difflib.get_close_matches(str(error["loc"][-1]), valid, n=1, cutoff=0.5)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"valid keys here: {', '.join(sorted(valid))}"
        )
        return f"{key}={error['input']!r}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: missing; this key has no default and must be set"
    is_whole = error["type"] == "value_error" and isinstance(error["input"], dict)
    shown = "" if is_whole else f"={error['input']!r}"
    return f"{key}{shown}: {error['msg']}"


def _valid_keys(loc: tuple[Any, ...], section: Any) -> list[str]:
    for part in loc:
        if isinstance(part, int):  # a place in a list of sections
            continue
        field = section.model_fields[part].annotation
        nested = [
            a for a in (field, *get_args(field)) if isinstance(a, type) and issubclass(a, BaseModel)
        ]
        section = nested[0]
    return list(section.model_fields)


def dump_config(cfg: Config) -> str:
    """The resolved config as YAML; loading it again gives an equal config. Holds no secrets."""
    return yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False)


def flatten(cfg: Config) -> dict[str, Any]:
    """`{"train.lr": 7e-6, ...}`: dotted keys of every leaf."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", cfg.model_dump(mode="json"))
    return flat


def is_harmless(key: str) -> bool:
    """Whether a dotted key may change between two starts of one run."""
    return any(key == h or key.startswith(h + ".") for h in HARMLESS_KEYS)


def fingerprint(cfg: Config) -> str:
    """Hash of every key that matters to the result."""
    relevant = {k: v for k, v in flatten(cfg).items() if not is_harmless(k)}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


def describe_keys(whole: type[BaseModel] = Config) -> str:
    """Every key with its type, default and meaning, for `--help`."""
    lines: list[str] = []

    def walk(prefix: str, section: type[BaseModel]) -> None:
        for name, field in section.model_fields.items():
            nested = [
                a
                for a in (field.annotation, *get_args(field.annotation))
                if isinstance(a, type) and issubclass(a, BaseModel)
            ]
            if nested:
                walk(f"{prefix}{name}.", nested[0])
            else:
                default = "required" if field.is_required() else repr(field.default)
                lines.append(f"  {prefix}{name} ({default}): {field.description}")

    walk("", whole)
    return "\n".join(lines).replace("%", "%%")
