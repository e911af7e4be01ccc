"""Which correct thoughts to learn from: the paper's recipe, and ours.

Pass rates and the luck of guessers are those of the rule by which problems were asked.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from virgo_ray.config import SelectConfig
from virgo_ray.config.explore import HARD_PASS_RATE
from virgo_ray.records import Candidate
from virgo_ray.selection.balancing import LIMITS, cell
from virgo_ray.selection.measures import overlap
from virgo_ray.selection.own import select_custom
from virgo_ray.stats.stopping import (
    FIXED,
    ROUNDING,
    StoppingRule,
    binomial_tail,
    estimate_pass_rate,
    luck,
)

# A guess counts as likely where a pure guesser would get at least one of n right this often.
LIKELY_GUESS = 0.05


def select(
    candidates: Sequence[Candidate],
    cfg: SelectConfig,
    rng: random.Random,
    rule: StoppingRule = FIXED,
) -> list[Candidate]:
    """Select what to learn from under `cfg.policy`: at most `cfg.max_traces`, ordered by key.

    `cfg.drop_doubted` leaves out what a second opinion doubts; a doubt changes no pass rate. The
    problems were asked by `rule`. `cfg.custom` chooses in place of the policy.

    Raises:
        ConfigError: the user's own function failed, or returned what it was not given.
    """
    trusted = [c for c in candidates if not (cfg.drop_doubted and c.is_doubted)]
    ordered = sorted(trusted, key=lambda c: c.key)
    if cfg.custom is not None:
        kept = select_custom(ordered, cfg.custom, rng)
    else:
        kept = POLICIES[cfg.policy](ordered, cfg, rng, rule)
    if cfg.max_traces is not None:
        kept = LIMITS[cfg.balance](kept, cfg.max_traces, rng, partial(cell, rule=rule))
    return sorted(kept, key=lambda c: c.key)


# -- the paper's -----------------------------------------------------------------------------------


def select_faithful(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random, rule: StoppingRule
) -> list[Candidate]:
    """Take the shortest correct thought of every problem of `cfg.split`.

    What the base solves greedily was never asked, so it is not among the candidates.
    """
    groups = group_by_problem([c for c in candidates if is_in_split(c, cfg, rule)])
    return [min(group, key=lambda c: (c.num_tokens, c.key)) for group in groups.values()]


def is_in_split(candidate: Candidate, cfg: SelectConfig, rule: StoppingRule) -> bool:
    """Whether a candidate belongs to `cfg.split`, by its pass rate.

    A medium problem was solved in at least `min_pass_rate` of its samples (4-5 of 5), a hard one in
    at least 0.4 and is not medium (2-3 of 5). The split random takes every problem.
    """
    pass_rate = estimate_pass_rate(candidate.num_correct, candidate.num_judged, rule)
    is_medium = pass_rate >= cfg.min_pass_rate - ROUNDING
    if cfg.split == "medium":
        return is_medium
    return cfg.split == "random" or (not is_medium and pass_rate >= HARD_PASS_RATE - ROUNDING)


# -- ours ------------------------------------------------------------------------------------------


def select_improved(
    candidates: Sequence[Candidate], cfg: SelectConfig, rng: random.Random, rule: StoppingRule
) -> list[Candidate]:
    """Keep finished thoughts of ordinary length that were hardly guessed: a few per problem, and
    distinct ones."""
    sound = [c for c in candidates if is_sound(c, cfg) and is_believed(c, cfg, rule)]
    seeing = drop_blank_solved(sound, cfg, rng)
    kept = []
    for group in group_by_problem(keep_length_band(seeing, cfg.length_band)).values():
        ordered = order_by_preference(group, cfg.keep, rng)
        kept += keep_distinct(ordered, cfg.max_per_problem, cfg.max_overlap)
    return kept


POLICIES: dict[
    str, Callable[[Sequence[Candidate], SelectConfig, random.Random, StoppingRule], list[Candidate]]
] = {"faithful": select_faithful, "improved": select_improved}


def is_sound(candidate: Candidate, cfg: SelectConfig) -> bool:
    """Whether a thought came to its end, without turning in circles."""
    return (
        candidate.is_complete
        and (candidate.has_thought or not cfg.require_thought)
        and candidate.num_reflections <= cfg.max_reflections
        and candidate.repetition <= cfg.max_repetition
    )


def is_believed(candidate: Candidate, cfg: SelectConfig, rule: StoppingRule) -> bool:
    """Whether so many correct samples are hardly luck: a blind guesser comes by counts like these
    with a probability of at most `cfg.max_luck`.

    Example: of four choices in five tries a guesser gets two right in 37 %, three in 10 % and four
    in 1.6 %: with 0.05 four are needed. `cfg.min_correct` are needed besides where one of them
    could be a guess.
    """
    chance, num, judged = candidate.guess_chance, candidate.num_correct, candidate.num_judged
    if num < cfg.min_correct and binomial_tail(1, judged, chance) > LIKELY_GUESS:
        return False
    return luck(num, judged, chance, rule) <= cfg.max_luck + ROUNDING


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
