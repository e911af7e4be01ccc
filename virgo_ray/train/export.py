"""Turns what is in memory into a directory that plain transformers and vLLM load.

Guarantees: the published tensors have exactly the names and shapes of the directory the fit started
from; tokenizer, processor and chat template are its files, unchanged. Called on rank 0 with whole
tensors; knows no ranks and no DeepSpeed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from virgo_ray.errors import TrainingError
from virgo_ray.train.fit_record import FIT_NAME
from virgo_ray.weights.manifest import DONE_NAME, MANIFEST_NAME, tensor_table
from virgo_ray.weights.probe import PROBE_NAME

OWN_FILES = (DONE_NAME, MANIFEST_NAME, PROBE_NAME, FIT_NAME)
CARRIED_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".py", ".tiktoken", ".md")


def write_model(
    model: nn.Module, tensors: Mapping[str, Tensor], start: Path, directory: Path
) -> None:
    """A complete Hugging Face checkpoint: safetensors, config, tokenizer and processor files.

    Raises:
        TrainingError: names or shapes differ from those of `start`.
    """
    for file in sorted(start.iterdir()):
        if file.suffix in CARRIED_SUFFIXES and file.name not in OWN_FILES and file.is_file():
            shutil.copyfile(file, directory / file.name)
    (directory / "model.safetensors.index.json").unlink(missing_ok=True)
    save: Any = model.save_pretrained
    save(directory, state_dict=dict(tensors))
    _compare(start, directory, _tied_names(model))


def _compare(start: Path, directory: Path, tied: tuple[str, ...]) -> None:
    expected, found = tensor_table(start), tensor_table(directory)
    added = sorted(found.keys() - expected.keys())
    missing = sorted(n for n in expected.keys() - found.keys() if not n.endswith(tied))
    reshaped = sorted(
        n for n in expected.keys() & found.keys() if expected[n].shape != found[n].shape
    )
    if added or missing or reshaped:
        raise TrainingError(
            f"the trained model cannot be saved like {start}: tensors added {added[:3]}, "
            f"missing {missing[:3]}, of another shape {reshaped[:3]}; expected none of these"
        )


def _tied_names(model: nn.Module) -> tuple[str, ...]:
    """Last parts of names that may be left out because another tensor stands for them.

    The config of the whole model says so; that of its text half need not have the key.
    """
    config: Any = model.config
    return ("lm_head.weight",) if config.tie_word_embeddings else ()
