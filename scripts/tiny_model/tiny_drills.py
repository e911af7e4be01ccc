"""Dense text drills in finding a word again, taught between two courses of lessons.

A small transformer that only ever sees chat-formatted puzzles learns to copy by distance, and for
thousands of steps does not learn to look something up by what it is. For a model that can already
read, a few hundred batches of bare sequences in which nearly every target is such a look-up are
enough, and the puzzles build on it afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from tiny_lessons import BLANK, READABLE
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from virgo_ray.tiny.puzzles import COLORS, CORNERS, LETTERS

WORDS = tuple(word for word in READABLE if word != BLANK)
# (what stands there, what follows, which tokens of the latter are asked: first and every how many)
Drill = tuple[str, str, int, int]


def again(rng: random.Random) -> Drill:
    """Random words, and the same once more."""
    words = f" {' '.join(rng.choices(WORDS, k=rng.randint(8, 20)))}."
    return words, words, 1, 1


def values(rng: random.Random) -> Drill:
    """Words with a digit each, then asked in another order."""
    keys = rng.sample((*LETTERS, *CORNERS, *COLORS), rng.randint(3, 8))
    value = {key: rng.choice("123456789") for key in keys}
    shown = f" {' '.join(f'{key} {value[key]}' for key in keys)}."
    return shown, "".join(f" {k} is {value[k]}." for k in rng.sample(keys, len(keys))), 2, 4


def which(rng: random.Random) -> Drill:
    """A colour, then shapes that have it or not."""
    color = rng.choice(COLORS)
    said = ""
    for _ in range(rng.randint(4, 9)):
        own = color if rng.random() < 0.45 else rng.choice(COLORS)
        said += f" {own} {rng.choice(tuple(CORNERS))} {'yes' if own == color else 'no'}."
    return f" Which shapes are {color}?", said, 2, 4


DRILLS: tuple[Callable[[random.Random], Drill], ...] = (again, values, which)


def drill_batch(
    make: Callable[[random.Random], Drill],
    size: int,
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
) -> tuple[Tensor, Tensor]:
    """(input ids, labels), each (size, length); right-padded, -100 where nothing is asked."""
    drills = [make(rng) for _ in range(size)]
    shown = tokenizer([d[0] for d in drills])["input_ids"]
    said = tokenizer([d[1] for d in drills])["input_ids"]
    length = max(len(a) + len(b) for a, b in zip(shown, said, strict=True))
    ids = torch.full((size, length), tokenizer.pad_token_id)
    labels = torch.full((size, length), -100)
    for i, (a, b, drill) in enumerate(zip(shown, said, drills, strict=True)):
        ids[i, : len(a) + len(b)] = torch.tensor(a + b)
        for at in range(drill[2], len(b), drill[3]):
            labels[i, len(a) + at] = b[at]
    return ids, labels
