"""Attention over segments that lie behind each other in one row, for decoder and vision tower.

Guarantees: no token sees another segment's; no mask of L x L exists; nothing is read back from the
device where PyTorch's flash kernel runs (CUDA, bfloat16 or float16). Elsewhere each segment is
attended by SDPA, neighbours of equal length in one call. Where the segments end is told by the
caller, in transformers' own words (`cu_seq_lens_q`, `max_length_q`). Knows no examples.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from virgo_ray.errors import TrainingError

# "flash": transformers then calls it once a layer of the vision tower, with the boundaries, instead
# of once for every picture or window.
NAME = "flash_segments"
LARGEST_HEAD = 256  # of the flash kernel; widths are multiples of 8
TAKES_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters  # torch 2.11 groups unasked


def attend_by_segment(model: Any) -> None:
    """Let a model built like Qwen-VL attend this way; its config.json does not change.

    Raises:
        TrainingError: it has attention that is not made for segments.
    """
    text = model.config.get_text_config()
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        raise TrainingError(_cannot(model, "layers with a sliding window"))
    if getattr(text, "attention_dropout", 0.0):
        raise TrainingError(_cannot(model, f"attention_dropout={text.attention_dropout}"))
    register()
    # By name of the halves: a string would be looked up among packages of flash attention.
    model.set_attn_implementation({"text_config": NAME, "vision_config": NAME})


def register() -> None:
    """Make the attention known to transformers under `NAME`."""
    AttentionInterface.register(NAME, _forward)


def boundaries(lengths: Sequence[int]) -> Tensor:
    """Places where segments begin and end, int32: [0, 3, 5] for lengths 3 and 2."""
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()


def attend(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, is_causal: bool
) -> Tensor:
    """(T, heads, D) of query; key and value may have fewer heads. Returns the query's shape.

    `ends` (N + 1,) are the segments' `boundaries`, `longest` is the length of the longest.
    """
    if not _has_kernel(query):
        return attend_by_sdpa(query, key, value, ends, is_causal)
    grouped = {"enable_gqa": True} if TAKES_GQA else {}
    window = (-1, 0) if is_causal else (-1, -1)
    options: dict[str, Any] = {"window_size": window, **grouped}
    result = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
    assert isinstance(result, Tensor)
    return result


def attend_by_sdpa(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, is_causal: bool
) -> Tensor:
    """The same by calls of SDPA, one for each run of segments that have one length."""
    parts = []
    is_grouped = query.shape[1] != key.shape[1]
    for start, stop, num in _runs(ends.tolist()):
        q, k, v = (
            x[start:stop].unflatten(0, (num, -1)).transpose(1, 2) for x in (query, key, value)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=is_grouped)
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _runs(ends: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Start, end and number of segments of each run of equal length.

    >>> list(_runs([0, 4, 8, 9, 13]))
    [(0, 8, 2), (8, 9, 1), (9, 13, 1)]
    """
    start = 0
    for length, run in groupby(stop - begin for begin, stop in pairwise(ends)):
        num = len(list(run))
        yield start, start + num * length, num
        start += num * length


def _has_kernel(query: Tensor) -> bool:
    is_short = query.dtype in (torch.bfloat16, torch.float16)
    width = query.shape[-1]
    return query.is_cuda and is_short and width % 8 == 0 and width <= LARGEST_HEAD


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **_: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: (1, heads, T, D) in, (1, T, heads, D) out."""
    if attention_mask is not None or query.shape[0] != 1 or cu_seq_lens_q is None:
        raise ValueError(
            f"queries of shape {tuple(query.shape)} came with a mask or without boundaries; "
            "expected one row that train.rows.PackedRows has made"
        )
    usual = query.shape[-1] ** -0.5
    if abs(scaling / usual - 1.0) > 1e-6:
        query = query * (scaling / usual)
    causal: Any = module.is_causal if is_causal is None else is_causal
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(q, k, v, cu_seq_lens_q, max_length_q, causal)[None], None


def _cannot(model: Any, what: str) -> str:
    return (
        f"{type(model).__name__} has {what}, expected plain causal attention for packed rows; set "
        "train.packing=false"
    )
