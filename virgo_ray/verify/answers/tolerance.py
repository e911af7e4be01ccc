r"""What a gold answer declares about precision, written behind its value.

    "9.81 (tolerance 0.05)"    within 0.05 "9.81 +- 0.05"             the same; "±" and "+/-" too,
    but only where the type is declared a number "9.81 (tolerance 1%)"      within 1 % of the gold
    value "9.81 (2 decimals)"        equal when both are rounded to 2 decimals "9.81 (3 sig figs)"
    equal when both are rounded to 3 significant figures ("3 s.f.")

Without a declaration a decimal equals an exact value only when it agrees to PLACES places.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from virgo_ray.verify.answers.clean import clean
from virgo_ray.verify.answers.number import Number, parse_number

# math-verify's default: 0.333333 is 1/3, 0.333 is not.
PLACES = 6

_DECLARED = re.compile(
    r"^(?P<value>.{1,200}?)\s*[(\[]\s*(?:"
    r"(?:tolerance|tol\.?|within|\\pm)\s*[:=]?\s*(?P<tolerance>[0-9.eE+-]+)\s*(?P<percent>\\?%)?"
    r"|(?:to\s+)?(?P<figures>[0-9]{1,2})\s*(?:s\.?\s?f\.?|sig(?:nificant)?\.?\s*(?:figs?|figures|digits)\.?)"
    r"|(?:to\s+)?(?P<decimals>[0-9]{1,2})\s*(?:d\.?p\.?|decimals?(?:\s+places)?)"
    r")\s*[)\]]$",
    re.IGNORECASE,
)
_PLUS_MINUS = re.compile(
    r"^(?P<value>.{1,200}?)\s*(?:\\pm|\+/?-)\s*(?P<tolerance>[0-9.]+)\s*(?P<percent>\\?%)?$"
)


@dataclass(frozen=True)
class Precision:
    """At most one of the three is set; none means PLACES places."""

    within: Fraction | None = None
    figures: int | None = None
    decimals: int | None = None


def split_precision(gold: str, is_declared_number: bool = False) -> tuple[str, Precision]:
    """(the gold answer without its declaration, the declaration).

    >>> split_precision("9.81 (3 s.f.)")
    ('9.81', Precision(within=None, figures=3, decimals=None))
    """
    text = clean(gold)
    match = _DECLARED.match(text) or (_PLUS_MINUS.match(text) if is_declared_number else None)
    number = parse_number(match["value"]) if match else None
    if match is None or number is None:
        return gold, Precision()
    groups = match.groupdict()
    if groups.get("figures"):
        return match["value"], Precision(figures=int(groups["figures"]))
    if groups.get("decimals"):
        return match["value"], Precision(decimals=int(groups["decimals"]))
    tolerance = parse_number(groups["tolerance"])
    if tolerance is None:
        return gold, Precision()
    within = tolerance.value * (abs(number.value) / 100 if groups["percent"] else 1)
    return match["value"], Precision(within=within)


def agrees(right: Number, given: Number, value: Fraction, precision: Precision) -> bool:
    """Whether `value` (of `given`, perhaps converted) is `right.value` under the precision."""
    if right.value == value:
        return True
    if precision.within is not None:
        return abs(right.value - value) <= precision.within
    if precision.figures is not None:
        return _figures(right.value, precision.figures) == _figures(value, precision.figures)
    if precision.decimals is not None:
        return round(right.value, precision.decimals) == round(value, precision.decimals)
    decimals = [n.decimals for n in (right, given) if n.decimals is not None]
    if not decimals or max(decimals) < PLACES:
        return False
    # Below 0.001 six places are too few digits to call two values the same.
    return abs(value) >= Fraction(1, 1000) and round(right.value, PLACES) == round(value, PLACES)


def _figures(value: Fraction, figures: int) -> Fraction:
    """Rounded to significant figures."""
    if value == 0:
        return value
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    while magnitude <= 0 and abs(value) < Fraction(10) ** (magnitude - 1):
        magnitude -= 1
    return Fraction(round(value, figures - magnitude))
