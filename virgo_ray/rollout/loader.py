"""How an engine passes over the tensors of a checkpoint that the model class does not build.

vLLM refuses to start on a tensor it has no place for, such as a head for multi-token prediction,
where transformers only warns. Which tensors these are is found as the trainer finds it; all others
must find their place in the engine, as always. Registered in each of vLLM's processes by importing
this module.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from virgo_ray.errors import ConfigError
from virgo_ray.weights.layout import read_layout
from virgo_ray.weights.manifest import loaded_files, tensors_of

LOAD_FORMAT = "virgo_ray"
PASSED_OVER = "passed_over"


def loader_args(directory: str, trust_remote_code: bool) -> dict[str, Any]:
    """vLLM's arguments for a model; none where its own loader does."""
    try:
        extra = read_layout(Path(directory), trust_remote_code, directory).extra
    except ConfigError:  # quantised, or unknown to transformers: vLLM's own business
        return {}
    if not extra:
        return {}
    return {"load_format": LOAD_FORMAT, "model_loader_extra_config": {PASSED_OVER: extra}}


def passed_over(load: LoadConfig) -> frozenset[str]:
    """The names that `loader_args` gave to an engine."""
    extra = load.model_loader_extra_config
    names = extra.get(PASSED_OVER, ()) if isinstance(extra, dict) else ()
    return frozenset(names)


def without_place(directory: Path, base: Path, trust_remote_code: bool) -> frozenset[str]:
    """Names in `directory` that neither the engine's base has nor the model class builds.

    A teacher may hold such tensors where the base has none. The class is built, which takes
    seconds, only where names differ: never for what the run itself publishes.
    """
    added = tensors_of(loaded_files(directory)).keys() - tensors_of(loaded_files(base)).keys()
    if not added:
        return frozenset()
    try:
        extra = read_layout(directory, trust_remote_code, str(directory)).extra
    except ConfigError:  # as above
        return frozenset()
    return frozenset(added.intersection(extra))


@register_model_loader(LOAD_FORMAT)
class PassingOverLoader(DefaultModelLoader):
    """vLLM's loader, without some names."""

    def __init__(self, load_config: LoadConfig) -> None:
        self._passed_over = passed_over(load_config)
        super().__init__(replace(load_config, load_format="auto", model_loader_extra_config={}))

    def get_all_weights(
        self, model_config: ModelConfig, model: nn.Module
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        for name, tensor in super().get_all_weights(model_config, model):
            if name not in self._passed_over:
                yield name, tensor
