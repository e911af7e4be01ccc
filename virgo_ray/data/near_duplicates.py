"""Near duplicates: training problems that are nearly the same as held-out ones.

Exact duplicates have equal words and equal picture files; `problems.py` finds those. Near
duplicates have pictures that look alike (the same picture resized or compressed again) and
questions that share most of their word triples. Generated data sets hold many problems that are
near without being copies, so the caller decides what follows. Pure: no files are opened here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from virgo_ray.records import Problem
from virgo_ray.stats.similarity import jaccard, runs

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 16  # width and height of a thumbnail, in pixels
MAX_BITS = 16  # how many of the 64 bits of the hash may differ: those of copies do by up to 13
MAX_SHADE = 24  # how much any thumbnail colour may differ, of 255: JPEG and resizing stay below
MIN_SHARED = 0.6  # share of the word triples of two questions that both must have
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class PerceptualHash:
    """What a picture looks like, small enough to keep for every picture of a data set."""

    bits: int  # difference hash, 64 bits: is a cell darker than its right neighbour?
    thumbnail: bytes  # SIDE x SIDE x RGB

    def as_bytes(self) -> bytes:
        return self.bits.to_bytes(8, "big") + self.thumbnail

    @property
    def is_one_colour(self) -> bool:
        return self.thumbnail == self.thumbnail[:3] * SIDE**2


def hash_picture(image: Image) -> PerceptualHash:
    """Compute the difference hash of 8 x 8 cells, and the thumbnail."""
    from PIL.Image import Resampling

    grey = np.asarray(image.convert("L").resize((9, 8), Resampling.BOX), dtype=np.int16)
    bits = (grey[:, 1:] - grey[:, :-1] > 2).flatten()  # flat areas stay 0 whatever the noise
    thumbnail = image.convert("RGB").resize((SIDE, SIDE), Resampling.BOX)
    number = int("".join("1" if bit else "0" for bit in bits), 2)
    return PerceptualHash(number, thumbnail.tobytes())


def find_near_duplicates(
    train: Sequence[Problem], heldout: Sequence[Problem], hashes: Mapping[str, PerceptualHash]
) -> list[tuple[int, int]]:
    """Find pairs (index in train, index in heldout) of problems that are nearly the same, in order.

    `hashes` maps the path of every picture to its hash.
    """
    suspects = {*_pairs_by_picture(train, heldout, hashes), *_pairs_by_words(train, heldout)}
    pairs = []
    for i, j in sorted(suspects):
        a, b = train[i], heldout[j]
        if shared_words(_text(a), _text(b)) < MIN_SHARED:
            continue
        others = zip(a.images[1:], b.images[1:], strict=True)  # the first ones are alike
        if all(_is_alike(hashes[x], hashes[y]) for x, y in others):
            pairs.append((i, j))
    return pairs


def shared_words(a: str, b: str) -> float:
    """Divide the number of word triples that both texts have by that of all their triples.

    >>> shared_words("How many red balls are there?", "how many RED balls are there")
    1.0
    >>> shared_words("How many red balls are there?", "What is the area of the square?")
    0.0
    """
    return jaccard(_triples(a), _triples(b))


@cache
def _triples(text: str) -> frozenset[tuple[str, ...]]:
    return frozenset(runs(_WORD.findall(text.casefold()), 3))


def _text(problem: Problem) -> str:
    return f"{problem.context} {problem.question}"


def _is_alike(a: PerceptualHash, b: PerceptualHash) -> bool:
    if (a.bits ^ b.bits).bit_count() > MAX_BITS:
        return False
    return int(np.abs(_shades(a) - _shades(b)).max()) <= MAX_SHADE


def _pairs_by_picture(
    train: Sequence[Problem], heldout: Sequence[Problem], hashes: Mapping[str, PerceptualHash]
) -> Iterator[tuple[int, int]]:
    """Pairs with equally many pictures, the first of which look alike."""
    held = [(j, p) for j, p in enumerate(heldout) if p.images]
    if not held:
        return
    bits = np.array([hashes[p.images[0]].bits for _, p in held], dtype=np.uint64)
    shades = np.stack([_shades(hashes[p.images[0]]) for _, p in held])
    for i, problem in enumerate(train):
        if not problem.images:
            continue
        own = hashes[problem.images[0]]
        near = np.flatnonzero(np.bitwise_count(bits ^ np.uint64(own.bits)) <= MAX_BITS)
        if len(near) == 0:
            continue
        worst = np.abs(shades[near] - _shades(own)).max(axis=1)
        for index in near[worst <= MAX_SHADE]:
            j, other = held[index]
            if len(other.images) == len(problem.images):
                yield i, j


def _shades(hash: PerceptualHash) -> np.ndarray:
    return np.frombuffer(hash.thumbnail, np.uint8).astype(np.int16)


def _pairs_by_words(
    train: Sequence[Problem], heldout: Sequence[Problem]
) -> Iterator[tuple[int, int]]:
    """Pairs of problems without pictures that share at least one word triple."""
    holders = defaultdict(list)
    for j, problem in enumerate(heldout):
        if not problem.images:
            for triple in _triples(_text(problem)):
                holders[triple].append(j)
    for i, problem in enumerate(train):
        if not problem.images:
            yield from ((i, j) for t in _triples(_text(problem)) for j in holders.get(t, ()))
