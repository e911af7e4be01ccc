r"""Of which type a gold answer is, when the problem does not say.

Never inferred, only declared: LIST (order matters without brackets) and a text that looks like
something else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from virgo_ray.records import AnswerType
from virgo_ray.verify.answers.choice import chosen, letter_of
from virgo_ray.verify.answers.clean import clean, plain, words
from virgo_ray.verify.answers.number import parse_decimal_comma, parse_number
from virgo_ray.verify.answers.shape import parse_parts, parse_shape, without_assignment
from virgo_ray.verify.answers.tolerance import split_precision
from virgo_ray.verify.answers.truth import NO, YES
from virgo_ray.verify.answers.units import is_measure, parse_units

_OF_SHAPE = {
    "set": AnswerType.SET,
    "list": AnswerType.SET,
    "tuple": AnswerType.TUPLE,
    "interval": AnswerType.INTERVAL,
    "union": AnswerType.INTERVAL,
    "matrix": AnswerType.MATRIX,
}
_RELATION = re.compile(r"(?<![\\])(?:=|<|>|\\(?:leq?|geq?|neq?|lt|gt|approx)(?![a-zA-Z]))")
# Two to four letters without a vowel; y only beside x or z.
_PRODUCT = re.compile(
    r"(?!tv|pm|dr|mr|ms|st|vs|ok|pc|cd|dvd|th|nd|rd|hm|shh|rng|gym|sky|fly|dry)"
    r"(?:[b-df-hj-np-tv-xzA-Z]{2,4}|[b-df-hj-np-tv-z]{0,2}(?:xy|yz|zy|yx)[b-df-hj-np-tv-z]{0,2}|abc?d?|acd?|ma)"
)
_MONOMIAL = re.compile(r"(?<=[0-9}])(?!st|nd|rd|th|pm|am|px|pt|pc)([a-zA-Z]{2,4})$")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '\-,.&/]{1,2}[^\W\d_]+)*[.!]?(?:\s\([^()]*\))?")


def infer_type(gold: str, options: Sequence[str] = ()) -> AnswerType:
    """The type of a gold answer.

    >>> [infer_type(g).value for g in ("12 cm", "yes", "(B)", "red circle", "(1, 2]", r"\\sqrt2")]
    ['number', 'yes_no', 'choice', 'text', 'interval', 'expression']
    """
    if options and chosen(gold, options):
        return AnswerType.CHOICE
    value, _ = split_precision(gold)
    if is_monomial(value):
        return AnswerType.EXPRESSION
    if parse_number(value) is not None or parse_decimal_comma(value) is not None:
        return AnswerType.NUMBER
    text = words(gold)
    if text in (YES | NO) - {"right"} and len(text) > 1:  # "right" is a side more often
        return AnswerType.YES_NO
    if letter_of(gold) and plain(gold).strip("().") in set("ABCDEFGH"):
        return AnswerType.CHOICE
    if is_words(gold) and not _is_formula(plain(gold)):
        return AnswerType.TEXT
    return _infer_structure(gold)


def is_monomial(text: str) -> bool:
    """Whether letters right behind a number are variables: `2ab`, not `2cm`, `2nd` and `2 ab`.

    >>> [is_monomial(text) for text in ("2ab", r"\\frac{1}{2}bh", "12cm", "2nd", "9customers")]
    [True, True, False, False, False]
    """
    match = _MONOMIAL.search(clean(text)[-60:])
    if match is None:
        return False
    number = parse_number(text)
    if number is not None and number.scale != 1:  # 2.5bn
        return False
    return not is_measure(parse_units(match[1])) and (len(match[1]) == 2 or _is_product(match[1]))


def _is_formula(text: str) -> bool:
    """A product of letters, or a quotient of products: `nRT/V`, not `his/her`."""
    if text.lower() in ("n/a", "w/o", "a/c", "b/c"):
        return False
    parts = text.split("/")
    if len(parts) == 1:
        return _is_product(text)
    is_short = all(len(part) <= 4 for part in parts)
    is_capital = text.isupper() and all(len(part) <= 3 for part in parts)
    return is_capital or any(_is_product(p) or (is_short and len(p) == 1) for p in parts)


def _is_product(text: str) -> bool:
    """Letters that make no word, as in `mgh`, `xy`, `nRT`; capitals alone may be an acronym."""
    if _PRODUCT.fullmatch(text) is None or text.isupper():
        return False
    return not is_measure(parse_units(text))


def _infer_structure(gold: str) -> AnswerType:
    if parse_parts(gold):
        return AnswerType.PARTS
    shape = parse_shape(gold) or parse_shape(without_assignment(clean(gold)))
    if shape:
        return _OF_SHAPE[shape.kind]
    return AnswerType.EQUATION if _RELATION.search(clean(gold)) else AnswerType.EXPRESSION


def is_words(text: str) -> bool:
    r"""Plain words, as in "red circle", "NYC | New York": nothing that could be mathematics."""
    bare = plain(text)
    return "\\" not in bare and all(_WORDS.fullmatch(part.strip()) for part in bare.split("|"))
