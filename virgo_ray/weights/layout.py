"""Which tensors of a checkpoint belong to its model class, found without loading any of them.

transformers builds the class on PyTorch's meta device, where tensors have shapes and no content,
and "loads" the names and shapes that the safetensors headers list: seconds at any model size.
Guarantees that every tensor of the directory is in exactly one of `Layout`'s three groups, under
the name it has there. Does not know what a trainer or an engine can do with the class.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virgo_ray.errors import ConfigError, WeightsError
from virgo_ray.weights.manifest import TensorInfo, loaded_files, tensors_of

MAX_QUOTED = 300  # characters of an error that lists every class there is
EXPECTED = (
    "expected one that transformers builds as an image-text-to-text model, such as Qwen2-VL, "
    "Qwen2.5-VL or Qwen3-VL"
)


@dataclass(frozen=True)
class Layout:
    """The tensors of a directory, by what the model class makes of them."""

    parameters: Mapping[str, tuple[int, ...]]  # what the class builds: name on disk -> shape
    found: Mapping[str, TensorInfo]  # all that the headers list
    tied: frozenset[str]  # names that another parameter stands for; they may be on disk or not
    skeleton: Any  # the model of the class, on the meta device

    @property
    def missing(self) -> list[str]:
        """Parameters that the directory lacks."""
        return sorted(self.parameters.keys() - self.found.keys())

    @property
    def reshaped(self) -> list[str]:
        """Parameters that have another shape in the directory."""
        both = self.parameters.keys() & self.found.keys()
        return sorted(name for name in both if self.parameters[name] != self.found[name].shape)

    @property
    def extra(self) -> list[str]:
        """Tensors that the class builds no parameter for: heads for multi-token prediction,
        buffers that older versions stored."""
        return sorted(self.found.keys() - self.parameters.keys() - self.tied)


def read_layout(directory: Path, trust_remote_code: bool, named: str) -> Layout:
    """Compare a directory with its model class; `named` is what messages call it.

    Raises:
        ConfigError: transformers builds no image-text-to-text model of it, or it is quantised.
        WeightsError: a safetensors file is damaged.
    """
    config = _read_config(directory)
    _require_plain_weights(config, named)
    found = tensors_of(loaded_files(directory))
    with _build_errors(config, named):
        return _layout(_skeleton(directory, found, trust_remote_code), found)


def build_empty(directory: Path, trust_remote_code: bool, named: str) -> Any:
    """The model of config.json on the meta device; there need be no weights.

    Raises:
        ConfigError: transformers builds no image-text-to-text model of it, or it is quantised.
    """
    config = _read_config(directory)
    _require_plain_weights(config, named)
    with _build_errors(config, named):
        return _empty(directory, trust_remote_code)[1]


@contextmanager
def _build_errors(config: Mapping[str, Any], named: str) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError,
        StrictDataclassError,
    ) as error:  # fmt: skip
        architecture = ", ".join(config.get("architectures") or ["without an architecture"])
        raise ConfigError(
            f"{named} is {architecture} (model_type {config.get('model_type')!r}), which "
            f"transformers cannot build ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:MAX_QUOTED]}); {EXPECTED}"
        ) from error


def _layout(skeleton: Any, found: Mapping[str, TensorInfo]) -> Layout:
    from transformers.core_model_loading import revert_weight_conversion

    tied_inside = frozenset(skeleton.all_tied_weights_keys)
    built = dict(skeleton.named_parameters(remove_duplicate=False))
    untied = {name: p for name, p in built.items() if name not in tied_inside}
    on_disk = revert_weight_conversion(skeleton, untied)
    tied = revert_weight_conversion(skeleton, built).keys() - on_disk.keys()
    parameters = {name: tuple(p.shape) for name, p in on_disk.items()}
    return Layout(parameters, found, frozenset(tied), skeleton)


def _skeleton(directory: Path, found: Mapping[str, TensorInfo], trust_remote_code: bool) -> Any:
    """The model of the directory on the meta device, "loaded" from tensors without content."""
    import torch

    config, model = _empty(directory, trust_remote_code)
    headers = {
        name: torch.empty(info.shape, dtype=torch.bfloat16, device="meta")
        for name, info in found.items()
    }
    with _silence():
        return type(model).from_pretrained(
            None,
            config=config,
            state_dict=headers,
            dtype=torch.bfloat16,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,  # they are found by comparing shapes
        )


def _empty(directory: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    """The config and the model of it, on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config: Any = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(
            config, trust_remote_code=trust_remote_code
        )
    return config, model


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); fetch the model again") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} holds no mapping; fetch the model again")
    return config


def _require_plain_weights(config: Mapping[str, Any], named: str) -> None:
    """A quantised model has other tensors than its class, and would be trained as another one."""
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown")
        raise ConfigError(
            f"{named} is quantised (quant_method {method!r}), expected plain weights: give the "
            "model that it was made from"
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Without transformers' own table of what is missing or unexpected, and its progress bar."""
    from transformers.utils import logging as their_logging

    logger = logging.getLogger("transformers.modeling_utils")
    was_disabled, has_bar = logger.disabled, their_logging.is_progress_bar_enabled()
    logger.disabled = True
    their_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.disabled = was_disabled
        if has_bar:
            their_logging.enable_progress_bar()


def require_same_ties(layout: Layout, directory: Path, named: str) -> None:
    """Refuse tied tensors that are on disk with content of their own.

    transformers would then not tie them, and vLLM would. Only the first rows are read.

    Raises:
        ConfigError: they differ.
    """
    for name in sorted(layout.tied & layout.found.keys()):
        twins = [n for n in layout.parameters if n.endswith("embed_tokens.weight")]
        rows = [_first_rows(directory, layout.found, n) for n in (name, *twins[:1])]
        if len(rows) == 2 and rows[0] != rows[1]:
            raise ConfigError(
                f"{named}: config.json says tie_word_embeddings, but {name} and {twins[0]} differ "
                "in its files; set tie_word_embeddings to false in config.json, or remove "
                f"{name}"
            )


def _first_rows(directory: Path, found: Mapping[str, TensorInfo], name: str) -> list[Any]:
    from safetensors import safe_open

    if name not in found:
        raise WeightsError(f"{directory} lacks {name}")
    with safe_open(directory / found[name].file, framework="pt") as opened:
        return opened.get_slice(name)[:4].tolist()
