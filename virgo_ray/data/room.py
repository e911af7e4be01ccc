"""Whether a prompt leaves room for a response: `model.max_length` bounds both together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from virgo_ray.config import Config
from virgo_ray.data.rows import Reading

# A prompt that leaves less than this part of what a response may have is a bad row: its thoughts
# would all be cut off. One that leaves more, but not all, is counted in a note.
LEAST_SHARE = 0.25


def response_limit(cfg: Config, name: str) -> tuple[str, int]:
    """The key that says how long responses to a source may be, and its value."""
    section = "explore" if name == "train" else "evaluate"
    sampling = cfg.explore.sampling if name == "train" else cfg.evaluate.sampling
    return f"{section}.sampling.max_tokens", sampling.max_tokens


def least_room(max_tokens: int) -> int:
    """How many tokens a prompt must leave where a response may have `max_tokens`.

    >>> least_room(192), least_room(1)
    (48, 1)
    """
    return math.ceil(max_tokens * LEAST_SHARE)


def note_tight_prompts(
    cfg: Config, name: str, readings: list[Reading[Any]], lengths: Mapping[str, int]
) -> None:
    """Count prompts that leave a response less than it may have; `lengths` are by id."""
    key, max_tokens = response_limit(cfg, name)
    for reading in readings:
        longest = cfg.model.max_length - max_tokens
        if num := sum(lengths[problem.id] > longest for problem in reading.records):
            note = f"whose prompt leaves less than {key}={max_tokens} tokens of model.max_length"
            reading.notes[note] = num
