"""What is measured of an accepted text once, when it is stored, so that no choice reads it again.

A set of measures carries a label: the number of the code that took them, the tags it looked for,
and whether the words were compared. Measures with another label are as good as none: whoever needs
them takes them again from the text. So a new tag, or better code, never mixes with what was before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from virgo_ray.config import FORMATS, Format, SelectConfig
from virgo_ray.selection.measures import (
    fingerprint,
    has_thought,
    is_complete,
    num_reflections,
    repetition,
    signature,
)

# Raise it with every change of `measures.py` or `thought_part` that changes a result.
MEASURES_VERSION = 1
OF_TEXT: dict[str, Callable[[str], object]] = {
    "fingerprint": fingerprint,
    "num_reflections": num_reflections,
}
OF_TAGS = {"is_complete": is_complete, "has_thought": has_thought}
OF_WORDS: dict[str, Callable[[str], object]] = {"signature": signature, "repetition": repetition}


@dataclass(frozen=True)
class Measuring:
    """Which measures are taken, by which tags; those of the words only `with_words`.

    >>> Measuring().measure("<think>Wait. 7")["num_reflections"]
    1
    """

    formats: tuple[Format, ...] = FORMATS
    with_words: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The measures that are taken."""
        return (*OF_TEXT, *OF_TAGS, *(OF_WORDS if self.with_words else ()))

    @cached_property
    def label(self) -> str:
        """What stands beside the measures when they are stored."""
        return self.label_of(self.names)

    def label_of(self, names: Iterable[str]) -> str:
        """How the label of stored measures begins where these of them can be used."""
        tags = hashlib.sha256(json.dumps(self.formats).encode()).hexdigest()[:8]
        if wanted := {*names} - {*OF_TEXT}:
            words = ":words" if wanted & {*OF_WORDS} else ""
            return f"{MEASURES_VERSION}:{tags}{words}"
        return f"{MEASURES_VERSION}:"

    def measure(self, text: str, names: Iterable[str] | None = None) -> dict[str, object]:
        """These measures of a text by name, by default all that are taken."""
        wanted = {*(self.names if names is None else names)}
        plain = {name: take(text) for name, take in (OF_TEXT | OF_WORDS).items() if name in wanted}
        tagged = {n: take(text, self.formats) for n, take in OF_TAGS.items() if n in wanted}
        return {**plain, **tagged}


def measuring_for(formats: Iterable[Format], cfg: SelectConfig) -> Measuring:
    """What a selection needs: the words only where traces are compared or bounded by them."""
    return Measuring(tuple(formats), min(cfg.max_overlap, cfg.max_repetition) < 1.0)
