"""From a YAML file and `key=value` overrides to a validated config.

Whatever is wrong is a ConfigError that names the key, the value, what was expected and the nearest
valid key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from virgo_ray.config.including import (
    Part,
    combine,
    find_part,
    make_parts,
    merge,
    merged,
    read_parts,
    spell_out,
)
from virgo_ray.config.misread import refuse_misread
from virgo_ray.config.places import resolve_place
from virgo_ray.config.section import Section
from virgo_ray.config.whole import Config
from virgo_ray.errors import ConfigError

S = TypeVar("S", bound=Section)

# What other projects call keys and readers, and what they are called here.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "epochs": ("num_epochs",),
    "num_train_epochs": ("num_epochs",),
    "output_dir": ("run_dir",),
    "train_batch_size": ("batch_size",),
    "per_device_train_batch_size": ("micro_batch_tokens",),
    "max_new_tokens": ("max_tokens",),
    "max_completion_length": ("max_tokens",),
    "max_seq_length": ("max_length",),
    "cutoff_len": ("max_length",),
    "model_name_or_path": ("path",),
    "num_generations": ("num_samples",),
    "n": ("num_samples", "k"),
    "tensor_parallel_size": ("gpus_per_worker",),
    "deepspeed_stage": ("zero_stage",),
    "lora_rank": ("rank",),
    "r": ("rank",),
    "lora_alpha": ("alpha",),
    "num_samples": ("num",),
    "max_samples": ("num",),
    "data_files": ("path",),
    "file": ("path",),
    "image_folder": ("image_dir",),
    "columns": ("fields",),
    "sharegpt": ("chat",),
    "llava": ("chat",),
    "openai": ("chat",),
    "messages": ("chat",),
    "llama_factory": ("llamafactory",),
    "alpaca": ("chat",),
    "jsonlines": ("jsonl",),
    "tsv": ("vlmevalkit",),
    "huggingface": ("hub",),
    "hf": ("hub",),
    "arrow": ("dataset",),
}


def load_config(
    source: str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Read, override and validate a config, with what it includes (see `including.py`): a file, the
    name of a shipped config, or what a file would hold.

    Example: ``load_config("configs/tiny.yaml", ["seed=1", "train.lr=3e-4"])``. Sections, and keys
    directly in them, that the file leaves out come from `defaults`.

    Raises:
        ConfigError: file missing, YAML malformed, includes in a circle, key unknown, value
            impossible.
    """
    path = "the config" if isinstance(source, Mapping) else str(source)
    parts = make_parts(source, path) if isinstance(source, Mapping) else read_parts(path)
    filled = _fill(merged(parts), defaults) if defaults else merged(parts)
    said = _parse_overrides(overrides)
    raw = _override(filled, said, path)
    return _validate(Config, raw, path, [*parts, Part("the command line", said)])


def _fill(loaded: DictConfig, defaults: Mapping[str, Any]) -> DictConfig:
    """What was loaded, completed two levels deep: a source or a sampling is taken whole."""
    for name, section in defaults.items():
        if name not in loaded:
            loaded[name] = section
        elif isinstance(section, Mapping) and isinstance(loaded[name], DictConfig):
            loaded[name] = {**section, **loaded[name]}
    return loaded


def make_config(raw: Mapping[str, Any], overrides: Sequence[str], origin: str) -> Config:
    """A config of plain values and `key=value` overrides, without a file.

    Raises:
        ConfigError: as `load_config`.
    """
    loaded = OmegaConf.create(dict(raw))
    return parse_config(_override(loaded, _parse_overrides(overrides), origin), origin)


def _override(loaded: Any, overrides: DictConfig, origin: str) -> dict[str, Any]:
    """A plain mapping of what was loaded, with overrides applied."""
    try:
        raw = OmegaConf.to_container(merge(loaded, overrides), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{origin} cannot be read as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{origin} holds {type(raw).__name__}, expected a mapping of sections")
    return {str(k): v for k, v in raw.items()}


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """`key=value` texts as a nested mapping; the later of two has the last word."""
    said: Any = OmegaConf.create({})
    overrides = ["=".join(map(str.strip, override.split("=", 1))) for override in overrides]
    for override in overrides:
        if "=" not in override or override.startswith(("-", "=")):
            raise ConfigError(
                f"override {override!r} is not of the form key=value, for example seed=1"
            )
        try:
            one = OmegaConf.from_dotlist([override])
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"override {override!r} cannot be read as YAML: {error}") from error
        key, _, value = override.partition("=")
        refuse_misread(value, f"override {key}")
        spell_out(one, said)  # a name may come after keys of its section
        said = combine(said, one)
    assert isinstance(said, DictConfig)
    return said


def resolve_run_dir(run_dir: str) -> Path:
    """Absolute path of a run directory.

    A relative one is taken from VIRGO_RAY_HOME if that is set. Inside a Ray job the working
    directory is a throw-away copy, so there it is taken from `~/virgo_ray`; elsewhere from the
    working directory. On a cluster it must be on a file system that every node sees.

    Raises:
        ConfigError: it is a URL, begins with `~name` and there is no such user, or names a variable
            of the environment that is not set.
    """
    if "://" in run_dir or run_dir.startswith("file:"):
        raise ConfigError(
            f"run_dir={run_dir!r} is a URL; expected a directory that every node sees: mount the "
            "bucket, or keep the traces alone there with `store.path`"
        )
    return resolve_place(run_dir, "run_dir")


def parse_config(raw: dict[str, Any], origin: str = "config") -> Config:
    """Validate a plain mapping; every problem found is listed in one ConfigError."""
    return _validate(Config, raw, origin)


def parse_section(section: type[S], overrides: Sequence[str], origin: str) -> S:
    """A section alone, from its defaults and `key=value` overrides.

    Example: ``parse_section(VerifyConfig, ["deadline_s=2", "judge.model=m"], "the command line")``.
    """
    return _validate(section, _override({}, _parse_overrides(overrides), origin), origin)


def _validate(section: type[S], raw: dict[str, Any], origin: str, parts: Sequence[Part] = ()) -> S:
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(e, section) + _place(e, origin, parts) for e in error.errors()]
        raise ConfigError(f"{origin} is not a valid config:\n  " + "\n  ".join(lines)) from error


def _place(error: Any, origin: str, parts: Sequence[Part]) -> str:
    """Which file said it, where that is not the one that was asked for. What is wrong with several
    keys together may come from several files."""
    file = "" if _is_of_several_keys(error) else find_part(parts, error["loc"])
    return f" (in {file})" if file not in ("", origin) else ""


def _explain(error: Any, section: type[Section]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        valid = _valid_keys(error["loc"][:-1], section)
        name = str(error["loc"][-1])
        near = [n for n in SYNONYMS.get(name, ()) if n in valid]
        near = near or difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"valid keys here: {', '.join(sorted(valid))}"
        )
        return f"{key}={error['input']!r}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: missing; this key has no default and must be set"
    message = _expected(error)
    is_text = isinstance(error["input"], str)
    if error["type"] == "literal_error" and is_text and error["input"] in SYNONYMS:
        message += f"; did you mean {SYNONYMS[error['input']][0]!r}?"
    if _is_of_several_keys(error):
        return f"{key}: {message}" if key else message
    return f"{key}={error['input']!r}: {message}"


def _is_of_several_keys(error: Any) -> bool:
    return error["type"] == "value_error" and isinstance(error["input"], dict)


def _expected(error: Any) -> str:
    """Pydantic's message, in the words of a YAML file."""
    if error["type"] in ("model_type", "dict_type"):
        return "expected a section: keys and values"
    if error["type"] == "tuple_type":
        return "expected a list, such as [a, b]"
    if error["type"] == "string_type":
        return "expected a text; put quotes around one that looks like a number"
    text = error["msg"].removeprefix("Value error, ")
    return text.replace("Input should be", "expected", 1)


def _valid_keys(loc: tuple[Any, ...], section: Any) -> list[str]:
    for part in loc:
        if part not in section.model_fields:  # a place in a list, a name in a mapping of sections
            continue
        field = section.model_fields[part].annotation
        nested = [
            a for a in (field, *get_args(field)) if isinstance(a, type) and issubclass(a, BaseModel)
        ]
        section = nested[0]
    return list(section.model_fields)
