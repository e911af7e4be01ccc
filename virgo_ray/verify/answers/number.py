r"""Exact numbers out of text: signs, thousands, decimals, powers of ten, fractions, percent, units.

Guarantees: only ASCII digits count; values are `Fraction`s (no rounding); a literal that would be
larger than MAX_DIGITS digits or 10**MAX_EXPONENT is not computed. No `eval`, no sympy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from virgo_ray.verify.answers.clean import clean, plain
from virgo_ray.verify.answers.units import TABLE, Unit, parse_unit

MAX_DIGITS = 1000
MAX_EXPONENT = 1000

# "1,234", "1 234", "1{,}234": never a leading zero, so that "0,111" is a decimal comma.
_DIGITS = (
    r"(?P<int>[1-9][0-9]{0,2}(?:(?:,|\{,\}|\s)[0-9]{3})+(?![0-9])|[0-9]*)(?:\.(?P<dec>[0-9]*))?"
)
_TEN_TO = (
    r"(?:[eE](?P<exp>[+-]?[0-9]{1,5})(?![0-9A-Za-z])|\s?(?:\\times|\\cdot|\*|x)\s?10\s?(?:\^|\*\*)"
    r"\s?(?:\{\s?(?P<exp2>[+-]?[0-9]{1,5})\s?\}|(?P<exp3>[+-]?[0-9]{1,5})))?"
)
_LITERAL = re.compile(
    rf"(?P<sign>[+-]?)\s?(?P<currency>[$€£¥₹]?)\s?(?P<sign2>[+-]?){_DIGITS}{_TEN_TO}"
)
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)\s?(?P<whole>[0-9]{1,50}(?=\s|\\))?\s?"
    r"(?:\\frac\s?(?:\{\s?(?P<n0>[+-]?[0-9]{1,400})\s?\}\s?\{\s?(?P<d0>[+-]?[0-9]{1,400})\s?\}"
    r"|(?P<n1>[0-9])\s?(?P<d1>[0-9])|(?P<n2>[0-9])\s?\{(?P<d2>[0-9]{1,400})\}"
    r"|\{(?P<n3>[0-9]{1,400})\}\s?(?P<d3>[0-9]))"
    r"|(?P<n4>[0-9]{1,400})\s?/\s?(?P<d4>[0-9]{1,400}))"
)
_DECIMAL_COMMA = re.compile(r"([+-]?[0-9]+),([0-9]+)\b(.{0,40})")
_PERCENT = re.compile(r"\\?%|(?:\\text\s?\{\s?)?(?:percent(?:age)?|pct)\b\s?\}?")
_GROUPED = re.compile(r"\(\s?([^(),]*)\s?\)|\{\s?([^{},]*)\s?\}")
# fmt: off
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)
# fmt: on
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}


@dataclass(frozen=True)
class Number:
    """A value as written; `decimals` counts the digits after the point (None for a fraction)."""

    value: Fraction
    decimals: int | None = 0
    is_percent: bool = False
    unit: Unit | None = None


def parse_number(text: str) -> Number | None:
    r"""The number that `text` is, or None if it is anything else.

    >>> parse_number("1,234.50").value, parse_number(r"3\frac{1}{2} cm").value
    (Fraction(2469, 2), Fraction(7, 2))
    >>> parse_number("AZ2K") is None
    True
    """
    text = clean(text)
    if len(text) > 2 * MAX_DIGITS:
        return None
    grouped = _GROUPED.fullmatch(text)
    text = (grouped.group(1) or grouped.group(2) or "").strip() if grouped else text
    for pattern, build in ((_FRACTION, _fraction), (_LITERAL, _literal)):
        match = pattern.match(text)
        number = build(match) if match else None
        if match and number:
            number = _with_tail(number, text[match.end() :].strip())
            if number is not None:
                return number
    return _spelled_out(text)


def parse_decimal_comma(text: str) -> Number | None:
    """`1,22` read as 1.22: only right where the other side is a plain number (see equal.py)."""
    match = _DECIMAL_COMMA.fullmatch(clean(text))
    return parse_number(f"{match[1]}.{match[2]}{match[3]}") if match else None


def _spelled_out(text: str) -> Number | None:
    first, _, rest = plain(text).lower().partition(" ")
    if first not in _WORDS:
        return None
    return _with_tail(Number(Fraction(_WORDS.index(first))), rest)


def _literal(match: re.Match[str]) -> Number | None:
    whole = re.sub(r"[^0-9]", "", match["int"] or "")
    decimals = match["dec"] or ""
    if not whole and not decimals:
        return None
    exponent = int(match["exp"] or match["exp2"] or match["exp3"] or 0)
    if len(whole) + len(decimals) > MAX_DIGITS or abs(exponent) > MAX_EXPONENT:
        return None
    value = Fraction(int(whole + decimals)) * Fraction(10) ** (exponent - len(decimals))
    sign = -1 if "-" in (match["sign"], match["sign2"]) else 1
    return Number(sign * value, max(0, len(decimals) - exponent), unit=TABLE.get(match["currency"]))


def _fraction(match: re.Match[str]) -> Number | None:
    groups = match.groupdict()
    numerator = next(groups[f"n{i}"] for i in range(5) if groups[f"n{i}"])
    denominator = next(groups[f"d{i}"] for i in range(5) if groups[f"d{i}"])
    if int(denominator) == 0:
        return None
    value = Fraction(int(numerator), int(denominator))
    if groups["whole"]:
        if value < 0:
            return None
        value += int(groups["whole"])
    return Number(-value if groups["sign"] == "-" else value, None)


def _with_tail(number: Number, tail: str) -> Number | None:
    """The number with the percent sign or unit after it; None where something else follows."""
    scale = re.match(r"(thousand|million|billion)(?![a-z])", plain(tail), re.IGNORECASE)
    if scale:
        number = replace(number, value=number.value * _SCALES[scale[1].lower()])
        tail = plain(tail)[scale.end() :].strip()
    percent = _PERCENT.match(tail)
    if percent:
        number = replace(number, is_percent=True)
        tail = tail[percent.end() :].strip()
    if not tail or tail == "\\":
        return number
    unit = parse_unit(tail)
    return replace(number, unit=number.unit or unit) if unit else None
