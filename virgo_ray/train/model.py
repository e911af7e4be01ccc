"""The model as it is trained: loaded, frozen in parts, adapters added, and taken apart again.

Guarantees: a pattern that matches no parameter is an error; `trainable_table` says what will move;
`full_tensors` gives every parameter under the name plain transformers knows, adapters merged, a
bucket at a time. Knows Qwen2-VL, Qwen2.5-VL, Qwen3-VL and whatever is built like them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from virgo_ray.config import LoraConfig, ModelConfig, TrainConfig
from virgo_ray.errors import TrainingError
from virgo_ray.train.sizes import GATHER_ELEMENTS
from virgo_ray.train.supported import CONNECTOR, VISION_TOWER, is_built_like_qwen
from virgo_ray.train.zero import full_size, gathered, is_first_rank, is_partitioned
from virgo_ray.weights.adapter import merge

ADAPTER = re.compile(r"\.lora_(A|B)\.")
ADAPTER_NAME = "default"  # PEFT's own


@dataclass(frozen=True)
class Part:
    """One line of the table of trainable parameters."""

    name: str
    num_trainable: int
    num_parameters: int


def load_model(path: str, cfg: ModelConfig) -> nn.Module:
    """The model of a directory, in training mode, in `cfg.dtype`.

    Raises:
        TrainingError: not a model built like Qwen-VL.
    """
    model = AutoModelForImageTextToText.from_pretrained(
        path, dtype=getattr(torch, cfg.dtype), trust_remote_code=cfg.trust_remote_code
    )
    if not is_built_like_qwen(model):
        raise TrainingError(
            f"{path} holds a {type(model).__name__}, expected a model with `model.visual` and "
            "`lm_head` such as Qwen2-VL, Qwen2.5-VL or Qwen3-VL"
        )
    restore_rotary_frequencies(model)
    return model.train()


def restore_rotary_frequencies(model: Any) -> None:
    """Make RoPE's frequencies float32 again.

    While ZeRO-3 builds a bfloat16 model, DeepSpeed casts every tensor that is made, these
    frequencies too: two tokens a thousand places apart are then rotated wrongly by up to a radian,
    and the engines, which do not round, disagree. transformers' own rule fills them in anew.
    """
    for module in model.modules():
        rounded = getattr(module, "original_inv_freq", None)
        if rounded is None or rounded.dtype == torch.float32:
            continue
        module.inv_freq = torch.empty_like(module.inv_freq, dtype=torch.float32)
        module.original_inv_freq = torch.empty_like(rounded, dtype=torch.float32)
        with torch.no_grad():
            model._init_weights(module)


def prepare(model: nn.Module, cfg: TrainConfig) -> list[Part]:
    """Freeze, add adapters, switch on gradient checkpointing; returns what will be trained.

    With adapters the language model's own weights are frozen; vision tower and connector follow
    `freeze_vision` and `freeze_connector` either way.

    Raises:
        TrainingError: a pattern that matches nothing, or nothing left to train.
    """
    if cfg.lora is not None:
        _add_adapters(model, cfg.lora)
    _freeze(model, VISION_TOWER, cfg.freeze_vision)
    _freeze(model, CONNECTOR, cfg.freeze_connector)
    if cfg.gradient_checkpointing:
        _recompute_activations(model)
    table = trainable_table(model)
    if not any(part.num_trainable for part in table):
        raise TrainingError("every parameter is frozen, expected something to train")
    return table


def trainable_table(model: nn.Module) -> list[Part]:
    """Vision tower, connector, language model and adapters, with their sizes."""
    trainable: dict[str, int] = {}
    total: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part_of(name)
        total[part] = total.get(part, 0) + full_size(parameter)
        if parameter.requires_grad:
            trainable[part] = trainable.get(part, 0) + full_size(parameter)
    return [Part(name, trainable.get(name, 0), size) for name, size in total.items()]


def format_table(table: Sequence[Part]) -> str:
    rows = [f"{p.name:<16}{p.num_trainable:>16,}{p.num_parameters:>16,}" for p in table]
    return "\n".join([f"{'part':<16}{'trainable':>16}{'parameters':>16}", *rows])


def full_tensors(model: nn.Module, keep: bool) -> Iterator[dict[str, Tensor]]:
    """Buckets of whole tensors on the CPU, named as in the model without adapters.

    All ranks iterate together; those that do not `keep` take part in the gathering only.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for bucket in _buckets(model):
        adapted = {name: layers.get(_module_of(name)) for name in bucket}
        needed = list(bucket.values())
        for layer in adapted.values():
            needed += [] if layer is None else _adapter_parameters(layer)
        with gathered(needed), torch.no_grad():
            copies = {
                name.replace(".base_layer.", "."): _merge_adapter(parameter, adapted[name])
                for name, parameter in bucket.items()
                if keep
            }
        yield copies


def trained_whole(model: nn.Module) -> frozenset[str]:
    """Names, without adapters in them, of parameters that are trained themselves."""
    return frozenset(
        name.replace(".base_layer.", ".")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not ADAPTER.search(name)
    )


def adapters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of all adapters, by name; empty without any."""
    return {name: p for name, p in model.named_parameters() if ADAPTER.search(name)}


def fold_adapters(model: nn.Module, masters: Mapping[str, Tensor]) -> None:
    """Add every adapter to the weights below it, rounded to their dtype, and make it nothing.

    What is added are the adapters' float32 values, `masters`, by parameter name. The model then
    computes what its published weights do. It cannot be trained on.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        down, up = _adapter_parameters(layer)
        a, b = (masters[f"{name}.lora_{part}.{ADAPTER_NAME}.weight"] for part in "AB")
        with gathered([base.weight, down, up], is_changing=True), torch.no_grad():
            base.weight.copy_(merge(base.weight, a, b, layer.scaling[ADAPTER_NAME]))
            up.zero_()


@contextlib.contextmanager
def unfolded_after(model: nn.Module) -> Iterator[None]:
    """Undo on leaving what `fold_adapters` does inside, to the last bit, on all ranks together.

    Meanwhile a copy of the adapted weights lies in host memory: on the first rank where they are
    partitioned, else on every rank.
    """
    changed = [p for layer in _adapted_layers(model) for p in _parameters_of(layer)]
    kept: list[Tensor] = []
    for parameter in changed:
        with gathered([parameter]):
            keeps = not is_partitioned(parameter) or is_first_rank()
            kept.append(parameter.detach().to("cpu", copy=True) if keeps else torch.empty(0))
    yield
    for parameter, value in zip(changed, kept, strict=True):
        with gathered([parameter], is_changing=True), torch.no_grad():
            if value.numel():
                parameter.copy_(value)


def _adapted_layers(model: nn.Module) -> list[LoraLayer]:
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def _parameters_of(layer: LoraLayer) -> list[nn.Parameter]:
    """What `fold_adapters` changes of a layer."""
    base: Any = layer.get_base_layer()
    return [base.weight, _adapter_parameters(layer)[1]]


def _freeze(model: nn.Module, pattern: re.Pattern[str], is_frozen: bool) -> None:
    matches = [p for name, p in model.named_parameters() if pattern.search(name)]
    if not matches:
        raise TrainingError(
            f"no parameter matches {pattern.pattern!r}; names look like "
            f"{[name for name, _ in model.named_parameters()][:3]}"
        )
    for parameter in matches:
        parameter.requires_grad_(not is_frozen)


def _recompute_activations(model: Any) -> None:
    """Non-reentrant checkpointing, which needs no input that asks for a gradient.

    transformers makes the embeddings' and the patch embedding's outputs ask for one all the same;
    then a frozen vision tower keeps its activations and is run backwards, for nothing.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.disable_input_require_grads()


def _add_adapters(model: nn.Module, cfg: LoraConfig) -> None:
    pattern = re.compile(cfg.target_modules)
    if not any(pattern.fullmatch(name) for name, _ in model.named_modules()):
        raise TrainingError(
            f"train.lora.target_modules={cfg.target_modules!r} matches no module; names look like "
            f"{[n for n, m in model.named_modules() if isinstance(m, nn.Linear)][-3:]}"
        )
    settings = PeftLoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank
        lora_dropout=cfg.dropout,
        target_modules=cfg.target_modules,
    )
    inject_adapter_in_model(settings, model, ADAPTER_NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(ADAPTER.search(name) is not None)


def _part_of(name: str) -> str:
    if ADAPTER.search(name):
        return "adapters"
    if CONNECTOR.search(name):
        return "connector"
    return "vision tower" if VISION_TOWER.search(name) else "language model"


def _buckets(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    bucket: dict[str, nn.Parameter] = {}
    size = 0
    for name, parameter in model.named_parameters():
        if ADAPTER.search(name):
            continue
        if bucket and size + full_size(parameter) > GATHER_ELEMENTS:
            yield bucket
            bucket, size = {}, 0
        bucket[name] = parameter
        size += full_size(parameter)
    yield bucket


def _module_of(name: str) -> str:
    """The adapted layer a weight belongs to; empty for biases, which adapters leave alone."""
    suffix = ".base_layer.weight"
    return name.removesuffix(suffix) if name.endswith(suffix) else ""


def _adapter_parameters(layer: LoraLayer) -> list[nn.Parameter]:
    down: Any = layer.lora_A[ADAPTER_NAME]
    up: Any = layer.lora_B[ADAPTER_NAME]
    return [down.weight, up.weight]


def _merge_adapter(parameter: nn.Parameter, layer: LoraLayer | None) -> Tensor:
    """A CPU copy of the parameter, the adapter's update added in float32."""
    if layer is None:
        return parameter.detach().to("cpu", copy=True)
    down, up = (p.float() for p in _adapter_parameters(layer))
    return merge(parameter, down, up, layer.scaling[ADAPTER_NAME]).to("cpu", copy=True)
