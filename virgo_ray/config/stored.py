"""The config that a run directory holds, read by a later version and completed by it.

Keys that were deleted since and had their default are dropped; with another value the run cannot go
on, and the key is named. Keys that were added since are set to what earlier versions did. Keys that
the user does not set keep the stored value, so a run never changes because a default did; those
that change no result are taken as they are now. `explore.extra.budget` is read as the share that it
was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from virgo_ray.config.changing import is_harmless
from virgo_ray.config.describing import flatten
from virgo_ray.config.explore import budget_as_share
from virgo_ray.config.loading import parse_config
from virgo_ray.config.whole import Config
from virgo_ray.errors import ConfigError

STORED_NAME = "config.yaml"
LEDGER_NAME = "ledger.json"  # there as soon as a run has begun
# Dotted key: the default that it had when it was deleted.
REMOVED_KEYS: dict[str, Any] = {}
# Dotted key that changed what runs do when it was added: the value with which nothing changes.
ADDED_KEYS: dict[str, Any] = {"train.seed_floor": 0.0, "select.max_luck": 1.0}


def read_stored(run_dir: Path) -> Config:
    """The config that a run was made with, as this version understands it.

    Raises:
        ConfigError: not readable, or with a key that this version cannot honour.
    """
    return parse_config(_read_migrated(run_dir / STORED_NAME), str(run_dir / STORED_NAME))


def read_begun(run_dir: Path) -> dict[str, Any]:
    """Dotted keys and values of the run that has begun in a directory; empty where none has, or
    where its config cannot be read."""
    if not (run_dir / LEDGER_NAME).exists():
        return {}
    try:
        return flatten(read_stored(run_dir))
    except ConfigError:
        return {}


def complete_from_stored(cfg: Config, run_dir: Path) -> tuple[Config, dict[str, Any]]:
    """`cfg` with the stored value of every key that its user did not set and that matters.

    Keys that may change between two starts are left as they are. Where there is no run yet, or the
    two cannot be put together, so is the whole config: the ledger then says what changed.

    Returns:
        The config, and {dotted key: stored value} of the keys whose value this changed.
    """
    if not (run_dir / LEDGER_NAME).exists():  # a start that died at once, or no run's directory
        return cfg, {}
    try:
        raw = _overlay(_read_migrated(run_dir / STORED_NAME), cfg)
        completed = parse_config(raw, str(run_dir / STORED_NAME))
    except ConfigError:
        return cfg, {}
    before, after = flatten(cfg), flatten(completed)
    return completed, {key: value for key, value in after.items() if before.get(key) != value}


def _read_migrated(path: Path) -> dict[str, Any]:
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}; restore it from a copy, or choose another run_dir"
        ) from error
    if not isinstance(stored, dict):
        raise ConfigError(f"{path} holds {type(stored).__name__}, expected a mapping of sections")
    for key, default in REMOVED_KEYS.items():
        _drop(stored, key, default, path)
    for key, value in ADDED_KEYS.items():
        _add(stored, key, value)
    _share_budget(stored)
    return stored


def _share_budget(stored: dict[str, Any]) -> None:
    """Put `explore.extra.budget_share` in the place of its predecessor, a number of rollouts."""
    explore = stored.get("explore")
    extra = explore.get("extra") if isinstance(explore, dict) else None
    if not isinstance(explore, dict) or not isinstance(extra, dict):
        return
    budget, num_problems = extra.get("budget"), explore.get("num_problems")
    if isinstance(budget, int) and isinstance(num_problems, int):
        del extra["budget"]
        extra["budget_share"] = budget_as_share(budget, num_problems)


def _drop(stored: dict[str, Any], key: str, default: Any, path: Path) -> None:
    """Delete a removed key that has its old default."""
    *sections, name = key.split(".")
    place: Any = stored
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    if not isinstance(place, dict) or name not in place:
        return
    value = place.pop(name)
    if value != default:
        raise ConfigError(
            f"{path} sets {key}={value!r}, which this version no longer has (it behaves as with "
            f"{default!r}); go on with the version that made the run, or choose another run_dir"
        )


def _add(stored: dict[str, Any], key: str, value: Any) -> None:
    """Set a key that the version which stored the config did not have."""
    *sections, name = key.split(".")
    place: Any = stored
    for section in sections:
        place = place.setdefault(section, {}) if isinstance(place, dict) else None
    if isinstance(place, dict):
        place.setdefault(name, value)


def _overlay(stored: dict[str, Any], section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """The stored values under those of `section` that were set, or that may change at any start."""
    merged = dict(stored)
    dumped = section.model_dump(mode="json")
    for name in type(section).model_fields:
        key, value, below = f"{prefix}{name}", getattr(section, name), merged.get(name)
        # Gates decide on rounds: a default that changed must not judge an old one differently.
        may_differ = is_harmless(key) and not key.startswith("gates")
        is_ours = name in section.model_fields_set or may_differ
        if isinstance(value, BaseModel) and (is_ours or isinstance(below, dict)):
            merged[name] = _overlay(below if isinstance(below, dict) else {}, value, f"{key}.")
        elif is_ours:
            merged[name] = dumped[name]
    return merged
