"""A model's own processor (tokenizer, chat template, image processor), or a refusal that says why.

Reads what lies beside the weights, never the weights themselves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virgo_ray.config import ModelConfig
from virgo_ray.errors import ConfigError

IMAGE_KEYS = ("image_token_id", "image_token_index")
EXPECTED = (
    "expected a vision-language model with tokenizer, chat template and preprocessor_config.json"
)


def load_processor(model: ModelConfig, directory: str) -> Any:
    """The processor of transformers that lies in `directory`.

    Raises:
        ConfigError: there is none, or it is not that of a vision-language model.
    """
    from transformers import AutoProcessor

    named = f"model.path={model.path!r}"
    try:
        processor = AutoProcessor.from_pretrained(
            directory, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(
            f"{named}: its processor cannot be loaded ({type(error).__name__}: {error}); {EXPECTED}"
        ) from error
    image_ids = ids_in_config(directory, IMAGE_KEYS)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not hasattr(processor, "image_processor") or not image_ids:
        raise ConfigError(f"{named} takes no images; {EXPECTED}")
    if max(image_ids) >= len(tokenizer):
        raise ConfigError(f"{named}: its tokenizer lacks the image token; {EXPECTED}")
    return processor


def check_length(model: ModelConfig, directory: str) -> None:
    """Refuse a length that the engines would refuse when they start.

    Raises:
        ConfigError: `model.max_length` is beyond the positions that the model knows.
    """
    config = _config(directory)
    text = {**config, **(config.get("text_config") or {})}
    positions = text.get("max_position_embeddings")
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    # YaRN and its like, or a rule per kind of layer: vLLM computes how far
    is_stretched = "factor" in rope or any(isinstance(value, dict) for value in rope.values())
    if isinstance(positions, int) and not is_stretched and model.max_length > positions:
        raise ConfigError(
            f"model.max_length={model.max_length}: {model.path!r} knows {positions} positions; "
            "expected at most so many: lower it, and max_tokens where a sampling section needs it"
        )


def ids_in_config(directory: str, keys: Sequence[str]) -> frozenset[int]:
    """The token ids that config.json names by these keys."""
    config = _config(directory)
    return frozenset(config[key] for key in keys if isinstance(config.get(key), int))


def _config(directory: str) -> dict[str, Any]:
    return json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
