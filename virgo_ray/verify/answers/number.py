r"""Exact numbers out of text: signs, thousands, decimals, powers of ten, fractions, percent, units.

Guarantees: digits are ASCII or the vulgar fractions and powers that `clean` spells out; values are
`Fraction`s (no rounding); a literal that would be larger than MAX_DIGITS digits or 10**MAX_EXPONENT
is not computed. No `eval`, no sympy; pint is asked only where a unit of its list stands behind.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction

from virgo_ray.verify.answers.clean import clean, starts_with_font, strip_fonts
from virgo_ray.verify.answers.currency import BEFORE
from virgo_ray.verify.answers.literal import Literal, read_literal
from virgo_ray.verify.answers.nouns import Noun
from virgo_ray.verify.answers.units import Unit, is_measure, lookup, parse_units, tidy
from virgo_ray.verify.answers.words import (
    DENOMINATORS,
    NUMBER_WORDS,
    SCALES,
    read_and_fraction,
    read_words,
    split_words,
)

MAX_CHARS = 2000
MAX_FACTORIAL = 20
MAX_PARTS = 4

_PLAIN = re.compile(r"[+-]?[0-9]{1,300}(?:\.([0-9]{1,300}))?")
_DECIMAL_COMMA = re.compile(r"([+-]?[0-9]+),([0-9]+)\b(.{0,40})")
_PERCENT = re.compile(r"\\?%|(?:percent(?:age)?|per\s?cent|pct)\b(?!\s?(?:point|of))")
_PER_MILLE = re.compile(r"‰|\\permil(?![a-z])|(?:per\s?mille?|permille)\b")
_GROUPED = re.compile(r"\(\s?([^(),]*)\s?\)|\{\s?([^{},]*)\s?\}")
_LABEL = re.compile(r"(?P<label>[A-Z][A-Za-z ]{1,40}?)\s?:\s?(?=[-+$0-9.\\])")
_ABOUT = re.compile(
    r"(?:about|approximately|approx\.?|around|roughly|circa|exactly|precisely|\\approx|\\sim(?:eq)?|≈|~"
    r"|≃|equals|=|a total of|(?:the )?(?:final )?(?:answer|result|value|total) is"
    r"|约|大约)\s?(?=\S)",
    re.IGNORECASE,
)
_SIGN_WORD = re.compile(r"^(minus|negative|plus|positive)\s+(?=[0-9.$€£\\])", re.IGNORECASE)
_SUFFIX = re.compile(r"[kKMBT](?![A-Za-z0-9^/])|bn\b|mn\b|tn\b|mln\b")
_SUFFIX_IN_FONT = re.compile(
    r"^\\(?:text|mathrm)\s?\{\s?(k|M|B|bn|mn|tn|mln)\s?\}(?![\s^/]*[A-Za-z0-9\\])"
)
_SUFFIXES = {"k": 3, "K": 3, "M": 6, "B": 9, "T": 12, "bn": 9, "mn": 6, "mln": 6, "tn": 12}
_SCALE = re.compile(r"([^\W\d_]+)\.?(?![\w])|(百万|千万|[百千万萬亿億])")
_ORDINAL = re.compile(r"\^?\s?(?:st|nd|rd|th)\b")
_AFTER = {"squared": 2, "cubed": 3}
_FACTORS: dict[str, int | Fraction] = {
    "doubled": 2,
    "tripled": 3,
    "quadrupled": 4,
    "halved": Fraction(1, 2),
}
_COMPOUND = re.compile(
    r"(?P<value>[0-9]{1,12}(?:\.[0-9]{1,12})?)\s?(?P<unit>[^\W\d_]{1,14}\.?|°|''|')\s?(?:,?\s?and\s|,\s)?"
)
_UNIT_IN_FRACTION = re.compile(
    r"(?P<sign>-?)\s?\\frac\s?\{(?P<above>[^{}]{1,60}(?:\{[^{}]{0,30}\}[^{}]{0,10})?)\}"
    r"\s?\{(?P<below>[^{}]{1,60}(?:\{[^{}]{0,30}\}[^{}]{0,10})?)\}"
)
_GROUPED_ERROR = re.compile(r"^\(\s?([0-9.]{1,20}\s?(?:\\pm|±|\+/?-)\s?[0-9.]{1,20})\s?\)")
_ERROR = re.compile(r"\s?(?:\\pm|±|\+/?-)\s?(?P<error>[0-9]{0,9}\.[0-9]{1,12})(?![0-9])")


@dataclass(frozen=True)
class Number:
    """A value as written; `decimals` counts the digits after the point (None for a fraction).

    `units` are the readings of its unit, empty without one. `suffix` is a unit that might be meant
    instead of the power of ten in `scale`: 300K may be 300 kelvin. `label` stands before a colon.
    """

    value: Fraction
    decimals: int | None = 0
    is_percent: bool = False
    units: tuple[Unit, ...] = ()
    suffix: str = ""
    scale: int = 1
    label: str = ""
    has_error: bool = False


def parse_number(text: str) -> Number | None:
    r"""The number that `text` is, or None if it is anything else.

    >>> parse_number("1,234.50").value, parse_number(r"3\frac{1}{2} cm").value
    (Fraction(2469, 2), Fraction(7, 2))
    >>> parse_number("1 hour 30 minutes").value, parse_number(r"\text{three fifths}").value
    (Fraction(3, 2), Fraction(3, 5))
    >>> parse_number("AZ2K") is None
    True
    """
    text = clean(text)
    plain = _PLAIN.fullmatch(text)
    if plain:
        return Number(Fraction(text), len(plain[1] or ""))
    if not text or len(text) > MAX_CHARS:
        return None
    return _parse(text)


def _parse(text: str) -> Number | None:
    label = ""
    for _ in range(3):
        if starts_with_font(text):
            text = clean(strip_fonts(text))
        named = _LABEL.match(text)
        label = named["label"] if named else label
        start = named or _ABOUT.match(text)
        text = text[start.end() :].lstrip() if start else text
    text = _SIGN_WORD.sub(lambda m: "-" if m[1].lower() in ("minus", "negative") else "", text)
    text = _GROUPED_ERROR.sub(r"\1", text)
    grouped = _GROUPED.fullmatch(text)
    text = (grouped[1] or grouped[2] or "").strip() if grouped else text
    number = _with_currency(text) or _digits(text) or _with_unit_inside(text) or _spelled_out(text)
    return replace(number, label=label.lower().strip()) if number and label else number


def parse_decimal_comma(text: str) -> Number | None:
    """`1,22` read as 1.22: only right where the other side is a plain number (see equal.py)."""
    match = _DECIMAL_COMMA.fullmatch(clean(text))
    return parse_number(f"{match[1]}.{match[2]}{match[3]}") if match else None


def _digits(text: str) -> Number | None:
    """A number that begins with digits."""
    for is_fraction in (True, False):
        literal = read_literal(text, is_fraction)
        number = _with_tail(literal, text[literal.end :]) if literal else None
        if number is not None:
            return number
    return _compound(text)


def _with_currency(text: str) -> Number | None:
    """ "$8", "-£3.50", "USD 8", "$1.2M", "$8 per hour", "$8 gain"."""
    match = BEFORE.match(text)
    number = _digits(text[match.end() :]) if match else None
    if match is None or number is None:
        return None
    value = -number.value if match["sign"] == "-" else number.value
    money = lookup(match["currency"])
    behind = number.units
    if number.suffix:
        behind = ()
    if behind and any(unit.dims for unit in behind):
        money = tuple(unit for unit in behind if unit in money) or _per(money, behind)
        if not money:
            return None
    elif behind:
        money = tuple(replace(unit, noun=behind[0].noun) for unit in money)
    return replace(number, value=value, units=money, suffix="", scale=1)


def _per(money: tuple[Unit, ...], behind: tuple[Unit, ...]) -> tuple[Unit, ...]:
    """Dollars times what stands behind, as in "$5/hour"; none for another unit above the line."""
    if not all(power < 0 for _, power in behind[0].dims):
        return ()
    return tuple(
        Unit(tuple(sorted(unit.dims + behind[0].dims)), unit.size * behind[0].size)
        for unit in money
    )


def _with_tail(literal: Literal, tail: str) -> Number | None:
    """The number with its powers, percent sign and unit; None where something else follows."""
    number = Number(literal.value, literal.decimals)
    error = _ERROR.match(tail)
    if error and literal.decimals and Fraction(error["error"]) * 10 <= abs(literal.value):
        number, tail = replace(number, has_error=True), tail[error.end() :]
    if not tail.strip() or tail.strip() == "\\":
        return number
    tail = _SUFFIX_IN_FONT.sub(r"\1", tail)
    suffix = _SUFFIX.match(tail)
    if suffix:
        power = 10 ** _SUFFIXES[suffix.group()]
        number = _scaled(number, power)
        is_unit = len(suffix.group()) == 1 and suffix.group() != "k"
        number = replace(number, suffix=suffix.group() if is_unit else "", scale=power)
        tail = tail[suffix.end() :]
        return number if not tail.strip() else _with_unit(number, tail)
    return _with_unit(number, tail)


def _with_unit(number: Number, tail: str) -> Number | None:
    is_adjacent = not tail[:1].isspace() and not tail.startswith("\\")
    words = tidy(tail)
    if not words:
        return None if tail.strip(" .,\\{}~") else number  # "12 \\cdot" goes on, but not to a unit
    number, words = _with_scale(number, words)
    for pattern, factor in ((_PERCENT, Fraction(1)), (_PER_MILLE, Fraction(1, 1000))):
        match = pattern.match(words)
        if match:
            number = replace(number, value=number.value * factor, is_percent=factor == 1)
            words = words[match.end() :].strip()
    if not words:
        return number
    if number.decimals == 0 and _ORDINAL.match(words) and is_adjacent:
        words = words[_ORDINAL.match(words).end() :].strip()  # type: ignore[union-attr]
        if not words:
            return number
    changed = _changed(number, words)
    if changed:
        return changed
    units = _clock(number, words) or parse_units(words)
    if units and not is_adjacent:
        units = tuple(replace(unit, is_letter=False) for unit in units)
    return replace(number, units=units) if units else None


def _clock(number: Number, words: str) -> tuple[Unit, ...]:
    """The half of the day behind an hour; "52.9 pm" is in picometers."""
    half = words.replace(".", "").lower()
    if half not in ("am", "pm"):
        return ()
    if number.decimals == 0 and 1 <= number.value <= 12:
        return (Unit(noun=Noun((half,), half, is_changing=True)),)
    return parse_units("picometer") if words == "pm" else ()


def _scaled(number: Number, factor: int) -> Number:
    zeros = len(str(factor)) - 1
    decimals = None if number.decimals is None else max(0, number.decimals - zeros)
    return replace(number, value=number.value * factor, decimals=decimals)


def _with_scale(number: Number, words: str) -> tuple[Number, str]:
    """ "7 hundred thousand apples": the scales multiply, the rest is returned."""
    for _ in range(3):
        match = _SCALE.match(words)
        name = (match[1] or match[2]).lower() if match else ""
        if match is None or name not in SCALES:
            break
        number = _scaled(number, SCALES[name])
        words = words[match.end() :].lstrip(" ,")
        words = words.removeprefix("of ").lstrip()
    return number, words


def _changed(number: Number, text: str) -> Number | None:
    """What "thirds", "squared" and "and a half" make of the number; None for other words."""
    words = split_words(text)
    if not words:  # only signs, such as a hyphen
        return None
    value, used = number.value, 1
    first = words[0]
    if first in DENOMINATORS and value.denominator == 1:
        value = value / DENOMINATORS[first]
        if words[1:2] == ["of"]:
            used += 1
    elif first in _AFTER and len(words) == 1:
        value = value ** _AFTER[first] if abs(value) < 10**30 else value
    elif first in _FACTORS:
        value = value * _FACTORS[first]
    elif first == "factorial" and value.denominator == 1 and 0 <= value <= MAX_FACTORIAL:
        value = Fraction(math.factorial(int(value)))
    else:
        part, used = read_and_fraction(words)
        value = value + part if value >= 0 else value - part
    if not used:
        return None
    rest = " ".join(words[used:])
    units = parse_units(rest) if rest else ()
    if rest and not units:
        return None
    return replace(number, value=value, decimals=None, units=units)


def _compound(text: str) -> Number | None:
    """ "1 hour 30 minutes", "5 ft 6 in": falling units of one kind, in the first of them."""
    text = tidy(text.replace('"', "''"))
    sign = -1 if text.startswith("-") else 1
    text = text.lstrip("-")
    matches = list(_COMPOUND.finditer(text))[: MAX_PARTS + 1]
    if not 2 <= len(matches) <= MAX_PARTS or "".join(m.group() for m in matches) != text:
        return None
    parts = _falling(
        [(Fraction(m["value"]), _part_unit(m["unit"], matches[0]["unit"])) for m in matches]
    )
    if parts is None:
        return None
    first = parts[0][1]
    total = sum((value * unit.size for value, unit in parts), Fraction(0)) / first.size
    return Number(sign * total, None, units=(first,))


def _part_unit(name: str, first: str) -> tuple[Unit, ...]:
    marks = {"'": "arcminute", "''": "arcsecond"} if first == "°" else {"'": "foot", "''": "inch"}
    return lookup(marks.get(name, name))


def _falling(
    parts: list[tuple[Fraction, tuple[Unit, ...]]],
) -> list[tuple[Fraction, Unit]] | None:
    """The parts with the readings that fit each other; None where they are no one quantity."""
    if not all(units for _, units in parts) or any(v.denominator > 1 for v, _ in parts[:-1]):
        return None
    last = parts[-1][1]
    for first in parts[0][1]:
        chosen = [next((u for u in units if u.dims == first.dims), None) for _, units in parts]
        fitting = [unit for unit in chosen if unit is not None and not unit.offset]
        if len(fitting) < len(parts) or not last or not first.dims:
            continue
        steps = zip(fitting, fitting[1:], parts[1:], strict=False)
        if all(value * small.size < large.size for large, small, (value, _) in steps):
            return [(value, unit) for (value, _), unit in zip(parts, fitting, strict=True)]
    return None


def _with_unit_inside(text: str) -> Number | None:
    r"""`\frac{37 m}{4}` as `\frac{37}{4} m`, `\frac{37 m}{4 s}` as `\frac{37}{4} m/s`."""
    match = _UNIT_IN_FRACTION.match(text)
    if match is None or not re.search(r"[A-Za-z]", match["above"] + match["below"]):
        return None
    above, below = parse_number(match["above"]), parse_number(match["below"])
    tail = text[match.end() :].strip()
    if above is None or below is None or not below.value or tail:
        return None
    if not is_measure(above.units or below.units):
        return None
    one = (Unit(),)
    units = tuple(_quotient(a, b) for a in above.units or one for b in (below.units or one)[:1])
    value = above.value / below.value
    return Number(-value if match["sign"] else value, None, units=units)


def _quotient(above: Unit, below: Unit) -> Unit:
    dims = dict(above.dims)
    for dim, power in below.dims:
        dims[dim] = dims.get(dim, 0) - power
    kept = tuple(sorted((dim, power) for dim, power in dims.items() if power))
    return Unit(kept, above.size / below.size, noun=above.noun, is_letter=above.is_letter)


def _spelled_out(text: str) -> Number | None:
    if not re.match(r"[A-Za-z-]*[a-z]{2}|a\s", text):
        return None
    words = split_words(tidy(text))
    read = read_words(words)
    if read is None:
        return _ordinal(words)
    number = Number(read[0], 0 if read[0].denominator == 1 else None)
    rest = " ".join(words[read[1] :])
    if words[read[1] : read[1] + 1] and words[read[1]] in NUMBER_WORDS:
        return None
    rest = rest.removeprefix("of a ").removeprefix("of an ") if number.decimals is None else rest
    return _with_unit(number, " " + rest) if rest else number


def _ordinal(words: list[str]) -> Number | None:
    """ "third" as 3, for a gold answer "3rd"."""
    value = {"first": 1, "second": 2, "half": 0, "quarter": 0}.get(words[0] if words else "")
    value = DENOMINATORS.get(words[0], 0) if words and value is None else value
    if not value or len(words) != 1 or words[0].endswith("s"):
        return None
    return Number(Fraction(value), units=(Unit(noun=Noun(("place",), "place")),))
