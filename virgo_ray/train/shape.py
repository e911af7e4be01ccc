"""The sizes of a model by part, from its config.json alone: no weights are read or made.

transformers builds the class on PyTorch's meta device, where tensors have shapes and no content.
Guarantees the counts that a fit of these weights would have. Knows no memory, cards or phases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, LoraConfig, TrainConfig
from virgo_ray.train.supported import CONNECTOR, VISION_TOWER, require_parts
from virgo_ray.weights.layout import build_empty


@dataclass(frozen=True)
class ModelShape:
    """Elements by part; widths as config.json names them. A tied output layer counts once."""

    kind: str  # name of the class
    num_tensors: int
    language: int
    vision: int  # the tower without its connector
    connector: int
    adapters: int  # that train.lora adds; 0 without
    trained: int
    largest_trained: int  # tensor
    largest: int  # tensor of all
    layer: int  # one decoder layer
    embedding: int  # the input embedding, or 0 where it is the output layer too
    num_layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    query_width: int  # heads of queries times their width
    kv_width: int  # heads of keys times their width
    kv_head: int  # width of one
    vision_depth: int
    vision_hidden: int
    vision_intermediate: int
    vision_full_layers: int  # of the tower, in which a patch sees all of its picture
    vision_window: int  # patches of a window, in the other layers; 0 where there are none
    patch_values: int  # numbers of one patch of a picture
    token_pixels: int  # pixels of a picture that become one token
    patches_per_token: int

    @property
    def saved(self) -> int:
        """Of a published version: adapters are merged."""
        return self.language + self.vision + self.connector

    @property
    def held(self) -> int:
        """Of a rank, adapters and all."""
        return self.saved + self.adapters

    @property
    def frozen(self) -> int:
        return self.held - self.trained

    @property
    def decoder(self) -> int:
        """What every token goes through: without the input embedding."""
        return self.language - self.embedding


def read_shape(directory: str, cfg: Config) -> ModelShape:
    """Count the model of `directory`, trained as `cfg.train` says.

    Raises:
        ConfigError: transformers or the trainer cannot build it.
    """
    named = f"model.path={cfg.model.path!r}"
    model = build_empty(Path(directory), cfg.model.trust_remote_code, named)
    require_parts(model, cfg.train, named)
    return measure(model, cfg.train)


def measure(model: Any, train: TrainConfig) -> ModelShape:
    """The sizes of a model that may be empty."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    adapters = _adapters(model, train.lora) if train.lora else []
    trained = [*adapters, *(n for name, n in sizes.items() if _is_trained(name, train))]
    parts = dict.fromkeys(("language", "connector", "vision"), 0)
    for name, size in sizes.items():
        parts[_part_of(name)] += size
    layers = model.model.language_model.layers
    embedding = model.get_input_embeddings().weight
    is_tied = embedding is model.lm_head.weight
    text, vision = model.config.get_text_config(), model.config.vision_config
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    merge = int(getattr(vision, "spatial_merge_size", 2))
    patch, channels = int(vision.patch_size), int(getattr(vision, "in_channels", 3))
    return ModelShape(
        kind=type(model).__name__,
        num_tensors=len(sizes),
        **parts,
        adapters=sum(adapters),
        trained=sum(trained),
        largest_trained=max(trained, default=0),
        largest=max(sizes.values()),
        layer=sum(p.numel() for p in layers[0].parameters()),
        embedding=0 if is_tied else embedding.numel(),
        num_layers=len(layers),
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        query_width=text.num_attention_heads * head_width,
        kv_width=text.num_key_value_heads * head_width,
        kv_head=head_width,
        vision_depth=int(vision.depth),
        vision_hidden=_vision_width(vision),
        vision_intermediate=_vision_inner(vision),
        vision_full_layers=len(getattr(vision, "fullatt_block_indexes", range(vision.depth))),
        vision_window=(getattr(vision, "window_size", 0) // (patch * merge) * merge) ** 2,
        patch_values=channels * int(getattr(vision, "temporal_patch_size", 2)) * patch**2,
        token_pixels=(patch * merge) ** 2,
        patches_per_token=merge**2,
    )


def _vision_width(vision: Any) -> int:
    """Qwen2-VL calls it embed_dim; its hidden_size is that of the language model."""
    return int(getattr(vision, "embed_dim", None) or vision.hidden_size)


def _vision_inner(vision: Any) -> int:
    ratio = getattr(vision, "mlp_ratio", 4)
    return int(getattr(vision, "intermediate_size", None) or ratio * _vision_width(vision))


def _part_of(name: str) -> str:
    if CONNECTOR.search(name):
        return "connector"
    return "vision" if VISION_TOWER.search(name) else "language"


def _is_trained(name: str, train: TrainConfig) -> bool:
    """Of the model's own tensors, as `train.model.prepare` freezes them."""
    part = _part_of(name)
    if part == "vision":
        return not train.freeze_vision
    return not train.freeze_connector if part == "connector" else train.lora is None


def _adapters(model: Any, lora: LoraConfig) -> list[int]:
    """The two matrices of every adapted module, in elements."""
    pattern = re.compile(lora.target_modules)
    weights = [m.weight for name, m in model.named_modules() if pattern.fullmatch(name)]
    return [lora.rank * side for weight in weights for side in weight.shape]
