"""The noise of version 0, kept for the pushes of later versions, with what it was measured on.

It is that of one kind of engine: where a run goes on with another, nothing is known of it, and the
absolute limits hold. Knows files and config only; `verdict.py` says what noise is good for.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from virgo_ray.config import Config
from virgo_ray.files import write_atomically
from virgo_ray.weights.probe import probe_path
from virgo_ray.weights.verdict import NOISE_NAME, Noise

log = logging.getLogger(__name__)


def setup_of(cfg: Config) -> str:
    """What the numerics of engines and trainer come from, as far as the config says it."""
    parts = [f"model.dtype={cfg.model.dtype}"]
    if cfg.model.head_dtype:
        parts.append(f"model.head_dtype={cfg.model.head_dtype}")
    parts.append(f"rollout.gpus_per_worker={cfg.rollout.gpus_per_worker}")
    parts.append(f"rollout.enforce_eager={cfg.rollout.enforce_eager}")
    # Named only where they are set: runs that were begun before these keys keep their noise.
    for name, value in sorted(cfg.rollout.engine_args.items()):
        parts.append(f"rollout.engine_args.{name}={value}")
    for name in ("packing", "liger"):
        if (value := getattr(cfg.train, name)) != type(cfg.train).model_fields[name].default:
            parts.append(f"train.{name}={value}")
    return ", ".join(parts)


def save_noise(root: Path, noise: Mapping[str, Noise], setup: str) -> None:
    """Keep what was measured at version 0, with a `setup_of` these engines."""
    table = {"measured_on": setup, "noise": {kind: asdict(n) for kind, n in noise.items()}}
    write_atomically(_path(root), json.dumps(table))


def load_noise(root: Path, setup: str) -> dict[str, Noise]:
    """What `save_noise` wrote; empty where nothing was measured, and with a warning where it was
    measured on another `setup` or cannot be read."""
    if not _path(root).exists():
        return {}
    try:
        table = json.loads(_path(root).read_text())
        if table["measured_on"] != setup:
            _say_once(_path(root), f"was measured with {table['measured_on']}, not with {setup}")
            return {}
        return {k: Noise(float(n["rms"]), float(n["p99"])) for k, n in table["noise"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _say_once(_path(root), f"cannot be read ({error!r})")
        return {}


def forget_noise(root: Path) -> None:
    """For a probe of version 0 that was written anew."""
    _path(root).unlink(missing_ok=True)


def _path(root: Path) -> Path:
    return probe_path(root, 0).with_name(NOISE_NAME)


@functools.cache
def _say_once(path: Path, what: str) -> None:
    log.warning("%s %s: later pushes are judged by the absolute limits", path, what)
