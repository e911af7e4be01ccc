"""From examples to the tensors of one micro-batch.

Placeholders are expanded here. Guarantees that every micro-batch runs the vision tower: one without
a picture gets a dummy one of a single merged token behind the end of its shortest example, where no
target can see it, so that its gradient is exactly zero. Knows no ranks and no model weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from virgo_ray.config import ModelConfig
from virgo_ray.errors import TrainingError
from virgo_ray.records import Example, sequence_length
from virgo_ray.train.pictures import Picture, Pictures


@dataclass(frozen=True)
class MicroBatch:
    """Tensors in one place. B rows padded on the right to L, T target tokens in all."""

    inputs: dict[str, Tensor]  # what the model's decoder takes: (B, L) ids and masks, pictures
    places: Tensor  # (T,) flat positions that predict the targets
    targets: Tensor  # (T,)
    weights: Tensor  # (T,) float32

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device; from pinned memory the copy is the device's own business."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> MicroBatch:
        """The same in memory that a GPU copies from by itself."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        inputs = {name: change(tensor) for name, tensor in self.inputs.items()}
        return MicroBatch(inputs, change(self.places), change(self.targets), change(self.weights))


class Batcher:
    """Makes micro-batches for one model directory."""

    def __init__(self, path: str, cfg: ModelConfig, device: torch.device) -> None:
        config: Any = AutoConfig.from_pretrained(path, trust_remote_code=cfg.trust_remote_code)
        self._image_id = int(config.image_token_id)
        self._frame_ids = (config.vision_start_token_id, config.vision_end_token_id)
        self._pictures = Pictures(path, cfg)
        self._max_length = cfg.max_length
        self._pixel_bytes = self._pictures.dummy().pixels.nbytes  # of one token
        self.device = device

    def collate(self, examples: Sequence[Example]) -> MicroBatch:
        """One padded micro-batch on the device, in the order of `examples`.

        Raises:
            DataError: an image cannot be read.
            TrainingError: images and placeholders differ, or the example is too long.
        """
        return self.prepare(examples).to(self.device)

    def num_pixel_bytes(self, examples: Sequence[Example]) -> int:
        """What the pictures of a micro-batch take as float32 patches, if `num_tokens` is right."""
        places = sum(e.prompt_ids.count(self._image_id) for e in examples)
        hidden = sum(sequence_length(e) - len(e.prompt_ids) - len(e.target_ids) for e in examples)
        return max(1, hidden + places) * self._pixel_bytes

    def prepare(self, examples: Sequence[Example]) -> MicroBatch:
        """What `collate` moves to the device: CPU tensors, pinned where that is a GPU.

        May be called by several threads at a time.

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
        batch = self._tensors(examples, rows, ends, flat)
        return batch.pinned() if self.device.type == "cuda" else batch

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
            inputs,
            torch.cat(places),
            torch.tensor([t for e in examples for t in e.target_ids]),
            torch.tensor([e.weight for e in examples]).repeat_interleave(counts),
        )
