"""Rows `attention/...`: the same attention by several paths, in time and memory.

`decoder`: the heads of one decoder layer over eight examples, forward and backward. Padded, they go
through a mask, as with `train.packing: false`; `one_row` is one example as long as all of them,
which keeps the flash kernel; `varlen` are the packed rows of the trainer. `vision`: a whole vision
tower, forward, its windows looped over in Python, or as in the trainer in one call for each layer.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)

from train_checks import card
from train_checks.kit import Emit, Kit, model_config
from virgo_ray.train import attention as segments

NUM_EXAMPLES = 8
LARGEST_ERROR = 0.02  # |x - y| / |y| of two right paths through one layer in bfloat16
LARGEST_EXCESS = 1.25  # times the error of the looped path through the whole tower


def run(kit: Kit, rows: Sequence[str], emit: Emit) -> None:
    for row in rows:
        _, part, path = row.split("/")
        (_decoder if part == "decoder" else _vision)(kit, row, path, emit)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """`|found - expected| / |expected|` in float32; infinite where anything is not finite."""
    difference = (found.float() - expected.float()).norm() / expected.float().norm()
    return difference.item() if difference.isfinite() else float("inf")


def _report(emit: Emit, row: str, figures: dict[str, Any], error: float) -> None:
    said = ""
    if error > LARGEST_ERROR:
        said = f"is {error:.3g} away from the path it is held against, expected {LARGEST_ERROR}"
    emit(row, {**figures, "relative_error": error}, error=said)


def _decoder(kit: Kit, row: str, path: str, emit: Emit) -> None:
    text = kit.scale.shapes[kit.scale.full].text
    lengths = _lengths(kit.scale.attention_tokens)
    if path == "one_row":
        lengths = [sum(lengths)]
    case = Decoder(lengths, text, kit.device)
    work = case.padded if path == "padded" else case.one_row if path == "one_row" else case.packed
    cost = card.measured(lambda: _backward(case, work))
    with torch.no_grad():
        error = relative_error(work(), case.expected())
    figures = asdict(cost) | {"examples": len(lengths), "tokens": sum(lengths)}
    _report(emit, row, figures, error)


def _backward(case: Decoder, work: Callable[[], Tensor]) -> None:
    for tensor in case.inputs:
        tensor.grad = None
    work().backward(case.upstream)


def _lengths(total: int) -> list[int]:
    """Eight lengths between half and one and a half times the mean."""
    rng = random.Random(0)
    shares = [rng.uniform(0.5, 1.5) for _ in range(NUM_EXAMPLES)]
    return [int(total * share / sum(shares)) for share in shares]


class Decoder:
    """Query, key and value of one layer, (T, heads, D), for examples of given lengths.

    The grouped heads of key and value stay as few as they are unless a path repeats them.
    """

    def __init__(self, lengths: list[int], text: dict[str, Any], device: str) -> None:
        self._lengths = lengths
        num_heads, num_kv = text["num_attention_heads"], text["num_key_value_heads"]
        dim = text["hidden_size"] // num_heads
        torch.manual_seed(0)
        self.inputs = [
            torch.randn(sum(lengths), n, dim, device=device, dtype=torch.bfloat16)
            .requires_grad_()
            for n in (num_heads, num_kv, num_kv)
        ]  # fmt: skip
        self.upstream = torch.randn(sum(lengths), num_heads, dim, device=device).bfloat16()
        self._ends = segments.boundaries(lengths).to(device)
        self._module: Any = SimpleNamespace(
            num_key_value_groups=num_heads // num_kv, is_causal=True
        )

    def packed(self) -> Tensor:
        return segments.attend(*self.inputs, self._ends, max(self._lengths), is_causal=True)

    def expected(self) -> Tensor:
        return segments.attend_by_sdpa(*self.inputs, self._ends, is_causal=True)

    def one_row(self) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in self.inputs)
        return sdpa_attention_forward(self._module, q, k, v, None)[0][0]

    def padded(self) -> Tensor:
        """As transformers attends a padded batch: a (B, 1, L, L) mask, key and value repeated."""
        rows = [x.split(self._lengths) for x in self.inputs]
        q, k, v = (
            torch.nn.utils.rnn.pad_sequence(list(r), batch_first=True).transpose(1, 2)
            for r in rows
        )  # fmt: skip
        places = torch.arange(q.shape[2], device=q.device)
        is_real = places < torch.tensor(self._lengths, device=q.device)[:, None]
        mask = (places[:, None] >= places)[None, None] & is_real[:, None, None, :]
        out = sdpa_attention_forward(self._module, q, k, v, mask)[0]
        return torch.cat([out[i, :n] for i, n in enumerate(self._lengths)])


def _vision(kit: Kit, row: str, path: str, emit: Emit) -> None:
    shape = kit.scale.shapes[kit.scale.full]
    torch.manual_seed(0)
    with torch.device(kit.device):
        tower: Any = Qwen2_5_VisionTransformerPretrainedModel._from_config(
            model_config(shape).vision_config, dtype=torch.bfloat16
        ).eval()
    side = kit.scale.side // shape.patch_size
    grid = torch.tensor([[1, side, side]] * kit.scale.num_pictures, device=kit.device)
    width = 3 * 2 * shape.patch_size**2
    pixels = torch.randn(int(grid.prod(-1).sum()), width, device=kit.device).bfloat16()

    def forward() -> Tensor:
        with torch.no_grad():
            return tower(pixels, grid_thw=grid).pooler_output

    looped = forward()  # by sdpa, windows looped
    exact = _in_float32(tower, pixels, grid)
    if path == "windows_varlen":
        segments.register()
        tower.config._attn_implementation = segments.NAME
    figures = asdict(card.measured(forward)) | {"pictures": len(grid), "patches": len(pixels)}
    error, usual = relative_error(forward(), exact), relative_error(looped, exact)
    said = ""
    if not error <= LARGEST_EXCESS * usual:
        said = f"is {error:.3g} away from float32, the looped path is {usual:.3g} away"
    emit(row, {**figures, "relative_error": error, "looped_error": usual}, error=said)


@torch.no_grad()
def _in_float32(tower: Any, pixels: Tensor, grid: Tensor) -> Tensor:
    """What the tower says without rounding."""
    return copy.deepcopy(tower).float()(pixels.float(), grid_thw=grid).pooler_output
