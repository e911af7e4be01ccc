"""Whether the trainer can train a model, found before anything is started or loaded.

Reads config.json and the headers of the safetensors files. Guarantees that a base that passes has
every parameter of its class in the right shape, the parts that freezing and adapters look for, and
names under which the trained tensors can be saved again. Knows no DeepSpeed and no PEFT, so that it
is cheap to import.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, TrainConfig
from virgo_ray.errors import ConfigError
from virgo_ray.weights.layout import Layout, read_layout, require_same_ties

CONNECTOR = re.compile(r"(^|\.)visual\.(merger|deepstack_merger_list)\.")
VISION_TOWER = re.compile(r"(^|\.)visual\.(?!merger\.|deepstack_merger_list\.)")
NUM_NAMED = 8  # tensors that a message lists


def check_base(cfg: Config, directory: str) -> list[str]:
    """Refuse a base that cannot be trained; returns what the user should know of one that can.

    Raises:
        ConfigError: its class is unknown or built otherwise, it is quantised, tensors are missing
            or have another shape, or nothing matches train.lora.target_modules.
        WeightsError: a safetensors file is damaged.
    """
    named, path = f"model.path={cfg.model.path!r}", Path(directory)
    layout = read_layout(path, cfg.model.trust_remote_code, named)
    require_parts(layout.skeleton, cfg.train, named)
    _require_whole(layout, named)
    require_same_ties(layout, path, named)
    if not layout.extra:
        return []
    return [
        f"{named}: {type(layout.skeleton).__name__} does not build {len(layout.extra)} of its "
        f"tensors, so they are not trained; every checkpoint carries them unchanged: "
        f"{list_names(layout.extra)}"
    ]


def is_built_like_qwen(model: Any) -> bool:
    """Whether the trainer finds the vision tower and the output layer."""
    return hasattr(model, "lm_head") and hasattr(getattr(model, "model", None), "visual")


def list_names(names: list[str]) -> str:
    """The first of them, and how many more there are.

    >>> list_names(["a", "b"]), list_names([str(i) for i in range(10)])
    ('a, b', '0, 1, 2, 3, 4, 5, 6, 7 and 2 more')
    """
    rest = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def require_parts(model: Any, train: TrainConfig, named: str) -> None:
    """Refuse a model without the parts that freezing and adapters look for.

    Raises:
        ConfigError: it is built otherwise, or train.lora.target_modules matches nothing, or the
            output layer.
    """
    kind = type(model).__name__
    shapes = {name: p.shape for name, p in model.named_parameters()}
    has_parts = all(any(p.search(n) for n in shapes) for p in (CONNECTOR, VISION_TOWER))
    if not is_built_like_qwen(model) or not has_parts:
        raise ConfigError(
            f"{named} is a {kind} (model_type {model.config.model_type!r}), which the trainer "
            "cannot train; expected a model with `model.visual`, its merger and `lm_head`, such "
            "as Qwen2-VL, Qwen2.5-VL or Qwen3-VL"
        )
    pattern = train.lora and re.compile(train.lora.target_modules)
    if pattern and not any(pattern.fullmatch(name) for name, _ in model.named_modules()):
        linear = [name.removesuffix(".weight") for name, s in shapes.items() if len(s) == 2]
        raise ConfigError(
            f"train.lora.target_modules={pattern.pattern!r} matches no module of {kind}; names "
            f"look like {linear[-3:]}"
        )
    if pattern and pattern.fullmatch("lm_head"):
        raise ConfigError(
            f"train.lora.target_modules={pattern.pattern!r} matches the output layer lm_head, "
            "which the trainer applies a few targets at a time; expected modules of the decoder "
            "alone, as the default has"
        )


def _require_whole(layout: Layout, named: str) -> None:
    kind = type(layout.skeleton).__name__
    if layout.missing:
        raise ConfigError(
            f"{named}: {len(layout.missing)} tensors of {kind} are missing in its files: "
            f"{list_names(layout.missing)}; expected all of them under the names that "
            "transformers loads: fetch or save the model again"
        )
    if layout.reshaped:
        shapes = [
            f"{name} has {list(layout.found[name].shape)}, expected {list(layout.parameters[name])}"
            for name in layout.reshaped
        ]
        raise ConfigError(
            f"{named}: {len(shapes)} tensors have another shape than config.json makes of {kind}: "
            f"{list_names(shapes)}; expected weights and config.json of one model"
        )
