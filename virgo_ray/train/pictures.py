"""Pictures as the vision tower takes them: opened, resized, cut into patches.

They go through the model's own image processor with the pixel bounds of the config. Threads may ask
side by side: no picture is processed twice at a time, and the last ones used are kept in memory.
There is no cache on disk: what it would save is hidden behind the steps (docs/performance.md).
Knows no examples, no ranks and no model weights.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from virgo_ray.config import ModelConfig
from virgo_ray.model.images import load_image
from virgo_ray.train.sizes import PICTURE_CACHE_BYTES

NUM_LOCKS = 64  # pictures that share one now and then wait for each other without need


@dataclass(frozen=True)
class Picture:
    """One processed image: `pixels` (patches, values), its grid (1, 3), tokens after merging."""

    pixels: Tensor
    grid: Tensor
    num_tokens: int


class Pictures:
    """Opens and processes image files; keeps the last ones used, up to `PICTURE_CACHE_BYTES`."""

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
        self._cache_lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(NUM_LOCKS)]  # of pictures in the making

    def get(self, path: str) -> Picture:
        """The processed picture.

        Raises:
            DataError: the file cannot be read.
        """
        with self._locks[hash(path) % NUM_LOCKS]:  # held for one picture
            with self._cache_lock:
                if path in self._cache:
                    self._cache.move_to_end(path)
                    return self._cache[path]
            picture = self._process(path)
            self._keep(path, picture)
            return picture

    def dummy(self) -> Picture:
        """The smallest picture there is: all zeros, one token."""
        side = self._merge
        patch = self._processor.patch_size**2 * self._processor.temporal_patch_size
        num_channels = len(self._processor.image_mean)
        pixels = torch.zeros(side * side, num_channels * patch)
        return Picture(pixels, torch.tensor([[1, side, side]]), 1)

    def _process(self, path: str) -> Picture:
        output = self._processor(images=[load_image(path)], size=self._size, return_tensors="pt")
        grid = output["image_grid_thw"]
        return Picture(output["pixel_values"], grid, int(grid.prod()) // self._merge**2)

    def _keep(self, path: str, picture: Picture) -> None:
        with self._cache_lock:
            self._cache[path] = picture
            self._bytes += picture.pixels.nbytes
            while self._bytes > PICTURE_CACHE_BYTES and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._bytes -= dropped.pixels.nbytes
