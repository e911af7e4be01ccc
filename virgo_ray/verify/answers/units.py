r"""Units after a number: which words are units, and which of them convert into each other.

A unit of the table that is given on both sides must agree (5 cm is 50 mm and is not 5 m); a unit on
one side only is ignored, because questions usually name the unit. Words that are not in the table
("apples", "square units") say what is counted and are ignored too: the number decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from virgo_ray.verify.answers.clean import plain


@dataclass(frozen=True)
class Unit:
    """`kind` is what it measures, `power` 2 for areas; `size` in the kind's base unit.

    A word that is not in the table has the kind "" and converts into nothing.
    """

    kind: str
    size: Fraction = Fraction(1)
    power: int = 1


_SIZES = {
    "length": {
        "mm millimeter millimetre": "0.001",
        "cm centimeter centimetre": "0.01",
        "dm decimeter decimetre": "0.1",
        "m meter metre": "1",
        "km kilometer kilometre": "1000",
        "in inch": "0.0254",
        "ft foot feet": "0.3048",
        "yd yard": "0.9144",
        "mi mile": "1609.344",
    },
    "mass": {
        "mg milligram": "0.001",
        "g gm gram": "1",
        "kg kilogram": "1000",
        "lb lbs pound": "453.59237",
        "oz ounce": "28.349523125",
    },
    "time": {
        "ms millisecond": "0.001",
        "s sec second": "1",
        "min minute": "60",
        "h hr hour": "3600",
        "day": "86400",
        "week": "604800",
    },
    "volume": {"ml milliliter millilitre": "0.001", "l liter litre": "1"},
    "money": {"cent": "0.01", "dollar usd $": "1", "euro €": "1"},
    "angle": {r"^\circ \circ degree deg": "1"},
}
TABLE = {
    name: Unit("euro" if "euro" in names else kind, Fraction(size))
    for kind, units in _SIZES.items()
    for names, size in units.items()
    for name in names.split()
}
_IRREGULAR = {"inches": "inch", "feet": "foot"}
_POWERED = re.compile(
    r"(?:(?P<before>square|sq\.?|cubic|cu\.?)\s)?(?P<name>[a-z]+)\.?"
    r"\s?(?:\^\s?(?P<power>[23])|(?P<after>squared|cubed)|(?P<digit>[23]))?"
)
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
# Words that go on after a number without being a unit: "5 or 6", "4 times as many", "3 if x > 0".
_NOT_UNITS = re.compile(
    r"(?:and|or|if|is|are|to|times|plus|minus|over|of|but|not|because|so|since|which|mod|e|i|pi)\b",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[a-z]{2,}(?:(?: per | |/|-)[a-z]+){0,4}")


def parse_unit(text: str) -> Unit | None:
    r"""The unit that `text` is, or None where it does not read like one.

    >>> parse_unit(r"\mathrm{~cm}^2")
    Unit(kind='length', size=Fraction(1, 10000), power=2)
    >>> parse_unit("apples"), parse_unit("x + 1")
    (Unit(kind='', size=Fraction(1, 1), power=1), None)
    """
    name = plain(text).rstrip(".").replace("^ \\circ", "^\\circ").strip()
    if len(name) > 40:
        return None
    if name in TABLE:
        return TABLE[name]
    lower = re.sub(r"\s?\(s\)$", "", name.lower())
    match = _POWERED.fullmatch(lower)
    base = _in_table(match["name"]) if match else None
    if match and base:
        word = (match["before"] or match["after"] or "").rstrip(".")
        power = int(match["power"] or match["digit"] or _POWERS.get(word, 1))
        return Unit(base.kind, base.size**power, power)
    if _WORDS.fullmatch(lower) and not _NOT_UNITS.match(lower):
        return Unit("")
    return None


def _in_table(name: str) -> Unit | None:
    name = _IRREGULAR.get(name, name)
    if name in TABLE:
        return TABLE[name]
    singular = name.removesuffix("s")
    return TABLE.get(singular) if len(singular) > 2 else None
