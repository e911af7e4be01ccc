r"""What a gold answer declares about precision, written behind its value.

Five forms are known; the first four stand in round or square brackets:

    9.81 (tolerance 0.05)   the answer lies within 0.05; also: tol., within, ±
    9.81 (tolerance 1%)     the answer lies within 1 % of the gold value
    9.81 (2 decimals)       both are equal once rounded to 2 decimals; also: decimal places, d.p.
    9.81 (3 sig figs)       both are equal once rounded to 3 significant figures; also: s.f.
    9.81 +- 0.05            as (tolerance 0.05), without brackets; also: ±, +/-, and with %

The last form counts only where the type is declared a number, because elsewhere "2 ± 1" is an
answer of two values. Without a declaration a decimal equals an exact value only when it agrees to
PLACES places.

>>> split_precision("9.81 (tolerance 0.05)")
('9.81', Precision(within=Fraction(1, 20), figures=None, decimals=None))
>>> split_precision("9.81 (tolerance 1%)")[1].within == Fraction("0.0981")
True
>>> split_precision("9.81 (2 decimals)")
('9.81', Precision(within=None, figures=None, decimals=2))
>>> split_precision("9.81 (3 sig figs)")
('9.81', Precision(within=None, figures=3, decimals=None))
>>> split_precision("9.81 +- 0.05", is_declared_number=True)
('9.81', Precision(within=Fraction(1, 20), figures=None, decimals=None))
>>> split_precision("9.81 +- 0.05")
('9.81 +- 0.05', Precision(within=None, figures=None, decimals=None))
>>> others = "[tol. 0.05]", "(within 0.05)", "(± 0.05)", "(to 2 decimal places)", "(3 s.f.)"
>>> {split_precision(f"9.81 {other}")[0] for other in others}
{'9.81'}
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
    r"(?:tolerance|tol\.?|within|\\pm)\s*[:=]?\s*(?P<tolerance>[0-9.eE+-]+)\s*(?:(?P<percent>\\?%)|(?P<unit>[a-zA-Z/^0-9]{1,12}))?"
    r"|(?:to\s+)?(?P<figures>[0-9]{1,2})\s*(?:s\.?\s?f\.?|sig(?:nificant)?\.?\s*(?:figs?|figures|digits)\.?)"
    r"|(?:to\s+)?(?P<decimals>[0-9]{1,2})\s*(?:d\.?p\.?|decimals?(?:\s+places?)?)"
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
    tolerance = parse_number(f"{groups['tolerance']} {groups.get('unit') or ''}")
    if tolerance is None:
        return gold, Precision()
    if tolerance.units:
        size = next(
            (b.size / a.size for a in number.units for b in tolerance.units if a.dims == b.dims),
            None,
        )
        if size is None:
            return gold, Precision()
        return match["value"], Precision(within=tolerance.value * size)
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
        return round_half_up(right.value, precision.decimals) == round_half_up(
            value, precision.decimals
        )
    decimals = [n.decimals for n in (right, given) if n.decimals is not None]
    if not decimals or max(decimals) < PLACES:
        return False
    # Below 0.001 six places are too few digits to call two values the same.
    return abs(value) >= Fraction(1, 1000) and round(right.value, PLACES) == round(value, PLACES)


def round_half_up(value: Fraction, decimals: int) -> Fraction:
    """Rounded as at school: 0.25 to 0.3, -0.25 to -0.3.

    >>> round_half_up(Fraction(1, 4), 1), round_half_up(Fraction(1250), -2)
    (Fraction(3, 10), Fraction(1300, 1))
    """
    step = Fraction(10) ** -decimals
    steps = int(abs(value) / step + Fraction(1, 2))
    return (steps if value >= 0 else -steps) * step


def _figures(value: Fraction, figures: int) -> Fraction:
    """Rounded to significant figures."""
    if value == 0:
        return value
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    while magnitude <= 0 and abs(value) < Fraction(10) ** (magnitude - 1):
        magnitude -= 1
    return round_half_up(value, figures - magnitude)
