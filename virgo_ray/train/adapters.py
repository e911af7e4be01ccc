"""Adapters in float32, kept beside the weights that they are merged into.

Merged weights are rounded to the model's dtype, and adapters begun anew on them lose every update
that is smaller. So a published version holds its adapters too (`adapters/`), and says which weights
they belong on; the next fit of `train.restart_from: previous` goes on from both. Loaders of models
look for tensors in the directory itself only; the manifest covers every file. Knows no DeepSpeed
but for gathering.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from virgo_ray.config import Config, LoraConfig
from virgo_ray.errors import ConfigError
from virgo_ray.model.dropped import say_dropped
from virgo_ray.model.files import resolve_model
from virgo_ray.records import Weights
from virgo_ray.train.job import fingerprint_weights
from virgo_ray.train.zero import gathered
from virgo_ray.weights.contents import (
    ABOUT_ADAPTERS_NAME,
    ADAPTER_TENSORS_NAME,
    ADAPTERS_NAME,
)
from virgo_ray.weights.publish import version_dir


@dataclass(frozen=True)
class Origin:
    """The weights that adapters belong on, wherever the run directory lies."""

    version: int  # 0: model.path
    fingerprint: str
    rank: int
    alpha: float
    target_modules: str


@dataclass(frozen=True)
class Masters:
    """Adapters of an earlier fit, and the directory of the weights below them."""

    origin: Origin
    base: str
    file: Path

    def tensors(self) -> dict[str, Tensor]:
        """Float32, by parameter name."""
        return load_file(self.file)


def origin_of(start: Weights, lora: LoraConfig) -> Origin:
    """Of adapters that begin on `start`."""
    fingerprint = fingerprint_weights(Path(start.path))
    return Origin(start.version, fingerprint, lora.rank, lora.alpha, lora.target_modules)


def find_masters(cfg: Config, start: Weights, root: Path) -> tuple[Masters | None, str]:
    """The adapters that a fit from `start` goes on with, or None and why not (may be empty).

    `root` holds the published versions. Adapters that a base model brings along are not looked at.
    """
    directory, lora = Path(start.path) / ADAPTERS_NAME, cfg.train.lora
    if lora is None or start.version < 1 or not (directory / ABOUT_ADAPTERS_NAME).is_file():
        return None, ""
    origin = Origin(**json.loads((directory / ABOUT_ADAPTERS_NAME).read_text()))
    if (now := (lora.rank, lora.alpha, lora.target_modules)) != (
        origin.rank, origin.alpha, origin.target_modules,
    ):  # fmt: skip
        before = f"rank {origin.rank}, alpha {origin.alpha:g} on {origin.target_modules!r}"
        after = f"rank {now[0]}, alpha {now[1]:g} on {now[2]!r}"
        return None, _anew(start, f"they have {before}, train.lora asks for {after}")
    base = version_dir(root, origin.version)
    if origin.version == 0:
        try:
            base = Path(resolve_model(cfg.model.path, cfg.model.trust_remote_code))
        except ConfigError as error:
            return None, _anew(start, f"the weights below them are gone ({error})")
    if said := say_dropped(base):  # its manifest is there, and its fingerprint with it
        return None, _anew(start, said)
    if not base.is_dir() or fingerprint_weights(base) != origin.fingerprint:
        return None, _anew(start, f"{base} no longer holds the weights that they belong on")
    return Masters(origin, str(base), directory / ADAPTER_TENSORS_NAME), ""


def write_masters(directory: Path, tensors: Mapping[str, Tensor], origin: Origin) -> None:
    """Put adapters beside the weights in `directory`, which is a version's draft."""
    (directory / ADAPTERS_NAME).mkdir()
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, directory / ADAPTERS_NAME / ADAPTER_TENSORS_NAME)
    about = json.dumps(asdict(origin), indent=1)
    (directory / ADAPTERS_NAME / ABOUT_ADAPTERS_NAME).write_text(about)


@torch.no_grad()
def put_back(model: nn.Module, base: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set adapters, and give the weights below them the values of `base`, on all ranks together.

    What has no adapter stays: earlier fits may have trained it.
    """
    below: dict[str, Any] = dict(base.named_parameters())
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        weight: Any = module.get_base_layer().weight
        original = below[f"{name}.weight"]
        with gathered([weight, original], is_changing=True):
            weight.copy_(original)
    for name, parameter in model.named_parameters():
        if name in tensors:
            with gathered([parameter], is_changing=True):
                parameter.copy_(tensors[name])


def _anew(start: Weights, why: str) -> str:
    return (
        f"new adapters begin on the merged weights of {start.path}, rounded as they are: its own "
        f"cannot be gone on with, because {why}"
    )
