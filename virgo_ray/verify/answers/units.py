# ruff: noqa: RUF001
r"""Units behind a number: what they measure, and what they are worth.

Names come from an explicit list (unit_names.py) and are looked up one by one in pint's registry;
pint's own parser never meets an answer. Products, quotients and powers are read here, with bounds.
A word that is no unit says what is counted: "8 pears". A unit that is given on both sides must
agree, one on one side only is ignored, because questions usually name the unit.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from virgo_ray.verify.answers import currency
from virgo_ray.verify.answers import unit_names as names
from virgo_ray.verify.answers.clean import clean, strip_fonts
from virgo_ray.verify.answers.nouns import NOT_UNITS, Noun, parse_noun, singular

MAX_CHARS = 80
MAX_FACTORS = 8
MAX_POWER = 6
_PI = Fraction("3.14159265358979323846264338327950288419716939937510")

NO_NOUN = Noun()

Dims = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """One reading of a unit: `dims` are base dimensions with powers, `size` is in their base units.

    `offset` is set for temperatures only: (value + offset) * size is in kelvin. `noun` says what is
    counted. `is_letter` marks one letter that may also be a variable.
    """

    dims: Dims = ()
    size: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)
    noun: Noun = NO_NOUN
    is_letter: bool = False


# What pint lacks or has otherwise (survey feet): (size, name in pint or "", base dimension).
OWN: dict[str, Unit] = {
    "degree": Unit((("angle", 1),)),
    "arcminute": Unit((("angle", 1),), Fraction(1, 60)),
    "arcsecond": Unit((("angle", 1),), Fraction(1, 3600)),
    "revolution": Unit((("angle", 1),), Fraction(360)),
    "radian": Unit((("angle", 1),), 180 / _PI),
    "steradian": Unit((("solid angle", 1),)),
    "month": Unit((("month", 1),)),
    "quarter_year": Unit((("month", 1),), Fraction(3)),
    "year": Unit((("month", 1),), Fraction(12)),
    "decade": Unit((("month", 1),), Fraction(120)),
    "century": Unit((("month", 1),), Fraction(1200)),
    "millennium": Unit((("month", 1),), Fraction(12000)),
    "celsius": Unit((("kelvin", 1),), Fraction(1), Fraction("273.15")),
    "fahrenheit": Unit((("kelvin", 1),), Fraction(5, 9), Fraction("459.67")),
    "acre": Unit((("meter", 2),), Fraction("4046.8564224")),
    "furlong": Unit((("meter", 1),), Fraction("201.168")),
    "fathom": Unit((("meter", 1),), Fraction("1.8288")),
    "jin": Unit((("gram", 1),), Fraction(500)),
    "decibel": Unit((("decibel", 1),)),
    "curie": Unit((("second", -1), ("decay", 1)), Fraction(37 * 10**9)),
    "becquerel": Unit((("second", -1), ("decay", 1))),
    "sievert": Unit((("sievert", 1),)),
    "lumen": Unit((("lumen", 1),)),
    "lux": Unit((("lumen", 1), ("meter", -2))),
    "gauss": Unit(
        (("ampere", -1), ("gram", 1), ("second", -2)), Fraction(1, 10)
    ),
}  # fmt: skip
_WORD_POWERS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}
_AFTER = {"squared": 2, "cubed": 3}
_POWER = re.compile(r"(?P<name>[^\W\d]+|[°¢$€£¥]C?|[°]?[A-Za-z]+)(?:\^|\*\*)?(?P<power>[+-]?[0-9])")
_RELATED = re.compile(r"\s?/\s?|\sper\s|^per\s|每")
_CJK_POWERS = {"平方": 2, "立方": 3}
_SPELLINGS = (
    (re.compile(r"\\mu(?![a-zA-Z])\s?|\\micro(?![a-zA-Z])\s?"), "µ"),
    (re.compile(r"\\(?:up)?[oO]mega(?![a-zA-Z])|Ω|\\ohm(?![a-zA-Z])"), "Ω"),
    (re.compile(r"\\(?:AA|angstrom)(?![a-zA-Z])|Å"), "Å"),
    (re.compile(r"\\ell(?![a-zA-Z])"), "L"),
    (re.compile(r"\\(?:celsius|degreeCelsius)(?![a-zA-Z])|℃"), "°C"),
    (re.compile(r"\\fahrenheit(?![a-zA-Z])|℉"), "°F"),
    (re.compile(r"\^?\s?\{?\s?\\(?:circ|degree)(?![a-zA-Z])\s?\}?\s?|\^\s?\{?\s?o\s?\}"), "°"),
    (re.compile(r"\^\s?\{\s?([+-]?\s?[0-9])\s?\}"), r"^\1"),
    (re.compile(r"\\(?:cdot|times|ast|cdotp)(?![a-zA-Z])|[·⋅*](?!\*)"), " "),
)  # fmt: skip
_SQUARED_UP = re.compile("[\u3380-\u33df]")  # one character for "cm", "kg", "m2"
_FRACTION = re.compile(r"\\frac\s?\{([^{}]{1,30})\}\s?\{([^{}]{1,30})\}")


def parse_units(text: str) -> tuple[Unit, ...]:
    r"""The readings of a unit, none where `text` does not read like one.

    >>> parse_units(r"\mathrm{m\,s^{-2}}") == parse_units("meters per second squared")
    True
    >>> [unit.dims for unit in parse_units("pounds")]
    [(('gram', 1),), (('GBP', 1),)]
    >>> parse_units("red apples")[0].noun.words, parse_units("x + 1")
    (('red', 'apple'), ())
    """
    text = tidy(text)
    if not text or len(text) > MAX_CHARS or NOT_UNITS.match(text):
        return ()
    letter = len(text) == 1 and text.isascii()
    related = [part.strip() for part in _RELATED.split(_flat(text))]
    if len(related) == 1:
        return tuple(replace(unit, is_letter=letter) for unit in _product(related[0], True))
    units: Iterable[Unit] = _product(related[0], True) if related[0] else (Unit(),)
    for part in related[1:]:
        below = _product(part.strip("() "), False)
        if not below:
            return ()
        units = [_times(unit, below[0], -1) for unit in units]
    return tuple(units)


def tidy(text: str) -> str:
    """The text of a unit without fonts, braces, brackets and spellings of TeX."""
    text = _SQUARED_UP.sub(lambda m: unicodedata.normalize("NFKC", m.group()), clean(text))
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = _FRACTION.sub(r"\1/\2", strip_fonts(text))
    text = re.sub(r"[{}\"`~]|\\(?![a-zA-Z])", " ", text)
    text = re.sub(r"\s?\((s|es)\)(?![a-z])", r"\1", text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(".,;。，").strip()
    wrapped = re.fullmatch(r"[(\[]([^()\[\]]*)[)\]]", text)
    text = wrapped[1].strip() if wrapped else text
    return re.sub(r"°\s(?=[CFK]\b)", "°", text)


def _flat(text: str) -> str:
    """ "J/(kg K)" without its bracket: what stands behind a stroke is below it."""
    return re.sub(r"/\s?\(([^()/]*)\)", r"/\1", text)


def _product(text: str, is_above: bool) -> tuple[Unit, ...]:
    """The readings of "kg m^2", "square feet", "N m"; words behind a unit are its noun."""
    whole = lookup(text)
    if whole:
        return whole
    words = text.split(" ")
    if len(words) > MAX_FACTORS:
        return ()
    units: tuple[Unit, ...] = ()
    at = 0
    while at < len(words):
        factor, used = _factor(words, at)
        if not factor:
            break
        units = _all_products(units, factor)
        at += used
    rest = " ".join(words[at:])
    if not rest:
        return units
    return _with_noun(units, rest, is_above)


def _with_noun(units: tuple[Unit, ...], text: str, is_above: bool) -> tuple[Unit, ...]:
    noun = parse_noun(text)
    if noun is None:
        return ()
    if not is_above:  # "per person": what it is divided by is a dimension like others
        named = Unit(((f"one {' '.join(noun.words)}", 1),)) if noun.words else Unit()
        return tuple(_times(unit, named, 1) for unit in units or (Unit(),))
    return tuple(replace(unit, noun=noun) for unit in units or (Unit(),))


def _factor(words: list[str], at: int) -> tuple[tuple[Unit, ...], int]:
    """(the readings of one factor at a position, its number of words)."""
    power = _WORD_POWERS.get(words[at].lower(), 1)
    start = at + (power > 1)
    for end in (start + 3, start + 2, start + 1):
        found = lookup(" ".join(words[start:end])) if end <= len(words) else ()
        if words[start:end] == ["in"] and end < len(words):  # "5 in total" is no length
            found = ()
        if found:
            if power == 1 and end < len(words) and words[end].lower() in _AFTER:
                power = _AFTER[words[end].lower()]
                end += 1
            return tuple(_to_power(unit, power) for unit in found), end - at
    if power > 1 and start < len(words) and singular(words[start].lower()) == "unit":
        return (Unit(),), start + 1 - at
    return (), 0


def _all_products(units: tuple[Unit, ...], factor: tuple[Unit, ...]) -> tuple[Unit, ...]:
    if not units:
        return factor
    return tuple(_times(a, b, 1) for a in units for b in factor)[:4]


def _times(unit: Unit, other: Unit, power: int) -> Unit:
    dims = dict(unit.dims)
    for dim, exponent in other.dims:
        dims[dim] = dims.get(dim, 0) + power * exponent
    kept = tuple(sorted((dim, exponent) for dim, exponent in dims.items() if exponent))
    return Unit(kept, unit.size * other.size**power, noun=unit.noun)


def _to_power(unit: Unit, power: int) -> Unit:
    return unit if power == 1 else _times(Unit(), unit, power)


@lru_cache(maxsize=2048)
def lookup(name: str) -> tuple[Unit, ...]:
    """The readings of one name or symbol, with prefix and power; none where it is no unit."""
    if name in names.COMPOUNDS:
        return parse_units(names.COMPOUNDS[name])
    match = _POWER.fullmatch(name)
    if match and abs(int(match["power"])) <= MAX_POWER and match["power"].strip("+-") != "0":
        base = _named(match["name"])
        return tuple(_to_power(unit, int(match["power"])) for unit in base)
    for prefix, power in _CJK_POWERS.items():
        if name.startswith(prefix):
            return tuple(_to_power(unit, power) for unit in _named(name.removeprefix(prefix)))
    return _named(name)


def _named(name: str) -> tuple[Unit, ...]:
    name = name.strip().rstrip(".") if name not in names.AMBIGUOUS else name
    if name.lower() in ("unit", "units"):
        return (Unit(),)
    found = _pint_names(name) or _pint_names_of_word(name.lower())
    return tuple(_unit(found_name) for found_name in found)


def _pint_names(name: str) -> tuple[str, ...]:
    """The registry's names for a symbol, in the case in which it is written."""
    if name in names.AMBIGUOUS:
        return names.AMBIGUOUS[name]
    table = names.SYMBOLS.get(name) or names.CHINESE.get(name) or names.SI_SYMBOLS.get(name)
    if table or name in currency.SIGNS:
        return (table or currency.SIGNS[name],)
    for length in (1, 2):
        prefix, symbol = names.PREFIXES.get(name[:length]), names.SI_SYMBOLS.get(name[length:])
        if prefix and symbol and name not in names.NEVER_PREFIXED:
            is_right = prefix not in names.BINARY or symbol in ("byte", "bit")
            return (prefix + symbol,) if is_right else ()
    return ()


def _pint_names_of_word(word: str) -> tuple[str, ...]:
    """The registry's names for a word, in any case and number."""
    one = " ".join(singular(part) for part in word.replace("-", " ").split(" ", 3))
    for name in (word, one):
        if name in names.AMBIGUOUS:
            return names.AMBIGUOUS[name]
        if name in currency.PART_NAMES:
            return currency.PART_NAMES[name]
        known = names.WORDS.get(name) or names.SI_WORDS.get(name) or names.PHRASES.get(name)
        known = known or currency.NAMES.get(name)
        if known:
            return (known,)
    for prefix in names.WORD_PREFIXES:
        base = names.SI_WORDS.get(one.removeprefix(prefix).strip())
        if one.startswith(prefix) and base:
            return (prefix + base,)
    return ()


@lru_cache(maxsize=2048)
def _unit(name: str) -> Unit:
    """The unit of a name out of the lists."""
    if name in OWN:
        return OWN[name]
    if name in currency.PARTS:
        code, size = currency.PARTS[name]
        return Unit(((code, 1),), size)
    if name in currency.CODES or not name:
        return Unit(((name, 1),) if name else ())
    size, base = registry().get_root_units(name)
    dims = tuple(sorted((dim, int(power)) for dim, power in base._units.items()))
    return Unit(dims, Fraction(size))


@lru_cache(maxsize=1)
def registry() -> Any:
    """Pint's registry, with exact factors. Slow to import: only where a unit is met."""
    import pint

    return pint.UnitRegistry(non_int_type=Fraction)


def is_measure(units: tuple[Unit, ...]) -> bool:
    """Whether it is a physical unit or money, not only a counted thing."""
    return any(unit.dims for unit in units)
