r"""Whether two quantities are the same: numbers with units, expressions with units, named values.

Units on both sides must agree; a unit on one side only is ignored, but an answer may not add a word
that changes its number ("7 less" is not 7), nor leave out one bare letter, which
may be a variable (5m is not 5).
"""

from __future__ import annotations

import re
from fractions import Fraction

from virgo_ray.verify.answers.clean import clean, plain
from virgo_ray.verify.answers.mathcheck import math_equal
from virgo_ray.verify.answers.nouns import nouns_agree
from virgo_ray.verify.answers.number import Number, parse_number
from virgo_ray.verify.answers.tolerance import Precision, agrees
from virgo_ray.verify.answers.units import Unit, is_measure, lookup, parse_units
from virgo_ray.verify.answers.words import read_words

_NAMED = {
    r"\infty": "infinity +infinity infinite +infty \\infty +\\infty inf oo",
    r"-\infty": "-infinity -\\infty",
    r"\emptyset": "\\emptyset \\varnothing \\{\\} ∅ {}",
}
_NAMES = {word: value for value, words in _NAMED.items() for word in words.split()} | {
    "positive infinity": r"\infty",
    "plus infinity": r"\infty",
    "minus infinity": r"-\infty",
    "negative infinity": r"-\infty",
    "empty set": r"\emptyset",
    "the empty set": r"\emptyset",
    "null set": r"\emptyset",
    "dne": "does not exist",
    "does not exist": "does not exist",
    "doesn't exist": "does not exist",
    "the limit does not exist": "does not exist",
    "无解": r"\emptyset",
    "无穷大": r"\infty",
    "нет решений": r"\emptyset",
    "бесконечность": r"\infty",
}
_NO_SOLUTION = re.compile(
    r"(?:there (?:is|are) )?no (?:real )?(?:solutions?|roots?)(?: exists?| in \\mathbb\{r\})?"
    r"|(?:the )?equation has no (?:real )?solutions?"
)
_CLAUSE = re.compile(
    r"[-+$]{0,2}[0-9][0-9.,/]{0,30}\s+[a-z]{2}[a-z0-9' ]{0,200}"
    r"|[-+$]{0,2}[0-9][0-9.,/]{0,30}\s?[a-z]",
    re.IGNORECASE,
)
_UNIT_BEHIND = re.compile(
    r"^(?P<value>.{1,400}?[0-9A-Za-z)}\]])\s?(?P<unit>\\(?:text|mathrm|textrm|mbox|operatorname)\s?\{"
    r"[^{}]{1,60}(?:\{[^{}]{1,6}\}[^{}]{0,20}){0,3}\}(?:\s?\^\s?\{?\s?-?[0-9]\s?\}?)?"
    r"|\s[a-zA-Zµ°]{2,20}(?:[/^][a-zA-Z0-9^/]{1,10})?)$"
)
_SMALL_ANGLE = re.compile(r"\\pi|\bpi\b")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_BASE = re.compile(
    r"^\(?(?P<digits>[0-9A-F ]{1,60}?)\s?\)?\s?"
    r"(?:_\s?\{?\s?\\?\(?\s?"
    r"(?P<sub>(?:\\text\s?\{\s?)?[a-z-]{3,12}\s?\}?|[0-9]{1,2})"
    r"\s?\)?\s?\}?|\(?\s?(?:\\text\s?\{\s?)?"
    r"\(?(?:in )?base[ -](?P<word>[a-z-]{3,12}|[0-9]{1,2})\s?\)?\}?\s?\)?)$"
)


def named_value(text: str) -> str:
    r"""What "infinity", "no solution", `\varnothing` are called here; empty for other texts.

    >>> named_value(r"\text{no real solutions}"), named_value("minus infinity"), named_value("7")
    ('\\emptyset', '-\\infty', '')
    """
    if len(text) > 100:
        return ""
    bare = clean(text)
    bare = bare if bare in _NAMES else plain(text).strip(" .!").lower()
    if _NO_SOLUTION.fullmatch(bare):
        return r"\emptyset"
    return _NAMES.get(bare, "")


def base_in_digits(text: str) -> str:
    r"""`64_{\text{seven}}` and "64 (base 7)" as `64_7`; other texts unchanged.

    >>> base_in_digits(r"64_{\text{seven}}"), base_in_digits("101 base two"), base_in_digits("x_1")
    ('64_7', '101_2', 'x_1')
    """
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]{1,2}$", lambda m: "_" + m.group().translate(_SUBSCRIPTS), text)
    match = _BASE.match(text)
    if match is None:
        return text
    name = re.sub(r"\\text|[{}\s]", "", match["sub"] or match["word"])
    read = read_words(name.replace("-", " ").split())
    base = int(name) if name.isdigit() else int(read[0]) if read else 0
    return f"{match['digits'].strip()}_{base}" if 2 <= base <= 36 else text


def is_clause(text: str) -> bool:
    """Whether it is a number that goes on in words which are no unit: "7 or so", "7 to be safe"."""
    return _CLAUSE.fullmatch(plain(text)) is not None and parse_number(text) is None


def quantities_equal(right: Number, given: Number, precision: Precision) -> bool:
    """Whether two numbers agree, in value, unit, noun and label."""
    if right.label and given.label and right.label != given.label:
        return False
    if right.units and right.units[0].is_letter and not given.units:
        return False  # "5m" may be five times m
    if right.is_percent != given.is_percent and _has_kind(given if right.is_percent else right):
        return False  # a percentage is no sum of money
    right, given = _with_suffix_as_unit(right, given), _with_suffix_as_unit(given, right)
    if right.units and given.units:
        pairs = [(a, b) for a in right.units for b in given.units]
        return any(_equal_in_units(right, a, given, b, precision) for a, b in pairs)
    if any(unit.noun.is_changing for unit in given.units):
        return False
    return _values_agree(right, given, given.value, precision)


def _has_kind(number: Number) -> bool:
    """Whether it says what it counts or measures."""
    return any(unit.dims or unit.noun.words for unit in number.units)


def _values_agree(right: Number, given: Number, value: Fraction, precision: Precision) -> bool:
    values = [value]
    if right.is_percent != given.is_percent:  # "10%" is 10 with the sign forgotten, and is 0.1
        values.append(value / 100 if given.is_percent else value * 100)
    return any(agrees(right, given, candidate, precision) for candidate in values)


def _with_suffix_as_unit(number: Number, other: Number) -> Number:
    """300K beside 27 degrees Celsius is 300 kelvin, not 300,000."""
    units = lookup(number.suffix) if number.suffix and is_measure(other.units) else ()
    if not units or not any(unit.dims == seen.dims for unit in units for seen in other.units):
        return number
    return Number(number.value / number.scale, number.decimals, units=units)


def _equal_in_units(right: Number, a: Unit, given: Number, b: Unit, precision: Precision) -> bool:
    if not nouns_agree(a.noun, b.noun):
        return False
    if not a.dims or not b.dims:
        # "5 km" is not "5 pears", but may be "5 units".
        named = (not a.dims and a.noun.words) or (not b.dims and b.noun.words)
        is_same = a.dims == b.dims or not named
        return is_same and _values_agree(right, given, given.value, precision)
    if a.dims != b.dims:
        return False
    value = (given.value + b.offset) * b.size / a.size - a.offset
    return _values_agree(right, given, value, precision)


# --- expressions ---------------------------------------------------------------------------------


def split_unit(text: str) -> tuple[str, tuple[Unit, ...]]:
    r"""(the expression, the unit behind it): `2\sqrt{3}\text{ cm}` has a unit of length.

    >>> split_unit(r"2\sqrt{3}\text{ cm}")[0], split_unit("x+1")
    ('2\\sqrt{3}', ('x+1', ()))
    """
    match = _UNIT_BEHIND.match(text)
    units = parse_units(match["unit"]) if match else ()
    is_unit = is_measure(units) or any(not unit.noun.words for unit in units)
    if match is None or not is_unit or any(unit.noun.words for unit in units):
        return text, ()
    return match["value"].strip(), units


def expressions_equal(gold: str, answer: str) -> bool:
    """Mathematical equality, with the units behind the expressions.

    Raises:
        RefusedError: one of them was not tried.
    """
    angle = _equal_as_angles(gold, answer)
    if angle is not None:
        return angle
    (right, a), (given, b) = split_unit(gold), split_unit(answer)
    if not a or not b:
        return math_equal(right if a else gold, given if b else answer)
    fitting = [(x, y) for x in a for y in b if x.dims == y.dims]
    if not fitting:
        return False
    ratio = fitting[0][1].size / fitting[0][0].size
    if ratio == 1:
        return math_equal(right, given)
    if fitting[0][0].offset or fitting[0][1].offset or ratio.denominator > 10**12:
        return False
    return math_equal(right, rf"\frac{{{ratio.numerator}}}{{{ratio.denominator}}}({given})")


def _equal_as_angles(gold: str, answer: str) -> bool | None:
    r"""30^\circ and \frac{\pi}{6}; None where no side is in degrees or none has a π."""
    for one, other in ((gold, answer), (answer, gold)):
        degrees = parse_number(one)
        if degrees is None or not _is_in_degrees(degrees) or not _SMALL_ANGLE.search(other):
            continue
        if "\\circ" in other:
            return False
        radians, units = split_unit(other)
        if units and not any(unit.size != 1 and unit.dims == (("angle", 1),) for unit in units):
            return False
        value = degrees.value / 180
        if value.denominator > 10**9 or abs(value.numerator) > 10**9:
            return False
        return math_equal(rf"\frac{{{value.numerator}\pi}}{{{value.denominator}}}", radians)
    return None


def _is_in_degrees(number: Number) -> bool:
    return any(unit.dims == (("angle", 1),) and unit.size == 1 for unit in number.units)
