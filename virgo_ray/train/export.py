"""Turns what is in memory into a directory that plain transformers and vLLM load.

Guarantees: the published tensors have exactly the names and shapes of the directory the fit started
from, and those that the model class does not build are carried over bit for bit; tokenizer and chat
template are its files, unchanged. How pictures are sized and how responses are sampled is what the
run does, and the model card is the run's own. Called on rank 0 with whole tensors; knows no ranks
and no DeepSpeed.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from virgo_ray.config import Config
from virgo_ray.errors import TrainingError
from virgo_ray.model.files import resolve_model
from virgo_ray.records import FitReport
from virgo_ray.weights.card import CARD_NAME, model_card
from virgo_ray.weights.carry import carry_over, read_carried
from virgo_ray.weights.contents import DESCRIPTION_SUFFIXES, FIT_NAME
from virgo_ray.weights.layout import Layout, read_layout
from virgo_ray.weights.manifest import DONE_NAME, INDEX_NAME, MANIFEST_NAME, tensor_table
from virgo_ray.weights.probe import PROBE_NAME
from virgo_ray.weights.settings import generation_settings, write_pixel_bounds

# Made anew for every version; the base's own card would speak of another model.
OWN_FILES = (DONE_NAME, MANIFEST_NAME, PROBE_NAME, FIT_NAME, INDEX_NAME, CARD_NAME)


@dataclass(frozen=True)
class Description:
    """What a trained model says of itself, kept when its weights are freed."""

    config: Any
    generation_config: Any
    dtype: torch.dtype


@dataclass(frozen=True)
class Checkpoint:
    """Whole tensors on the CPU under the names that they have on disk.

    `trained` are those that the model class builds, `carried` the others of the weights that the
    fit started from.
    """

    layout: Layout
    trained: Mapping[str, Tensor]
    carried: Mapping[str, Tensor]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {**self.trained, **self.carried}


def describe(model: nn.Module) -> Description:
    """Copies: the model may be freed."""
    target: Any = model
    settings = copy.deepcopy(target.config), copy.deepcopy(target.generation_config)
    return Description(*settings, target.dtype)


def make_checkpoint(tensors: Mapping[str, Tensor], start: Path, cfg: Config) -> Checkpoint:
    """Tensors by the model's own names become those of a directory like `start`.

    Names on disk are those of `start`: what ZeRO-3 leaves on a loaded model renames more than it
    should.
    """
    from transformers.core_model_loading import revert_weight_conversion

    layout = read_layout(start, cfg.model.trust_remote_code, str(start))
    trained = revert_weight_conversion(layout.skeleton, dict(tensors))
    return Checkpoint(layout, trained, read_carried(start, layout.extra))


def write_model(
    about: Description,
    checkpoint: Checkpoint,
    start: Path,
    directory: Path,
    cfg: Config,
    end_id: int,
) -> None:
    """A complete Hugging Face checkpoint: safetensors, config, tokenizer and processor files.

    `end_id` is the token that trained responses end with.

    Raises:
        TrainingError: names or shapes differ from those of `start`.
    """
    own = {name.lower() for name in OWN_FILES}
    for file in sorted(start.iterdir()):
        if file.suffix in DESCRIPTION_SUFFIXES and file.name.lower() not in own and file.is_file():
            shutil.copyfile(file, directory / file.name)
    # A model without weights, which only says its class.
    target: Any = checkpoint.layout.skeleton.to(about.dtype)
    target.config = about.config
    target.generation_config = GenerationConfig(
        **generation_settings(about.generation_config, cfg.explore.sampling, end_id)
    )
    trained = dict(checkpoint.trained)
    target.save_pretrained(directory, state_dict=trained, save_original_format=False)
    carry_over(checkpoint.carried, directory)
    _compare(checkpoint.layout, start, directory)
    write_pixel_bounds(directory, cfg.model)


def write_card(directory: Path, cfg: Config, report: FitReport, layout: Layout) -> None:
    """The model card, README.md."""
    base = resolve_model(cfg.model.path, cfg.model.trust_remote_code)
    card = model_card(cfg, Path(base), report, type(layout.skeleton).__name__, layout.extra)
    (directory / CARD_NAME).write_text(card, encoding="utf-8")


def _compare(layout: Layout, start: Path, directory: Path) -> None:
    carried = {name: layout.found[name].shape for name in layout.extra}
    expected = {**layout.parameters, **carried}
    found = {name: info.shape for name, info in tensor_table(directory).items()}
    added = sorted(found.keys() - expected.keys())
    missing = sorted(expected.keys() - found.keys())
    reshaped = sorted(n for n in expected.keys() & found.keys() if expected[n] != found[n])
    if added or missing or reshaped:
        raise TrainingError(
            f"the trained model cannot be saved like {start}: tensors added {added[:3]}, "
            f"missing {missing[:3]}, of another shape {reshaped[:3]}; expected none of these"
        )
