"""Rows `noise/<path>_to_<reference>`: how far two right ways of computing a log-probability are.

The same targets are scored by the same weights in float32 and in bfloat16, and in bfloat16 through
four paths of attention; text-only and image examples apart. A parity probe cannot ask for less than
what is seen here. Figures are absolute differences in nats; `max256` is the mean over blocks of
256 targets of each block's largest, `bias` the mean of the signed difference.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from train_checks.kit import Emit, Kit
from virgo_ray.records import Example
from virgo_ray.train.batch import Batcher
from virgo_ray.train.loss import TargetLogprobs
from virgo_ray.train.model import load_model
from virgo_ray.train.rows import packed_rows

BLOCK = 256
TARGETS_EACH = 256  # of one example
LARGEST_RMS = 0.2  # nats: what is further apart does not compute the same

Scored = dict[str, Tensor]  # "text", "image": log-probabilities in a fixed order


def run(kit: Kit, rows: Sequence[str], emit: Emit) -> None:
    scorer = Scorer(kit)
    for row in rows:
        path, _, reference = row.removeprefix("noise/").partition("_to_")
        found, expected = scorer.scored(path), scorer.scored(reference)
        figures = {
            f"{kind}_{name}": value
            for kind in found
            for name, value in distances(found[kind] - expected[kind]).items()
        }
        rms = max(figures["text_rms"], figures["image_rms"])
        is_right = rms <= LARGEST_RMS  # not so if it is NaN
        said = "" if is_right else f"RMS is {rms:.3g} nats, expected at most {LARGEST_RMS}"
        emit(row, figures | {"targets_each": len(found["text"])}, error=said)


def distances(difference: Tensor) -> dict[str, float]:
    """Mean, RMS, 99th percentile, mean largest of 256, and bias of (N,) signed differences.

    Example: 256 differences of 0.1 and -0.1 in turn: 0.1 throughout, and a bias of 0.
    """
    size = difference.double().abs()
    blocks = size[: len(size) // BLOCK * BLOCK].view(-1, BLOCK)
    return {
        "mean": size.mean().item(),
        "rms": size.square().mean().sqrt().item(),
        "p99": size.quantile(0.99).item(),
        "max256": blocks.amax(1).mean().item(),
        "bias": difference.double().mean().item(),
    }


class Scorer:
    """Scores the same examples by any path; keeps what was scored and one model in memory."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._cfg = kit.config(kit.scale.full, "noise")
        path = self._cfg.model.path
        self._batcher = Batcher(path, self._cfg.model, torch.device(kit.device))
        self._kept: dict[str, Scored] = {}
        self._module: TargetLogprobs | None = None
        self._dtype = ""

    def scored(self, path: str) -> Scored:
        """`float32`, `bfloat16`, `one_row` (the same), `padded`, `eager`, `varlen`."""
        path = {"bfloat16": "one_row"}.get(path, path)
        if path not in self._kept:
            self._load("float32" if path == "float32" else "bfloat16")
            self._kept[path] = {
                kind: self._score(examples, path) for kind, examples in self._examples.items()
            }
        return self._kept[path]

    @cached_property
    def _examples(self) -> dict[str, list[Example]]:
        rng = random.Random(0)
        num = self._kit.scale.noise_tokens // TARGETS_EACH
        return {kind: [self._example(kind, i, rng) for i in range(num)] for kind in
                ("text", "image")}  # fmt: skip

    def _example(self, kind: str, index: int, rng: random.Random) -> Example:
        """At least `TARGETS_EACH` targets, of which the last ones count; lengths differ."""
        length = rng.randint(*self._kit.scale.thought) + 2 * TARGETS_EACH
        return self._kit.example(f"noise-{index}", length, kind == "image", rng)

    def _load(self, dtype: str) -> None:
        if self._dtype == dtype:
            return
        self._module = None
        gc.collect()
        cfg = self._cfg.model.model_copy(update={"dtype": dtype})
        model = load_model(cfg.path, cfg).eval().to(self._kit.device)
        self._module, self._dtype = TargetLogprobs(model, cfg.head_dtype), dtype

    @torch.no_grad()
    def _score(self, examples: Sequence[Example], path: str) -> Tensor:
        """(N,) log-probabilities of the last targets of each example, on the CPU."""
        assert self._module is not None
        batcher = self._batcher_for(path)
        parts = []
        for example in examples:
            is_beside = path in ("padded", "varlen")
            beside = [e for e in examples if e is not example][:1] if is_beside else []
            batch = batcher.collate([example, *beside])
            logprobs = self._module(batch.inputs, batch.places, batch.targets)
            parts.append(logprobs[: len(example.target_ids)][-TARGETS_EACH:].cpu())
        return torch.cat(parts)

    def _batcher_for(self, path: str) -> Batcher:
        """Lets both halves of the model attend by that path."""
        assert self._module is not None
        model: Any = self._module.model
        if path == "varlen":
            device = torch.device(self._kit.device)
            return Batcher(self._cfg.model.path, self._cfg.model, device, packed_rows(model))
        for half in (model.config, model.config.text_config, model.config.vision_config):
            half._attn_implementation = "eager" if path == "eager" else "sdpa"
        return self._batcher
