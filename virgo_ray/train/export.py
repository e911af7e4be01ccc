"""Turns what is in memory into a directory that plain transformers and vLLM load.

Guarantees: the published tensors have exactly the names and shapes of the directory the fit started
from, and those that the model class does not build are carried over bit for bit; tokenizer and chat
template are its files, unchanged. How pictures are sized and how responses are sampled is what the
run does, and the model card is the run's own. Called on rank 0 with whole tensors; knows no ranks
and no DeepSpeed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import GenerationConfig

from virgo_ray.config import Config
from virgo_ray.errors import TrainingError
from virgo_ray.model.files import resolve_model
from virgo_ray.records import FitReport
from virgo_ray.train.fit_record import FIT_NAME
from virgo_ray.weights.card import CARD_NAME, model_card
from virgo_ray.weights.carry import carry_over
from virgo_ray.weights.contents import DESCRIPTION_SUFFIXES
from virgo_ray.weights.layout import Layout, read_layout
from virgo_ray.weights.manifest import DONE_NAME, INDEX_NAME, MANIFEST_NAME, tensor_table
from virgo_ray.weights.probe import PROBE_NAME
from virgo_ray.weights.settings import generation_settings, write_pixel_bounds

# Made anew for every version; the base's own card would speak of another model.
OWN_FILES = (DONE_NAME, MANIFEST_NAME, PROBE_NAME, FIT_NAME, INDEX_NAME, CARD_NAME)


def write_model(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    start: Path,
    directory: Path,
    cfg: Config,
    end_id: int,
) -> Layout:
    """A complete Hugging Face checkpoint: safetensors, config, tokenizer and processor files.

    `end_id` is the token that trained responses end with. Returns the layout of `start`.

    Raises:
        TrainingError: names or shapes differ from those of `start`.
    """
    own = {name.lower() for name in OWN_FILES}
    for file in sorted(start.iterdir()):
        if file.suffix in DESCRIPTION_SUFFIXES and file.name.lower() not in own and file.is_file():
            shutil.copyfile(file, directory / file.name)
    layout = read_layout(start, cfg.model.trust_remote_code, str(start))
    target: Any = model
    # Names on disk are those of `start`: what ZeRO-3 left there renames more than it should.
    target._weight_conversions = layout.skeleton._weight_conversions
    target.generation_config = GenerationConfig(
        **generation_settings(target.generation_config, cfg.explore.sampling, end_id)
    )
    target.save_pretrained(directory, state_dict=dict(tensors))
    carry_over(start, directory, layout.extra)
    _compare(layout, start, directory)
    write_pixel_bounds(directory, cfg.model)
    return layout


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
