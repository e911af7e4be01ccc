r"""Multiple choice: which option an answer means, by letter or by text.

Guarantees: an answer whose letter and text disagree names no option. Options are lettered A, B, C
... in the order given.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from virgo_ray.records import AnswerType, Problem
from virgo_ray.verify.answers.clean import plain, words
from virgo_ray.verify.answers.number import parse_number

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABEL = r"(?:\(\s?([A-Za-z])\s?\)|\[\s?([A-Za-z])\s?\]|([A-Za-z]))"
_ONLY_LETTER = re.compile(rf"(?:(?:option|choice|answer)\s)?\s?{_LABEL}\s?[.):,]?", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(
    r"(?:option\s|choice\s)?(?:\(\s?([A-Za-z])\s?\)|([A-Za-z])\s?[.):]|([A-Z])(?=\s(?:is|-)\s))\s?(.+)",
    re.IGNORECASE | re.DOTALL,
)
# A letter that stands alone in a sentence; "A" and "I" are also words, "E*2" and "f(A)" are not
# answers.
_STANDALONE = re.compile(
    r"(?<![A-Za-z0-9'\\*+/^_(])(?:\(([A-Z])\)|([B-HJ-Z])|(A)(?=[.,;:)]|\s?$|\s(?:or|and)\b))(?![A-Za-z0-9'(*+/^_=])"
)


def letter_of(text: str) -> str | None:
    r"""The letter of a bare choice such as "B", "(b)", "B.", "\text{(C)}", "option D".

    >>> letter_of(r"\text{(C)}"), letter_of("C. x = 42"), letter_of("Cat")
    ('C', None, None)
    """
    match = _ONLY_LETTER.fullmatch(plain(text))
    return next(g for g in match.groups() if g).upper() if match else None


def same_option(text: str, option: str) -> bool:
    """Whether a text is the text of an option: equal words or the same number."""
    if words(text) and words(text) == words(option):
        return True
    number, of_option = parse_number(text), parse_number(option)
    if number is None or of_option is None:
        return _squeezed(text) == _squeezed(option) != ""
    return number.value == of_option.value and (
        number.is_percent == of_option.is_percent or not number.is_percent
    )


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", plain(text))


def chosen(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer means.

    None where it names none, an option that does not exist, or contradicts itself.

    >>> chosen("B. 12", ["10", "12"]), chosen("12", ["10", "12"]), chosen("A. 12", ["10", "12"])
    ('B', 'B', None)
    """
    letter = letter_of(text)
    if letter is not None and (not options or LETTERS.index(letter) < len(options)):
        return letter
    by_text = [LETTERS[i] for i, option in enumerate(options) if same_option(text, option)]
    if len(by_text) == 1:
        return by_text[0]
    match = _LETTER_AND_TEXT.fullmatch(plain(text))
    if match is None or by_text:
        return None
    letter = next(g for g in match.groups()[:3] if g).upper()
    return letter if _agrees(letter, match[4], options) else None


def _agrees(letter: str, text: str, options: Sequence[str]) -> bool:
    """Whether the text after a letter does not name another option."""
    if not options:
        return True
    named = [LETTERS[i] for i, option in enumerate(options) if same_option(text, option)]
    return LETTERS.index(letter) < len(options) and (not named or letter in named)


def mentioned(text: str, num_options: int) -> str | None:
    """The one option letter that a sentence mentions; None where it mentions none or several."""
    found = {next(g for g in m.groups() if g) for m in _STANDALONE.finditer(plain(text))}
    allowed = found & set(LETTERS[: num_options or 8])
    return allowed.pop() if len(allowed) == 1 else None


def permuted(problem: Problem, seed: int) -> Problem:
    """The same choice problem with its options in another order and its gold letter moved along.

    Asking again under other orders tells a solver from a guesser that likes one letter. The id gets
    the suffix `~p<seed>`, so that both forms can live in one buffer; labels in the options go. What
    is no choice comes back as it is.

    >>> again = permuted(Problem("p", "?", "A", options=("3", "5", "8")), seed=1)
    >>> again.options["ABC".index(again.answer)]
    '3'
    """
    is_choice = problem.answer_type in (AnswerType.AUTO, AnswerType.CHOICE)
    right = chosen(problem.answer, problem.options) if is_choice else None
    if right is None or len(set(problem.options)) < 2:
        return problem
    rng, options = random.Random(f"{problem.id}/{seed}"), without_labels(problem.options)
    order = list(range(len(options)))
    while order == sorted(order):
        rng.shuffle(order)
    return replace(
        problem,
        id=f"{problem.id}~p{seed}",
        options=tuple(options[i] for i in order),
        answer=LETTERS[order.index(LETTERS.index(right))],
    )


def chosen_option(text: str, options: Sequence[str]) -> str | None:
    """The text of the option that an answer means, whatever its letter: comparable between orders.

    >>> chosen_option("(B)", ["A. 3", "B. 5"]), chosen_option("A", ["5", "3"])
    ('5', '5')
    """
    letter = chosen(text, options) if options else None
    return without_labels(options)[LETTERS.index(letter)] if letter else None


def without_labels(options: Sequence[str]) -> list[str]:
    """Options without the labels "A.", "(B)" ... that they may carry, if all do.

    >>> without_labels(["A. red", "B. blue"]), without_labels(["A. red", "blue"])
    (['red', 'blue'], ['A. red', 'blue'])
    """
    labels = [re.compile(rf"\s*\(?{letter}\s*[).:]\s*(?=\S)") for letter in LETTERS]
    pairs = list(zip(labels, options, strict=False))
    if not all(label.match(option) for label, option in pairs):
        return list(options)
    return [label.sub("", option, count=1) for label, option in pairs]
