r"""Numbers written in digits: decimals, thousands, powers of ten, fractions, repeating decimals.

Thousands are grouped as in "1,234,567", "1 234 567", "1'234'567", "1.234.567" (two points at
least, or with a decimal comma behind), and in India "34,56,789".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 1000
MAX_EXPONENT = 1000


@dataclass(frozen=True)
class Literal:
    """`end` is where it ends in its text; `decimals` as in Number."""

    value: Fraction
    decimals: int | None
    end: int


# Never a leading zero, so that "0,111" is a decimal comma.
_INT = (
    r"(?P<int>[1-9][0-9]{0,2}(?:(?:,|\{,\}|\s|')[0-9]{3})+(?![0-9])|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?![0-9,])"
    r"|[0-9]*)"
)
_DIGITS = rf"{_INT}(?:\.(?P<dec>[0-9]*))?"
_TEN_TO = (
    r"(?:[eE](?P<exp>[+-]?[0-9]{1,5})(?![0-9A-Za-z])|\s?(?:\\times|\\cdot|\*|x)\s?10\s?(?:\^|\*\*)"
    r"\s?(?:\{\s?(?P<exp2>[+-]?[0-9]{1,5})\s?\}|(?P<exp3>[+-]?[0-9]{1,5})))?"
)
_SIGN = r"(?P<sign>[+-]?)\s?"
_LITERAL = re.compile(rf"{_SIGN}{_DIGITS}{_TEN_TO}")
_POINTS = re.compile(
    rf"{_SIGN}(?P<int>[1-9][0-9]{{0,2}}(?:(?:\.[0-9]{{3}})+|(?:\s[0-9]{{3}})+))(?:,(?P<dec>[0-9]{{1,9}}))?(?![0-9.,])"
)
_POWER_OF_TEN = re.compile(
    rf"{_SIGN}10\s?\^\s?(?:\{{\s?(?P<exp>[+-]?[0-9]{{1,4}})\s?\}}|(?P<exp2>-?[0-9]{{1,4}}))(?![0-9])"
)
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)\s?(?P<whole>[0-9]{1,50}(?=\s|\\))?\s?"
    r"(?:\\frac\s?(?:\{\s?(?P<n0>[+-]?[0-9]{1,400})\s?\}\s?\{\s?(?P<d0>[+-]?[0-9]{1,400})\s?\}"
    r"|(?P<n1>[0-9])\s?(?P<d1>[0-9])|(?P<n2>[0-9])\s?\{(?P<d2>[0-9]{1,400})\}"
    r"|\{(?P<n3>[0-9]{1,400})\}\s?(?P<d3>[0-9]))"
    r"|(?P<n4>[0-9]{1,400})\s?/\s?(?P<d4>[0-9]{1,400}))"
)
_BAR = r"\\(?:overline|bar|dot|overbar|widebar)\s?"
_REPEATING = re.compile(
    rf"{_SIGN}(?P<int>[0-9]{{0,30}})\.(?P<dec>[0-9]{{0,60}})(?:"
    rf"{_BAR}\{{\s?(?P<bar>[0-9]{{1,60}})\s?\}}|\(\s?(?P<paren>[0-9]{{1,60}})\s?\)"
    rf"|\\dot\s?(?P<one>[0-9]))"
)
_DOTTED = re.compile(
    rf"{_SIGN}(?P<int>[0-9]{{0,30}})\.(?P<dec>[0-9]{{0,60}})\\dot\s?\{{?(?P<first>[0-9])\}}?"
    r"(?P<middle>[0-9]{0,60})\\dot\s?\{?(?P<last>[0-9])\}?"
)
_DOTS = r"\s?(?:\.{3}|…|\\l?dots[cbm]?(?![a-z])|\\cdots)"
_ELLIPSIS = re.compile(rf"{_SIGN}(?P<int>[0-9]{{0,30}})\.(?P<dec>[0-9]{{2,60}}){_DOTS}")


def read_literal(text: str, is_fraction: bool = False) -> Literal | None:
    r"""The number that a text begins with, None where it does not begin with one.

    >>> read_literal("34,56,789").value, read_literal("1.234,5").value
    (Fraction(3456789, 1), Fraction(2469, 2))
    >>> read_literal(r"0.1\overline{6}").value, read_literal("0.2727...").value
    (Fraction(1, 6), Fraction(3, 11))
    """
    if is_fraction:
        match = _FRACTION.match(text)
        return _fraction(match) if match else None
    for pattern, build in _FORMS:
        match = pattern.match(text)
        literal = build(match) if match else None
        if literal:
            return literal
    return None


def _repeating(match: re.Match[str]) -> Literal | None:
    block = match["bar"] or match["paren"] or match["one"]
    return _repeat(match, match["dec"], block)


def _dotted(match: re.Match[str]) -> Literal | None:
    return _repeat(match, match["dec"], match["first"] + match["middle"] + match["last"])


def _ellipsis(match: re.Match[str]) -> Literal | None:
    """ "0.1666...": the shortest block that the digits end with at least twice."""
    digits = match["dec"]
    for length in range(1, len(digits) // 2 + 1):
        block = digits[-length:]
        if digits.endswith(block * (3 if length == 1 and len(digits) > 2 else 2)):
            return _repeat(match, digits, block)
    return None


def _repeat(match: re.Match[str], digits: str, block: str) -> Literal:
    value = Fraction(int(match["int"] + digits or "0"), 10 ** len(digits))
    value += Fraction(int(block), (10 ** len(block) - 1) * 10 ** len(digits))
    return Literal(-value if match["sign"] == "-" else value, None, match.end())


def _points(match: re.Match[str]) -> Literal | None:
    """ "8.250.000", "1.234,5", "1 234,5"; "1.234" alone is a decimal."""
    if match["int"].count(".") < 2 and not match["dec"]:
        return None
    decimals = match["dec"] or ""
    value = Fraction(int(re.sub(r"[.\s]", "", match["int"]) + decimals), 10 ** len(decimals))
    return Literal(-value if match["sign"] == "-" else value, len(decimals), match.end())


def _power_of_ten(match: re.Match[str]) -> Literal | None:
    exponent = int(match["exp"] or match["exp2"])
    if abs(exponent) > MAX_EXPONENT:
        return None
    value = Fraction(10) ** exponent
    return Literal(-value if match["sign"] == "-" else value, max(0, -exponent), match.end())


def _literal(match: re.Match[str]) -> Literal | None:
    whole = re.sub(r"[^0-9]", "", match["int"] or "")
    decimals = match["dec"] or ""
    if not whole and not decimals:
        return None
    exponent = int(match["exp"] or match["exp2"] or match["exp3"] or 0)
    if len(whole) + len(decimals) > MAX_DIGITS or abs(exponent) > MAX_EXPONENT:
        return None
    value = Fraction(int(whole + decimals)) * Fraction(10) ** (exponent - len(decimals))
    value = -value if match["sign"] == "-" else value
    return Literal(value, max(0, len(decimals) - exponent), match.end())


def _fraction(match: re.Match[str]) -> Literal | None:
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
    return Literal(-value if groups["sign"] == "-" else value, None, match.end())


_FORMS = (
    (_DOTTED, _dotted),
    (_REPEATING, _repeating),
    (_ELLIPSIS, _ellipsis),
    (_POINTS, _points),
    (_POWER_OF_TEN, _power_of_ten),
    (_LITERAL, _literal),
)
