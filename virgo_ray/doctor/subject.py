"""What is examined: this machine, and with a config also its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virgo_ray.actors.cluster import address_of
from virgo_ray.config import Config, PartConfig, RayConfig, resolve_run_dir
from virgo_ray.data.files import names_hub
from virgo_ray.data.sources import CONTAINERS
from virgo_ray.doctor.host import installed
from virgo_ray.model.files import may_be_on_hub


@dataclass
class Subject:
    """`cfg` is None where only the machine is examined; `dashboard` is the cluster's address."""

    cfg: Config | None = None
    is_hub_silent: bool = False  # as far as it was asked
    dashboard: str = "none"

    @property
    def uses_gpus(self) -> bool:
        """As the config says; where it leaves that open, as the installed engines do."""
        if self.cfg is None:
            return False
        counts: Sequence[int | None] = (
            self.cfg.rollout.gpus_per_worker, self.cfg.train.gpus_per_worker,
        )  # fmt: skip
        return any(counts) or (None in counts and installed("vllm") is not None)

    @property
    def started_here(self) -> bool:
        """Whether a run would start its own cluster on this machine."""
        return address_of(self.ray) == "local"

    @property
    def ray(self) -> RayConfig:
        return self.cfg.ray if self.cfg is not None else RayConfig()

    @property
    def run_dir(self) -> Path:
        """Where a run would write; the working directory without a config."""
        return resolve_run_dir(self.cfg.run_dir) if self.cfg is not None else Path.cwd()

    def sources(self) -> dict[str, PartConfig]:
        """Every part of the data of the config, by its key."""
        cfg = self.cfg
        if cfg is None:
            return {}
        named = {
            "data.train": cfg.data.train,
            "data.heldout": cfg.data.heldout,
            "data.seed_thoughts": cfg.data.seed_thoughts,
            "evaluate.perception": cfg.evaluate.perception,
            "evaluate.text": cfg.evaluate.text,
            **{f"benchmarks.{name}": source for name, source in cfg.benchmarks.items()},
        }
        found: dict[str, PartConfig] = {}
        for key, source in named.items():
            if source is None:
                continue
            for i, part in enumerate(source.parts):
                found[f"{key}.parts.{i}"] = part
            if not source.parts:
                found[key] = source
        return found

    def hub_names(self) -> list[str]:
        """The keys of the config whose files come from the Hugging Face hub."""
        if self.cfg is None:
            return []
        names = [key for key, part in self.sources().items() if is_on_hub(part)]
        models = {"model.path": self.cfg.model.path}
        if self.cfg.teacher is not None and self.cfg.teacher.path is not None:
            models["teacher.path"] = self.cfg.teacher.path
        return [key for key, path in models.items() if is_hub_id(path)] + names


def is_on_hub(part: PartConfig) -> bool:
    """Whether the rows come from the hub; readers of one kind of file never ask it."""
    if part.reader == "hub":
        return not Path(part.path or "").expanduser().is_dir()
    is_local = part.path is None or Path(part.path).expanduser().exists()
    return part.reader not in CONTAINERS and not is_local and names_hub(part)


def is_hub_id(path: str) -> bool:
    return may_be_on_hub(path) and not Path(path).is_dir()
