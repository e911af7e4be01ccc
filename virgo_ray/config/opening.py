"""The config that a run would have, for whatever looks at it: the run itself, doctor and plan.

Guarantees that all of them see the same: keys that are not set keep the values that the run in the
run directory was made with, and what a begun run may keep is no contradiction. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virgo_ray.config.contradictions import find_weaknesses, refuse_contradictions
from virgo_ray.config.loading import load_config, resolve_run_dir
from virgo_ray.config.stored import complete_from_stored, read_begun
from virgo_ray.config.whole import Config


@dataclass(frozen=True)
class Opened:
    """A config with an absolute `run_dir`; `kept` are stored values of dotted keys that were not
    set and have other defaults today."""

    cfg: Config
    kept: dict[str, Any]
    warnings: list[str]

    def remarks(self, path: str) -> list[str]:
        """Sentences about the config for whoever gave it as `path`."""
        if not self.kept:
            return self.warnings
        values = ", ".join(f"{key}={value!r}" for key, value in sorted(self.kept.items()))
        return [f"not set in {path}, so as {self.cfg.run_dir} was made: {values}", *self.warnings]


def open_config(source: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> Opened:
    """The config of a new run, or of one that goes on; `source` as for `load_config`.

    Raises:
        ConfigError: not readable, not valid, or with keys that contradict each other.
    """
    cfg = load_config(source, overrides)
    run_dir = resolve_run_dir(cfg.run_dir)
    cfg, kept = complete_from_stored(cfg.model_copy(update={"run_dir": str(run_dir)}), run_dir)
    warnings = [f"warning: {text}" for text in refuse_contradictions(cfg, read_begun(run_dir))]
    warnings += [f"note: {text}" for text in find_weaknesses(cfg)]
    return Opened(cfg, kept, warnings)
