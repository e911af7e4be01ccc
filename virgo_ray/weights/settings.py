"""What a published checkpoint says about its own use: picture sizes and how it is sampled.

Guarantees that plain transformers and vLLM, which know nothing of a run, make as many tokens of a
picture as the run did, and sample as it did by default. The run itself gives its bounds to trainer
and engines explicitly, and does not read these files back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from virgo_ray.config import ModelConfig, SamplingConfig
from virgo_ray.files import write_atomically

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
OWN_SECTION = "image_processor"  # of processor_config.json, as transformers 5 writes it
# config key: (edge of `size`, as transformers 5 knows it; name that older versions read)
BOUNDS = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}


def write_pixel_bounds(directory: Path, model: ModelConfig) -> None:
    """Set the run's bounds wherever the image processor's settings stand; others are untouched."""
    bounds = {key: getattr(model, key) for key in BOUNDS if getattr(model, key) is not None}
    for name in PROCESSOR_FILES if bounds else ():
        path = directory / name
        if not path.is_file():
            continue
        settings = json.loads(path.read_text(encoding="utf-8"))
        is_nested = name == PROCESSOR_FILES[1]
        own = settings.get(OWN_SECTION) if is_nested else settings
        if own is None:
            continue
        _set_bounds(own, bounds)
        write_atomically(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _set_bounds(settings: dict[str, Any], bounds: dict[str, int]) -> None:
    """Under all names: a loader that knows one of them must not find the base's value.

    >>> settings = {"size": {"shortest_edge": 4, "longest_edge": 9}}
    >>> _set_bounds(settings, {"max_pixels": 6})
    >>> settings
    {'size': {'shortest_edge': 4, 'longest_edge': 6}, 'max_pixels': 6}
    """
    settings |= bounds
    size = settings.get("size")
    if isinstance(size, dict):
        named = {key if key in size else BOUNDS[key]: value for key, value in bounds.items()}
        settings["size"] = {**size, **named}


def generation_settings(base: Any, sampling: SamplingConfig, end_id: int) -> dict[str, Any]:
    """Arguments of transformers' GenerationConfig: how the run samples, and the base's token ids.

    `base` is the base's own GenerationConfig. Its end ids stay; the one that trained responses end
    with is among them.
    """
    known = base.eos_token_id
    ends = [known] if isinstance(known, int) else list(known or [])
    settings: dict[str, Any] = {
        "bos_token_id": base.bos_token_id,
        "pad_token_id": base.pad_token_id,
        "eos_token_id": ends if end_id in ends else [end_id, *ends],
        "max_new_tokens": sampling.max_tokens,
        "repetition_penalty": sampling.repetition_penalty,
        "do_sample": sampling.temperature > 0,
    }
    if sampling.temperature > 0:
        settings |= {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,  # 0: all; left out, transformers would take 50
        }
    return settings
