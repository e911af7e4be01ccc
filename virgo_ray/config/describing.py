"""A config in other forms: YAML, dotted keys, a fingerprint, the text of `--help`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from virgo_ray.config.whole import HARMLESS_KEYS, Config


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
    """Every key with its default, meaning and values, for `--help`.

    What stands in several places (a source of data) is described in the first.
    """
    lines: list[str] = []
    described: dict[type[BaseModel], str] = {}

    def walk(prefix: str, section: type[BaseModel], names: Iterable[str]) -> None:
        for name in names:
            field = section.model_fields[name]
            inner = _section_in(field.annotation)
            if inner is not None:
                if field.description:
                    lines.append(f"  {prefix}{name}: {field.description}")
                enter(f"{prefix}{name}", inner)
            else:
                default = "required" if field.is_required() else _shown(field.default)
                values = _values(field.annotation)
                lines.append(f"  {prefix}{name} ({default}): {field.description}{values}")

    def enter(key: str, section: type[BaseModel]) -> None:
        known = [c for c in described if issubclass(section, c) or issubclass(c, section)]
        names = list(section.model_fields)
        if known:
            names = [n for n in names if n not in known[0].model_fields]
            lines.append(f"  {key}.*: as {described[known[0]]}.*{', and' if names else ''}")
        else:
            described[section] = key
        walk(f"{key}.", section, names)

    walk("", whole, whole.model_fields)
    return "\n".join(lines).replace("%", "%%")


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section in `Section`, `Section | None`, `tuple[Section, ...]`, `dict[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _values(annotation: Any) -> str:
    """ " [even | inverse | none]" of a choice of values; empty for anything else."""
    texts = [str(value) for value in get_args(annotation) if isinstance(value, str | int)]
    return f" [{' | '.join(texts)}]" if texts else ""


def _shown(default: Any) -> str:
    """A default as it stands in a YAML file: null, false, [], paper."""
    return default if isinstance(default, str) and default else json.dumps(default)
