"""Which correct thoughts to learn from: the paper's recipe, and ours."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from virgo_ray.config import SelectConfig
from virgo_ray.config.explore import HARD_PASS_RATE
from virgo_ray.records import Candidate
from virgo_ray.selection.balancing import LIMITS
from virgo_ray.selection.measures import overlap

# A guess counts as likely where a pure guesser would get at least one of n right this often.
LIKELY_GUESS = 0.05


def select(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """Select what to learn from under `cfg.policy`: at most `cfg.max_traces`, ordered by key.

    `cfg.drop_doubted` leaves out what a second opinion doubts; a doubt changes no pass rate.
    """
    trusted = [c for c in candidates if not (cfg.drop_doubted and c.is_doubted)]
    kept = POLICIES[cfg.policy](sorted(trusted, key=lambda c: c.key), cfg, rng)
    if cfg.max_traces is not None:
        kept = LIMITS[cfg.balance](kept, cfg.max_traces, rng)
    return sorted(kept, key=lambda c: c.key)


# -- the paper's -----------------------------------------------------------------------------------


def select_faithful(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """Take the shortest correct thought of every problem of `cfg.split`.

    What the base solves greedily was never asked, so it is not among the candidates.
    """
    groups = group_by_problem([c for c in candidates if is_in_split(c, cfg)])
    return [min(group, key=lambda c: (c.num_tokens, c.key)) for group in groups.values()]


def is_in_split(candidate: Candidate, cfg: SelectConfig) -> bool:
    """Whether a candidate belongs to `cfg.split`, by its pass rate.

    A medium problem was solved in at least `min_pass_rate` of its samples (4-5 of 5), a hard one in
    at least 0.4 and is not medium (2-3 of 5). The split random takes every problem.
    """
    is_medium = candidate.pass_rate >= cfg.min_pass_rate - 1e-9
    if cfg.split == "medium":
        return is_medium
    return cfg.split == "random" or (not is_medium and candidate.pass_rate >= HARD_PASS_RATE - 1e-9)


# -- ours ------------------------------------------------------------------------------------------


def select_improved(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """Keep finished thoughts of ordinary length that were hardly guessed: a few per problem, and
    distinct ones."""
    seeing = drop_blank_solved([c for c in candidates if is_sound(c, cfg)], cfg, rng)
    kept = []
    for group in group_by_problem(keep_length_band(seeing, cfg.length_band)).values():
        ordered = order_by_preference(group, cfg.keep, rng)
        kept += keep_distinct(ordered, cfg.max_per_problem, cfg.max_overlap)
    return kept


POLICIES: dict[
    str, Callable[[Sequence[Candidate], SelectConfig, random.Random], list[Candidate]]
] = {"faithful": select_faithful, "improved": select_improved}


def is_sound(candidate: Candidate, cfg: SelectConfig) -> bool:
    """Whether a thought came to its end, without turning in circles, and was hardly guessed."""
    return (
        candidate.is_complete
        and (candidate.has_thought or not cfg.require_thought)
        and candidate.num_reflections <= cfg.max_reflections
        and candidate.repetition <= cfg.max_repetition
        and candidate.num_correct >= num_correct_needed(candidate, cfg.min_correct, cfg.max_luck)
    )


def num_correct_needed(candidate: Candidate, min_correct: int, max_luck: float = 1.0) -> int:
    """Count how many samples must agree before one is believed.

    One is enough where guessing is hopeless, `min_correct` are needed where it is not. Example: of
    four choices in five tries a guesser gets one right in 76 % (1 - 0.75 ** 5), so two are needed.
    `max_luck` bounds how often a guesser may pass: 0.2 asks for three there (two: 37 %, three:
    10 %).
    """
    chance, tries = candidate.guess_chance, candidate.num_judged
    if chance_of_at_least(1, tries, chance) <= LIKELY_GUESS:
        return 1
    needed = min_correct
    while chance_of_at_least(needed, tries, chance) > max_luck:
        needed += 1
    return needed


def chance_of_at_least(num: int, tries: int, chance: float) -> float:
    """The probability of at least `num` hits in `tries`, each with this chance.

    >>> chance_of_at_least(1, 2, 0.5), chance_of_at_least(2, 2, 0.5), chance_of_at_least(3, 2, 0.5)
    (0.75, 0.25, 0.0)
    """
    if num > tries:
        return 0.0
    return 1.0 - math.fsum(
        math.comb(tries, i) * chance**i * (1.0 - chance) ** (tries - i) for i in range(num)
    )


def drop_blank_solved(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random
) -> list[Candidate]:
    """Drop most of the problems that need no picture.

    Each of them stays, with all its thoughts, with a probability of `cfg.blank_solved_weight`.
    """
    solved = sorted({c.problem_id for c in candidates if c.is_blank_solved})
    dropped = {id for id in solved if rng.random() >= cfg.blank_solved_weight}
    return [c for c in candidates if c.problem_id not in dropped]


def order_by_preference(
    group: Sequence[Candidate], keep: str, rng: random.Random
) -> list[Candidate]:
    """Order the thoughts about one problem, the preferred ones first (SelectConfig.keep).

    "second_longest" begins with the second longest, goes on with shorter ones and ends with the
    longest; "second_shortest" the other way round.
    """
    shuffled = list(group)
    rng.shuffle(shuffled)
    if keep == "newest":
        return sorted(shuffled, key=lambda c: -c.round)
    if keep == "random":
        return shuffled
    by_length = sorted(group, key=lambda c: (c.num_tokens, c.key), reverse=keep == "second_longest")
    by_length = keep_distinct(by_length, len(by_length), max_overlap=1.0)
    return by_length if keep == "shortest" else [*by_length[1:], *by_length[:1]]


def keep_distinct(ordered: Sequence[Candidate], num: int, max_overlap: float) -> list[Candidate]:
    """Keep the first `num` of those that are not too much like one that is kept before them."""
    kept: list[Candidate] = []
    for c in ordered:
        if len(kept) == num:
            break
        if not any(is_alike(c, other, max_overlap) for other in kept):
            kept.append(c)
    return kept


def is_alike(first: Candidate, second: Candidate, max_overlap: float) -> bool:
    if first.fingerprint == second.fingerprint:
        return True
    return max_overlap < 1.0 and overlap(first.signature, second.signature) > max_overlap


def keep_length_band(candidates: Sequence[Candidate], band: tuple[float, float]) -> list[Candidate]:
    """Keep what lies between two quantiles of thought length of its source, borders included."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for c in candidates:
        lengths[c.source].append(c.num_tokens)
    bounds = {source: _bounds(sorted(values), band) for source, values in lengths.items()}
    return [c for c in candidates if bounds[c.source][0] <= c.num_tokens <= bounds[c.source][1]]


def _bounds(ordered: Sequence[int], band: tuple[float, float]) -> tuple[int, int]:
    """The quantiles, rounded outwards, so that a handful of thoughts loses none."""
    last = len(ordered) - 1
    return ordered[math.floor(band[0] * last)], ordered[math.ceil(band[1] * last)]


def group_by_problem(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for c in candidates:
        groups[c.problem_id].append(c)
    return groups
