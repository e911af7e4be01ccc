"""The user's own choice of what to learn from, a function by import path (`select.custom`).

It is called as `choose(candidates, rng) -> candidates`: of all that may be learned from, ordered by
key, those that are. It is asked again whenever a round is resumed, so its answer must follow from
its arguments.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from virgo_ray.config.importing import blaming, import_function
from virgo_ray.errors import ConfigError
from virgo_ray.records import Candidate

KEY = "select.custom"


def find_selector(where: str) -> Callable[..., Iterable[Candidate]]:
    """The function that `where` names.

    Raises:
        ConfigError: it cannot be imported or called so.
    """
    return import_function(KEY, where, "choose(candidates, rng) -> candidates", 2)


def select_custom(
    candidates: Sequence[Candidate], where: str, rng: random.Random
) -> list[Candidate]:
    """What the user's function keeps of the candidates.

    Raises:
        ConfigError: it failed, or what it returned are not some of the candidates, each once.
    """
    choose = find_selector(where)
    with blaming(KEY, where):
        kept = list(choose(list(candidates), rng))
    known = set(map(id, candidates))
    if len(known.intersection(map(id, kept))) != len(kept):
        raise ConfigError(
            f"{KEY}={where!r} returned {len(kept)} candidates, of which some were not given to it "
            f"or stand there twice; expected some of the {len(candidates)} that it was given"
        )
    return kept
