"""An example as the trainer reads it, token by token: what is a picture, and what has a loss.

For people who look at a fit. The tokens are those of a micro-batch that `Batcher` makes of the
example alone, and the labels are its targets, so nothing here can differ from what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

import torch

from virgo_ray.config import ModelConfig
from virgo_ray.records import Example
from virgo_ray.train.batch import Batcher


class Mark(StrEnum):
    """What a token is in training."""

    TEXT = "text"
    IMAGE = "image"
    LABEL = "label"  # the loss is taken on it


class Marker:
    """Marks the tokens of examples for the model in a directory."""

    def __init__(self, directory: str, cfg: ModelConfig) -> None:
        self._batcher = Batcher(directory, cfg, torch.device("cpu"))

    def runs(self, example: Example) -> list[tuple[Mark, list[int]]]:
        """The example's tokens in order, pictures expanded, as runs of one mark.

        Raises:
            DataError: an image cannot be read.
            TrainingError: images and placeholders differ, or the example is too long.
        """
        batch = self._batcher.prepare([example])
        labels = [place + 1 for place in batch.places.tolist()]
        num = labels[-1] + 1  # what follows is a picture that belongs to no example
        ids = batch.inputs["input_ids"].flatten().tolist()[:num]
        is_image = batch.inputs["mm_token_type_ids"].flatten().tolist()[:num]
        marks = [Mark.IMAGE if image else Mark.TEXT for image in is_image]
        for place in labels:
            marks[place] = Mark.LABEL
        return list(_runs(marks, ids))


def _runs(marks: Sequence[Mark], ids: Sequence[int]) -> Iterator[tuple[Mark, list[int]]]:
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or marks[end] is not marks[start]:
            yield marks[start], list(ids[start:end])
            start = end
