"""A config in other forms: YAML, dotted keys, a fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import yaml

from virgo_ray.config.changing import is_harmless
from virgo_ray.config.whole import Config

IN_ADDRESS = re.compile(r"(://)[^/?#\s]+@")


def dump_config(cfg: Config) -> str:
    """The resolved config as YAML; loading it again gives an equal config. Holds no secrets
    but those that somebody put into an address."""
    return yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False)


def redact(value: Any) -> Any:
    """The same value, without users and passwords in addresses: for what others may see.

    >>> redact({"url": "https://me:secret@host/v1", "n": [1]})
    {'url': 'https://***@host/v1', 'n': [1]}
    """
    if isinstance(value, str):
        return IN_ADDRESS.sub(r"\1***@", value)
    if isinstance(value, dict):
        return {key: redact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    return value


def published(cfg: Config) -> dict[str, Any]:
    """The resolved config for what others may see: a report, W&B."""
    shown: dict[str, Any] = redact(cfg.model_dump(mode="json"))
    return shown


def dump_published(cfg: Config) -> str:
    """`published` as YAML."""
    return yaml.safe_dump(published(cfg), sort_keys=False)


def flatten(cfg: Config) -> dict[str, Any]:
    """`{"train.lr": 7e-6, "data.train.parts.0.path": ...}`: dotted keys of every leaf."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            walk(prefix, {str(place): item for place, item in enumerate(value)})
        else:
            flat[prefix] = value

    walk("", cfg.model_dump(mode="json"))
    return flat


def fingerprint(cfg: Config) -> str:
    """Hash of every key that matters to the result."""
    relevant = {k: v for k, v in flatten(cfg).items() if not is_harmless(k)}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]
