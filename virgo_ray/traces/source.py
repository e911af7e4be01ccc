"""From what a user calls a run to its stored rollouts and its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from virgo_ray.config import Config, StoreConfig, read_stored
from virgo_ray.errors import ConfigError
from virgo_ray.store.dataset import StoreLocation, locate_store
from virgo_ray.store.reader import TraceReader


@dataclass(frozen=True)
class Run:
    """A run directory, or the bare address of a replay buffer (then without config)."""

    name: str
    place: StoreLocation
    directory: Path | None = None
    cfg: Config | None = None

    def reader(self) -> TraceReader:
        """What it stored, as it is now; the run may go on meanwhile."""
        return TraceReader.open(self.place)

    def needed_config(self, purpose: str) -> Config:
        """Raises ConfigError where there is no config."""
        if self.cfg is None:
            raise ConfigError(
                f"{self.name} has no config.yaml, which {purpose} needs; name the run directory"
            )
        return self.cfg


def find_run(name: str, storage_options: Mapping[str, str] | None = None) -> Run:
    """`runs/tiny`, or the address of a store such as `s3://bucket/tiny.lance`, which is opened with
    these options; a run directory knows its own.

    Raises:
        ConfigError: no such directory, or its config cannot be read.
    """
    if "://" in name or name.rstrip("/").endswith(".lance"):
        return Run(name, StoreLocation(name.rstrip("/"), storage_options or {}))
    directory = Path(name).expanduser()
    if not directory.is_dir():
        raise ConfigError(f"{name!r} is no directory; expected the run_dir of a run")
    path = directory / "config.yaml"
    cfg = read_stored(directory) if path.is_file() else None
    store = cfg.store if cfg else StoreConfig()
    return Run(name, locate_store(directory, store), directory, cfg)
