"""A random Qwen2.5-VL of some 200k parameters, built on the spot, for tests of the real engines.

It is the bundled tiny model, shrunk and untrained, with that one's tokenizer and processor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import (
    AutoProcessor,
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from virgo_ray.model.files import TINY_DIRECTORY

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "layer_types": ["full_attention"] * 2,
    "num_key_value_heads": 2,  # fewer than heads of queries
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 3, 3],
    },
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "window_size": 32,  # pixels: pictures of these tests have several windows
    "fullatt_block_indexes": [1],
}


def build(path: Path, tied: bool = True, seed: int = 0) -> Path:
    """Write a complete model directory; the same seed gives the same weights."""
    fields = json.loads((TINY_DIRECTORY / "config.json").read_text())
    fields["text_config"] |= TEXT
    del fields["text_config"]["tie_word_embeddings"]  # which hub configs do not repeat
    fields["vision_config"] |= VISION
    fields["tie_word_embeddings"] = tied
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**fields))
    model.generation_config = GenerationConfig.from_pretrained(TINY_DIRECTORY)
    model.save_pretrained(path)
    AutoProcessor.from_pretrained(TINY_DIRECTORY).save_pretrained(path)
    return path


def draw_image(path: Path, text: str, size: tuple[int, int] = (56, 28)) -> str:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((3, 3), text, fill="black")
    image.save(path)
    return str(path)
