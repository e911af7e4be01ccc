"""Which correct thoughts to learn from: the paper's recipe, and ours."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from virgo_ray.config import SelectConfig
from virgo_ray.selection.balancing import balance
from virgo_ray.selection.candidates import Candidate, by_problem

# A guess counts as likely where a pure guesser would get at least one of n right this often.
LIKELY_GUESS = 0.05


def select(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """The candidates to learn from under `cfg.policy`, at most `cfg.max_traces`, ordered by key.

    With `cfg.drop_doubted` none that a second opinion doubts; a doubt changes no pass rate.
    """
    trusted = [c for c in candidates if not (cfg.drop_doubted and c.is_doubted)]
    kept = POLICIES[cfg.policy](sorted(trusted, key=lambda c: c.key), cfg, rng)
    if cfg.max_traces is not None:
        kept = balance(kept, cfg.max_traces, rng)
    return sorted(kept, key=lambda c: c.key)


def faithful(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """The paper's recipe: problems solved in at least `min_pass_rate` of the samples (4 of 5), the
    shortest correct thought of each. What the base solves greedily was never asked."""
    easy_enough = [c for c in candidates if c.pass_rate >= cfg.min_pass_rate - 1e-9]
    groups = by_problem(easy_enough)
    return [min(group, key=lambda c: (c.num_tokens, c.key)) for group in groups.values()]


def improved(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """Finished thoughts that were hardly guessed, of ordinary length, few and distinct per problem;
    those of the newest model first."""
    sound = [
        c
        for c in candidates
        if c.is_complete
        and c.num_reflections <= cfg.max_reflections
        and c.num_correct >= num_correct_needed(c, cfg.min_correct)
    ]
    kept = []
    for group in by_problem(within_length_band(sound, cfg.length_band)).values():
        rng.shuffle(group)
        newest_first = sorted(group, key=lambda c: -c.round)
        distinct = {c.fingerprint: c for c in reversed(newest_first)}
        kept += [c for c in newest_first if distinct[c.fingerprint] is c][: cfg.max_per_problem]
    return kept


POLICIES: dict[
    str, Callable[[Sequence[Candidate], SelectConfig, random.Random], list[Candidate]]
] = {"faithful": faithful, "improved": improved}


def num_correct_needed(candidate: Candidate, min_correct: int) -> int:
    """How many samples must agree before one is believed.

    One, where guessing is hopeless; `min_correct` where a guesser would get one of n right. Four
    choices and five tries: 76 % (1 - 0.75 ** 5), so two are needed.
    """
    lucky = 1.0 - (1.0 - candidate.guess_chance) ** candidate.num_judged
    return min_correct if lucky > LIKELY_GUESS else 1


def within_length_band(
    candidates: Sequence[Candidate], band: tuple[float, float]
) -> list[Candidate]:
    """Those between two quantiles of thought length of their source, the borders included."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for c in candidates:
        lengths[c.source].append(c.num_tokens)
    bounds = {source: _bounds(sorted(values), band) for source, values in lengths.items()}
    return [c for c in candidates if bounds[c.source][0] <= c.num_tokens <= bounds[c.source][1]]


def _bounds(ordered: Sequence[int], band: tuple[float, float]) -> tuple[int, int]:
    """Rounded outwards, so that a handful of thoughts loses none."""
    last = len(ordered) - 1
    return ordered[math.floor(band[0] * last)], ordered[math.ceil(band[1] * last)]
