"""Lays the examples of a micro-batch into rows: one row each with padding, or one row for all.

Both give the model the same loss. Packed, the examples lie behind each other; each has positions of
its own, and attention ends where it ends (`train.attention`). All that the model would otherwise
work out from numbers on its device is made here, once, on the CPU: boundaries, positions, the
vision tower's windows. Pure: layouts change nothing and may be used from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from virgo_ray.train.attention import attend_by_segment, boundaries

Inputs = dict[str, Any]  # tensors, and the lengths that a kernel takes as numbers


@dataclass(frozen=True)
class Row:
    """An example's tokens, pictures expanded, and the grids (N, 3) of its N pictures."""

    ids: list[int]
    grids: Tensor


class Layout(Protocol):
    """How examples become what the decoder takes."""

    def lay(self, rows: Sequence[Row], dummy: Row | None) -> tuple[Inputs, list[int]]:
        """The inputs without pixels, on the CPU, and where each row begins in the flat batch.

        `dummy` is a picture that belongs to no example; no example may see it.
        """


class PaddedRows:
    """(B, L): one row each, padded on the right; a dummy stands behind the shortest."""

    def __init__(self, image_id: int) -> None:
        self._image_id = image_id

    def lay(self, rows: Sequence[Row], dummy: Row | None) -> tuple[Inputs, list[int]]:
        texts = [row.ids for row in rows]
        if dummy is not None:
            shortest = min(range(len(texts)), key=lambda i: len(texts[i]))
            texts[shortest] = texts[shortest] + dummy.ids
        length = max(len(text) for text in texts)
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        mask = torch.zeros(len(texts), length, dtype=torch.long)
        for i, text in enumerate(texts):
            ids[i, : len(text)] = torch.tensor(text)
            mask[i, : len(text)] = 1
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self._image_id).int(),
            "image_grid_thw": _grids([*rows, *([dummy] if dummy else [])]),
        }
        return inputs, [i * length for i in range(len(texts))]


class PackedRows:
    """(1, L): all in one row; a dummy is its last segment.

    The model must attend by segment: `packed_rows` sees to that.
    """

    def __init__(self, model: Any) -> None:
        self._positions_of = model.model.get_rope_index
        self._image_id = int(model.config.image_token_id)
        self._tower = model.model.visual

    def lay(self, rows: Sequence[Row], dummy: Row | None) -> tuple[Inputs, list[int]]:
        whole = [*rows, *([dummy] if dummy else [])]
        grids = _grids(whole)
        ends = boundaries([len(row.ids) for row in whole])
        longest = _longest(ends)
        inputs = {
            "input_ids": torch.tensor([[token for row in whole for token in row.ids]]),
            "position_ids": torch.cat([self._positions(row) for row in whole], -1),
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
            "image_grid_thw": grids,
            **self._of_tower(grids),
        }
        return inputs, ends.tolist()[: len(rows)]

    def _positions(self, row: Row) -> Tensor:
        """(4, 1, L): places in the text, then M-RoPE's three, as if the example were alone."""
        if not len(row.grids):  # text alone: the four are the same
            return torch.arange(len(row.ids)).expand(4, 1, -1)
        ids = torch.tensor([row.ids])
        spatial, _ = self._positions_of(
            input_ids=ids,
            mm_token_type_ids=(ids == self._image_id).int(),
            image_grid_thw=row.grids,
        )
        return torch.cat([torch.arange(len(row.ids)).view(1, 1, -1), spatial])

    def _of_tower(self, grids: Tensor) -> Inputs:
        """What the vision tower would make of the grids, by transformers' own functions.

        Windows are Qwen2.5-VL's, interpolated positions Qwen3-VL's.
        """
        tower, merge = self._tower, int(self._tower.spatial_merge_size)
        ends = get_vision_cu_seqlens(grids)
        found: Inputs = {
            "image_cu_seqlens": ends,
            "image_max_seqlen": _longest(ends),
            "image_position_ids": get_vision_position_ids(grids, merge),
        }
        if hasattr(tower, "fullatt_block_indexes"):
            index, ends = get_vision_window_index(
                grids, merge, window_size=tower.window_size, patch_size=tower.patch_size
            )
            found |= {
                "image_window_index": index,
                "image_cu_window_seqlens": ends,
                "image_max_window_seqlen": _longest(ends),
            }
        if hasattr(tower, "num_grid_per_side"):
            indices, weights = get_vision_interpolation_indices_and_weights(
                grids,
                num_grid_per_side=tower.num_grid_per_side,
                mode=tower.interpolation_mode,
                align_corners=tower.interpolation_align_corners,
                spatial_merge_size=merge,
            )
            found |= {"image_interp_indices": indices, "image_interp_weights": weights}
        return found


def packed_rows(model: Any) -> PackedRows:
    """Lets the model attend by segment; returns the layout that it takes from then on.

    Raises:
        TrainingError: its attention is not made for that.
    """
    attend_by_segment(model)
    return PackedRows(model)


def _longest(ends: Tensor) -> int:
    return int(ends.diff().max())


def _grids(rows: Sequence[Row]) -> Tensor:
    return torch.cat([row.grids for row in rows])
