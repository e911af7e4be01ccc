"""Kinds of answers that can never be believed, named before anything is sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from virgo_ray.config import Config
from virgo_ray.errors import ConfigError
from virgo_ray.records import AnswerType, Problem
from virgo_ray.selection.exploration import stopping_rule
from virgo_ray.stats.stopping import ROUNDING, StoppingRule, luck
from virgo_ray.verify.answers.choice import letter_of
from virgo_ray.verify.answers.clean import words
from virgo_ray.verify.answers.gold import gold_answer
from virgo_ray.verify.answers.infer import infer_type
from virgo_ray.verify.answers.truth import NO, YES
from virgo_ray.verify.verdict import guess_chance

MAX_SAMPLES = 100  # more are no advice
MAX_CHARS = 30  # of a letter, yes or no, with what may stand around it


def name_unbelievable(problems: Sequence[Problem], cfg: Config) -> list[str]:
    """A line for every chance of a blind guess with which a problem that is always solved is not
    learned from; none where it meets `select.max_luck`, and of a run that explores nothing.

    Raises:
        ConfigError: no problem can be learned from, however many of its rollouts are right.
    """
    if cfg.select.policy != "improved" or not cfg.rounds:
        return []
    rule, limit = stopping_rule(cfg.explore), cfg.select.max_luck + ROUNDING
    suspects = (
        p for p in problems if any(_least_luck(c, rule) > limit for c in _possible_chances(p))
    )
    counts = Counter(map(_chance_of, suspects))
    wrong = [chance for chance in sorted(counts) if _least_luck(chance, rule) > limit]
    hopeless = [chance for chance in wrong if not _may_be_believed(chance, rule, limit)]
    lines = [
        f"data.train: {counts[chance]} of {len(problems)} problems are "
        f"{'never learned from' if chance in hopeless else 'not learned from if always solved,'} "
        f"with select.max_luck={cfg.select.max_luck:g}: a blind guess is right in {chance:.3g}, "
        f"and a guesser passes for one who is always right in {_least_luck(chance, rule):.3g} "
        f"({rule.num_when_all_are_correct()} rollouts); expected {_advise(chance, rule, limit)}"
        for chance in wrong
    ]
    if hopeless and sum(counts[chance] for chance in hopeless) == len(problems):
        raise ConfigError("\n".join([*lines, "no problem is left to learn from"]))
    return lines


def _possible_chances(problem: Problem) -> list[float]:
    """Those of all kinds of answers that this one could be, besides 0, without inferring which: of
    an option's text that takes milliseconds."""
    if problem.answer_type is not AnswerType.AUTO:
        return [guess_chance(problem.answer_type, problem.options)]
    is_truth = words(gold_answer(problem.answer)) in YES | NO
    kinds = (AnswerType.CHOICE, AnswerType.YES_NO) if is_truth else (AnswerType.CHOICE,)
    return [guess_chance(kind, problem.options) for kind in kinds]


def _chance_of(problem: Problem) -> float:
    answer_type = problem.answer_type
    if answer_type is AnswerType.AUTO:
        gold = gold_answer(problem.answer)
        if not problem.options and not _may_be_guessed(gold):
            return 0.0
        answer_type = infer_type(gold, problem.options)
    return guess_chance(answer_type, problem.options)


@lru_cache(4096)
def _may_be_guessed(gold: str) -> bool:
    """Whether this is a letter, yes or no, and not surely something else: to infer the type of
    every answer takes milliseconds each."""
    if len(gold) > MAX_CHARS or not any(map(str.isalpha, gold)):
        return False
    return letter_of(gold) is not None or words(gold) in YES | NO


@lru_cache(4096)
def _least_luck(chance: float, rule: StoppingRule) -> float:
    """That of a problem whose rollouts are all right."""
    num = rule.num_when_all_are_correct()
    return luck(num, num, chance, rule)


def _may_be_believed(chance: float, rule: StoppingRule, limit: float) -> bool:
    """Whether any counts are enough: right after a wrong one, a problem is asked more often."""
    tries = range(rule.num_samples, rule.most + 1)
    return any(luck(rule.most_correct(num), num, chance, rule) <= limit for num in tries)


def _advise(chance: float, rule: StoppingRule, limit: float) -> str:
    """The fewest samples that would do, and the luck that would."""
    least = _least_luck(chance, rule)
    enough = (
        num
        for num in range(rule.num_samples + 1, MAX_SAMPLES)
        if _least_luck(chance, replace(rule, num_samples=num)) <= limit
    )
    if (num := next(enough, None)) is None:
        return "problems with more than one possible answer"
    more = f"explore.num_samples={num}"
    if rule.max_extra and rule.until_correct < num:
        more += f" (or explore.extra.until_correct={num} with as many samples)"
    return f"{more}, or select.max_luck={least + 0.0005:.3f}"
