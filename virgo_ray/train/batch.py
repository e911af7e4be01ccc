"""From examples to the tensors of one micro-batch.

Placeholders are expanded here; a layout (`train.rows`) puts the examples into rows. Guarantees that
every micro-batch runs the vision tower: one without a picture gets a dummy one of a single merged
token where no target can see it, so that its gradient is exactly zero. Tensors are made on the CPU
and go to the device together, last. Knows no ranks and no model weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from virgo_ray.config import ModelConfig
from virgo_ray.errors import TrainingError
from virgo_ray.records import Example, sequence_length
from virgo_ray.train.pictures import Picture, Pictures
from virgo_ray.train.rows import Inputs, Layout, PaddedRows, Row

NO_GRIDS = torch.zeros(0, 3, dtype=torch.long)


@dataclass(frozen=True)
class MicroBatch:
    """T target tokens of E examples in B rows of L tokens: padded on the right, or one packed row.

    The targets of an example lie behind each other, in the order of examples.
    """

    inputs: Inputs  # what the model's decoder takes: (B, L) ids, where rows end, pictures
    places: Tensor  # (T,) flat positions that predict the targets
    targets: Tensor  # (T,)
    weights: Tensor  # (T,) float32
    temperatures: Tensor  # (T,) that they were sampled at
    sampled: Tensor  # (T,) log-probabilities when they were sampled; 0 where nobody noted them
    has_group: Tensor  # (T,) bool
    lengths: tuple[int, ...]  # (E,) targets of each example
    roles: tuple[str, ...]  # (E,)

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device, lengths stay numbers. Pinned memory is copied in the background."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> MicroBatch:
        """The same in memory that a GPU copies from by itself."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        inputs = {
            name: change(value) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Any] = {n: change(v) for n, v in own.items() if isinstance(v, Tensor)}
        return replace(self, inputs=inputs, **tensors)


class Batcher:
    """Makes micro-batches for one model directory; without a `layout` they are padded."""

    def __init__(
        self, path: str, cfg: ModelConfig, device: torch.device, layout: Layout | None = None
    ) -> None:
        config: Any = AutoConfig.from_pretrained(path, trust_remote_code=cfg.trust_remote_code)
        self._image_id = int(config.image_token_id)
        self._frame_ids = (config.vision_start_token_id, config.vision_end_token_id)
        self._pictures = Pictures(path, cfg)
        self._max_length = cfg.max_length
        self._pixel_bytes = self._pictures.dummy().pixels.nbytes  # of one token
        self._layout = layout or PaddedRows(self._image_id)
        self.device = device

    def collate(self, examples: Sequence[Example]) -> MicroBatch:
        """One micro-batch on the device, in the order of `examples`.

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
        rows = [self._row(e, own) for e, own in zip(examples, pictures, strict=True)]
        flat = [picture for own in pictures for picture in own]
        dummy = None
        if not flat:
            flat = [self._pictures.dummy()]
            start, end = self._frame_ids
            dummy = Row([start, self._image_id, end], flat[0].grid)
        inputs, starts = self._layout.lay(rows, dummy)
        inputs["pixel_values"] = torch.cat([p.pixels for p in flat])
        batch = _with_targets(inputs, examples, rows, starts)
        return batch.pinned() if self.device.type == "cuda" else batch

    def _row(self, example: Example, pictures: list[Picture]) -> Row:
        ids = [*self._prompt(example, pictures), *example.target_ids]
        self._check(example, len(ids))
        grids = [picture.grid for picture in pictures]
        return Row(ids, torch.cat(grids) if grids else NO_GRIDS)

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


def _with_targets(
    inputs: Inputs, examples: Sequence[Example], rows: Sequence[Row], starts: Sequence[int]
) -> MicroBatch:
    """`starts` are the flat positions at which the examples' rows begin."""
    places: list[Tensor] = []
    for example, row, start in zip(examples, rows, starts, strict=True):
        first = start + len(row.ids) - len(example.target_ids) - 1
        places.append(torch.arange(first, first + len(example.target_ids)))
    counts = torch.tensor([len(e.target_ids) for e in examples])
    return MicroBatch(
        inputs,
        torch.cat(places),
        torch.tensor([t for e in examples for t in e.target_ids]),
        torch.tensor([e.weight for e in examples]).repeat_interleave(counts),
        torch.tensor([e.temperature for e in examples]).repeat_interleave(counts),
        torch.cat([_sampled(e) for e in examples]),
        torch.tensor([bool(e.group) for e in examples]).repeat_interleave(counts),
        tuple(counts.tolist()),
        tuple(e.role for e in examples),
    )


def _sampled(example: Example) -> Tensor:
    """(T,) of one example."""
    known = example.old_logprobs or [0.0] * len(example.target_ids)
    if len(known) != len(example.target_ids):
        raise TrainingError(
            f"example {example.id!r} has {len(known)} log-probabilities for "
            f"{len(example.target_ids)} targets; expected one each: sample it again"
        )
    return torch.tensor(list(known))
