"""Gold answers: what they say, and whether they can be judged against at all.

Gold answers are checked when problems are loaded, before anything expensive starts: each is judged
against itself, so one that no response could ever match is found at once. `process/golds.py` does
it with a deadline.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from virgo_ray.records import AnswerType
from virgo_ray.verify.answers.choice import LETTERS, chosen
from virgo_ray.verify.answers.clean import clean, words
from virgo_ray.verify.answers.equal import equal
from virgo_ray.verify.answers.extract import extract
from virgo_ray.verify.answers.infer import infer_type
from virgo_ray.verify.answers.mathcheck import RefusedError, is_constant, parses
from virgo_ray.verify.answers.number import parse_decimal_comma, parse_number
from virgo_ray.verify.answers.shape import parse_parts, parse_shape, without_assignment
from virgo_ray.verify.answers.tolerance import split_precision
from virgo_ray.verify.answers.truth import NO, YES

# A gold answer longer than this, or with a box in it, is a worked solution: its answer is
# extracted.
MAX_CHARS = 200

# No command, power, brace or underscore: short arithmetic and short words at most.
_PLAIN = re.compile(r"[A-Za-z0-9 .,:;%$/'?|()+-]{1,60}")
_NEEDS_SHAPE = {
    AnswerType.SET: ("set", "list"),
    AnswerType.TUPLE: ("tuple", "interval", "list"),
    AnswerType.INTERVAL: ("interval", "tuple", "union"),
    AnswerType.MATRIX: ("matrix",),
    AnswerType.LIST: ("list", "tuple", "set", "interval"),
}


def gold_answer(gold: str) -> str:
    r"""The answer in a gold text, which may be a whole solution.

    >>> gold_answer(r"We add, so it is $\boxed{12}$."), gold_answer("12 cm")
    ('12', '12 cm')
    """
    has_box = "\\boxed" in gold or "\\fbox" in gold
    if has_box or len(gold) > MAX_CHARS or "\n" in gold.strip():
        return extract(gold).answer or gold
    return gold


def gold_fault(answer: str, answer_type: AnswerType, options: Sequence[str] = ()) -> str:
    """What is wrong with a gold answer; empty where nothing is.

    >>> gold_fault("12", AnswerType.AUTO), gold_fault("12", AnswerType.MATRIX)
    ('', "its answer '12' is not a matrix; expected the form of a matrix")
    """
    gold = gold_answer(answer)
    try:
        _check(gold, answer_type, options)
    except RefusedError as refused:
        return _describe(answer, f"cannot be judged ({refused})", "a shorter or simpler form")
    except _GoldError as error:
        return _describe(answer, error.is_wrong, error.expected)
    return ""


def unjudged(answer: str, reason: str) -> str:
    """The fault of a gold answer that was not judged in time, or ended its process."""
    return _describe(answer, f"cannot be judged ({reason})", "a shorter or simpler form")


def is_plain(answer: str, options: Sequence[str] = ()) -> bool:
    """Whether a gold answer is so short and simple that no comparison with it can take long.

    >>> [is_plain(a) for a in ("12.5 cm", "(B)", "red circle", "2^{30}", "a_b = c", "x" * 99)]
    [True, True, True, False, False, False]
    """
    texts = (answer, *options)
    return all(_PLAIN.fullmatch(text) for text in texts)


class _GoldError(Exception):
    """A gold answer that cannot be used: what `is_wrong`, and what was `expected`."""

    def __init__(self, is_wrong: str, expected: str) -> None:
        super().__init__(is_wrong, expected)
        self.is_wrong, self.expected = is_wrong, expected


def _check(gold: str, answer_type: AnswerType, options: Sequence[str]) -> None:
    if not clean(gold):
        raise _GoldError("is empty", "an answer")
    if answer_type is AnswerType.AUTO:
        answer_type = infer_type(gold, options)
    _check_type(gold, answer_type, options)
    if not equal(gold, _one_form(gold, answer_type), answer_type, options):
        raise _GoldError("does not equal itself", "an answer the verifier can read")


def _one_form(gold: str, answer_type: AnswerType) -> str:
    """What a response would say: without aliases and declared precision."""
    if answer_type is AnswerType.TEXT:
        return gold.split("|")[0]
    if answer_type is AnswerType.NUMBER:
        return split_precision(gold, is_declared_number=True)[0]
    return gold


def _check_type(gold: str, answer_type: AnswerType, options: Sequence[str]) -> None:
    if len(options) > len(LETTERS):
        raise _GoldError(f"has {len(options)} options", f"at most {len(LETTERS)}")
    is_choice = answer_type is AnswerType.CHOICE
    if options and is_choice and chosen(gold, options) is None:
        letters = f"A to {LETTERS[len(options) - 1]}"
        raise _GoldError("names none of its options", f"{letters} or the text of one option")
    value, _ = split_precision(gold, is_declared_number=True)
    if answer_type is AnswerType.NUMBER and not _is_number(value):
        raise _GoldError("is not a number", "for example 12.5, 3/4 or 1.2 \\times 10^3")
    if answer_type is AnswerType.YES_NO and words(gold) not in YES | NO:
        raise _GoldError("is neither yes nor no", "yes, no, true or false")
    if answer_type is AnswerType.PARTS and not (parse_parts(gold) or parse_shape(gold)):
        raise _GoldError("has no parts", 'for example "(a) 3 (b) 4"')
    kinds = _NEEDS_SHAPE.get(answer_type)
    shape = parse_shape(gold) or parse_shape(without_assignment(clean(gold)))
    if kinds and (shape is None or shape.kind not in kinds):
        raise _GoldError(f"is not a {answer_type.value}", f"the form of a {answer_type.value}")
    is_formula = answer_type in (AnswerType.EXPRESSION, AnswerType.EQUATION)
    if is_formula and not parses(clean(gold)):
        raise _GoldError("is not readable as LaTeX", "LaTeX mathematics, or answer_type: text")


def _is_number(text: str) -> bool:
    return bool(parse_number(text) or parse_decimal_comma(text)) or _is_constant(text)


def _is_constant(text: str) -> bool:
    """A declared number may be an exact expression such as 3\\sqrt{2}."""
    try:
        return is_constant(clean(text))
    except RefusedError:
        return False


def _describe(answer: str, is_wrong: str, expected: str) -> str:
    return f"its answer {answer[:100]!r} {is_wrong}; expected {expected}"
