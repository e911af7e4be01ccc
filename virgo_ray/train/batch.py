"""From examples to the tensors of one micro-batch.

Placeholders are expanded here, pictures go through the model's own image processor with the pixel
bounds of the config. Guarantees that every micro-batch runs the vision tower: one without a picture
gets a dummy one of a single merged token behind the end of its shortest example, where no target
can see it, so that its gradient is exactly zero. Knows no ranks and no model weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor

from virgo_ray.config import ModelConfig
from virgo_ray.errors import TrainingError
from virgo_ray.model.images import load_image
from virgo_ray.records import Example

CACHE_BYTES = 256 * 1024**2  # of processed pictures, per rank


@dataclass(frozen=True)
class MicroBatch:
    """Tensors on one device. B rows padded on the right to L, T target tokens in all."""

    inputs: dict[str, Tensor]  # what the model's decoder takes: (B, L) ids and masks, pictures
    places: Tensor  # (T,) flat positions that predict the targets
    targets: Tensor  # (T,)
    weights: Tensor  # (T,) float32


@dataclass(frozen=True)
class Picture:
    """One processed image: `pixels` (patches, values), its grid (1, 3), tokens after merging."""

    pixels: Tensor
    grid: Tensor
    num_tokens: int


class Pictures:
    """Opens and processes image files; keeps the last ones used, up to `CACHE_BYTES`."""

    def __init__(self, path: str, cfg: ModelConfig) -> None:
        self._processor: Any = AutoImageProcessor.from_pretrained(
            path, trust_remote_code=cfg.trust_remote_code
        )
        self._merge = int(self._processor.merge_size)
        self._size = dict(self._processor.size)
        if cfg.min_pixels is not None:
            self._size["shortest_edge"] = cfg.min_pixels
        if cfg.max_pixels is not None:
            self._size["longest_edge"] = cfg.max_pixels
        self._cache: OrderedDict[str, Picture] = OrderedDict()
        self._bytes = 0

    def get(self, path: str) -> Picture:
        """The processed picture.

        Raises:
            DataError: the file cannot be read.
        """
        if path in self._cache:
            self._cache.move_to_end(path)
            return self._cache[path]
        output = self._processor(images=[load_image(path)], size=self._size, return_tensors="pt")
        grid = output["image_grid_thw"]
        picture = Picture(output["pixel_values"], grid, int(grid.prod()) // self._merge**2)
        self._keep(path, picture)
        return picture

    def dummy(self) -> Picture:
        """The smallest picture there is: all zeros, one token."""
        side = self._merge
        patch = self._processor.patch_size**2 * self._processor.temporal_patch_size
        num_channels = len(self._processor.image_mean)
        pixels = torch.zeros(side * side, num_channels * patch)
        return Picture(pixels, torch.tensor([[1, side, side]]), 1)

    def _keep(self, path: str, picture: Picture) -> None:
        self._cache[path] = picture
        self._bytes += picture.pixels.nbytes
        while self._bytes > CACHE_BYTES and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._bytes -= dropped.pixels.nbytes


class Batcher:
    """Makes micro-batches for one model directory."""

    def __init__(self, path: str, cfg: ModelConfig, device: torch.device) -> None:
        config: Any = AutoConfig.from_pretrained(path, trust_remote_code=cfg.trust_remote_code)
        self._image_id = int(config.image_token_id)
        self._frame_ids = (config.vision_start_token_id, config.vision_end_token_id)
        self._pictures = Pictures(path, cfg)
        self._max_length = cfg.max_length
        self._device = device

    def collate(self, examples: Sequence[Example]) -> MicroBatch:
        """One padded micro-batch, in the order of `examples`.

        Raises:
            DataError: an image cannot be read.
            TrainingError: images and placeholders differ, or the example is too long.
        """
        pictures = [[self._pictures.get(path) for path in e.images] for e in examples]
        rows = [
            [*self._prompt(e, own), *e.target_ids]
            for e, own in zip(examples, pictures, strict=True)
        ]
        for example, row in zip(examples, rows, strict=True):
            self._check(example, len(row))
        ends = [len(row) for row in rows]
        flat = [picture for own in pictures for picture in own]
        if not flat:
            flat = [self._pictures.dummy()]
            shortest = min(range(len(rows)), key=lambda i: len(rows[i]))
            rows[shortest] += [self._frame_ids[0], self._image_id, self._frame_ids[1]]
        return self._tensors(examples, rows, ends, flat)

    def _prompt(self, example: Example, pictures: list[Picture]) -> list[int]:
        num_places = example.prompt_ids.count(self._image_id)
        if num_places != len(pictures):
            raise TrainingError(
                f"example {example.id!r} has {len(pictures)} images and {num_places} placeholders "
                f"(id {self._image_id}) in its prompt; expected one un-expanded placeholder each"
            )
        queue = iter(pictures)
        ids: list[int] = []
        for token in example.prompt_ids:
            ids += [token] * (next(queue).num_tokens if token == self._image_id else 1)
        return ids

    def _check(self, example: Example, length: int) -> None:
        if length > self._max_length:
            raise TrainingError(
                f"example {example.id!r} has {length} tokens, expected at most model.max_length="
                f"{self._max_length}; raise it or leave the example out"
            )
        if self._image_id in example.target_ids:
            raise TrainingError(
                f"example {example.id!r} has the image placeholder {self._image_id} among its "
                "targets; placeholder ids must be banned at sampling and refused in traces"
            )

    def _tensors(
        self,
        examples: Sequence[Example],
        rows: list[list[int]],
        ends: list[int],
        pictures: list[Picture],
    ) -> MicroBatch:
        length = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        places: list[Tensor] = []
        for i, (example, row, end) in enumerate(zip(examples, rows, ends, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            first = i * length + end - len(example.target_ids) - 1
            places.append(torch.arange(first, first + len(example.target_ids)))
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self._image_id).int(),
            "pixel_values": torch.cat([p.pixels for p in pictures]),
            "image_grid_thw": torch.cat([p.grid for p in pictures]),
        }
        counts = torch.tensor([len(e.target_ids) for e in examples])
        return MicroBatch(
            {name: tensor.to(self._device) for name, tensor in inputs.items()},
            torch.cat(places).to(self._device),
            torch.tensor([t for e in examples for t in e.target_ids]).to(self._device),
            torch.tensor([e.weight for e in examples]).repeat_interleave(counts).to(self._device),
        )
