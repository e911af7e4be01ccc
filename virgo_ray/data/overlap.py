"""What training and held-out problems share: the same content, or nearly the same.

The same: equal words on equal files. Nearly: pictures that look alike (the same picture resized or
compressed again) together with questions that share most of their word triples. Synthetic sets can
be near without being copies, so what follows from it is the caller's choice. Pure: no files here.
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

SIDE = 16  # of the thumbnail that two pictures are compared on
MAX_BITS = 16  # of the 64 of the difference hash that may differ: copies do by up to 13
MAX_SHADE = 24  # of 255 that any thumbnail colour may differ: JPEG and resizing stay below
MIN_SHARED = 0.6  # of the word triples of two questions taken together
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Look:
    """How a picture looks, small enough to keep: 64 bits of brightness steps, and a thumbnail."""

    steps: int
    thumbnail: bytes  # SIDE x SIDE x RGB


def look_of(image: Image) -> Look:
    """The difference hash (each of 8 x 8 cells: darker than its right neighbour?) and thumbnail."""
    from PIL.Image import Resampling

    grey = np.asarray(image.convert("L").resize((9, 8), Resampling.BOX), dtype=np.int16)
    bits = (grey[:, 1:] - grey[:, :-1] > 2).flatten()  # flat areas stay 0 whatever the noise
    thumbnail = image.convert("RGB").resize((SIDE, SIDE), Resampling.BOX)
    return Look(int("".join("1" if bit else "0" for bit in bits), 2), thumbnail.tobytes())


def near_pairs(
    train: Sequence[Problem], heldout: Sequence[Problem], looks: Mapping[str, Look]
) -> list[tuple[int, int]]:
    """(place in train, place in heldout) of problems that are nearly the same, in order."""
    pairs = []
    for i, j in sorted(
        {*_alike_pictures(train, heldout, looks), *_without_pictures(train, heldout)}
    ):
        a, b = train[i], heldout[j]
        is_whole = all(_alike(looks[x], looks[y]) for x, y in zip(a.images, b.images, strict=True))
        if is_whole and shared_words(_text(a), _text(b)) >= MIN_SHARED:
            pairs.append((i, j))
    return pairs


def shared_words(a: str, b: str) -> float:
    """Of the word triples of both texts, the share that is in both.

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


def _alike(a: Look, b: Look) -> bool:
    if (a.steps ^ b.steps).bit_count() > MAX_BITS:
        return False
    return int(np.abs(_shades(a) - _shades(b)).max()) <= MAX_SHADE


def _alike_pictures(
    train: Sequence[Problem], heldout: Sequence[Problem], looks: Mapping[str, Look]
) -> Iterator[tuple[int, int]]:
    """Pairs with equally many pictures whose first ones look alike."""
    held = [(j, p) for j, p in enumerate(heldout) if p.images]
    if not held:
        return
    steps = np.array([looks[p.images[0]].steps for _, p in held], dtype=np.uint64)
    shades = np.stack([_shades(looks[p.images[0]]) for _, p in held])
    for i, problem in enumerate(train):
        if not problem.images:
            continue
        look = looks[problem.images[0]]
        near = np.flatnonzero(np.bitwise_count(steps ^ np.uint64(look.steps)) <= MAX_BITS)
        if len(near) == 0:
            continue
        worst = np.abs(shades[near] - _shades(look)).max(axis=1)
        for place in near[worst <= MAX_SHADE]:
            j, other = held[place]
            if len(other.images) == len(problem.images):
                yield i, j


def _shades(look: Look) -> np.ndarray:
    return np.frombuffer(look.thumbnail, np.uint8).astype(np.int16)


def _without_pictures(
    train: Sequence[Problem], heldout: Sequence[Problem]
) -> Iterator[tuple[int, int]]:
    """Pairs without pictures that share at least one word triple."""
    places = defaultdict(list)
    for j, problem in enumerate(heldout):
        if not problem.images:
            for triple in _triples(_text(problem)):
                places[triple].append(j)
    for i, problem in enumerate(train):
        if not problem.images:
            yield from ((i, j) for t in _triples(_text(problem)) for j in places.get(t, ()))
