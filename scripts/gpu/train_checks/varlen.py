"""Attention over sequences that lie one behind the other, without padding and without a mask.

On a GPU it is PyTorch's `torch.nn.attention.varlen.varlen_attn`, the flash kernel. On a CPU, where
that does not exist, each sequence is attended by itself, so that the same checks run.
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "flash_varlen"  # "flash": transformers then hands cumulative lengths over
TAKES_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters  # 2.11 groups unasked


def cumulative(lengths: list[int], device: torch.device | str) -> Tensor:
    """`[3, 2]` is `[0, 3, 5]`, int32."""
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(device, torch.int32)


def attend(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, is_causal: bool
) -> Tensor:
    """(T, heads, D) of query; key and value may have fewer heads. Returns the query's shape."""
    if query.device.type == "cpu":
        return looped(query, key, value, ends, is_causal)
    grouped = {"enable_gqa": True} if TAKES_GQA else {}
    window = (-1, 0) if is_causal else (-1, -1)
    options: dict[str, Any] = {"window_size": window, **grouped}
    result = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
    assert isinstance(result, Tensor)
    return result


def looped(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, is_causal: bool) -> Tensor:
    """The same by one call of SDPA for each sequence: slow, and what `attend` is held against."""
    bounds = ends.tolist()
    parts = []
    for start, stop in pairwise(bounds):
        q, k, v = (x[start:stop].transpose(0, 1)[None] for x in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def register() -> None:
    """Let transformers' models attend this way: set `config._attn_implementation` to `NAME`."""
    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """(1, heads, T, D) in, (1, T, heads, D) out; one sequence where no lengths are given."""
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError("expected one unpadded row")
    num_tokens = query.shape[2]
    ends = cumulative([num_tokens], query.device) if cu_seq_lens_q is None else cu_seq_lens_q.int()
    longest = num_tokens if max_length_q is None else int(max_length_q)
    causal: Any = module.is_causal if is_causal is None else is_causal
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(q, k, v, ends, longest, causal)[None], None
