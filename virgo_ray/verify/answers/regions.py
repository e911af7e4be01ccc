r"""Sets of real numbers in every notation, compared as sets: intervals, unions, inequalities, set
builders, "all real numbers", "no solution".

`x<2 or x>3` is `(-\infty,2)\cup(3,\infty)`; `]4,9[` is `(4,9)`; `5<x<9, x\ne 7` is
`(5,7)\cup(7,9)`. Bounds are constants; what holds other variables is no region.

Guarantees: bounds are read by our number parser or the guarded LaTeX grammar. Two bounds are the
same where they agree to 45 digits or more.
"""

from __future__ import annotations

import re
from fractions import Fraction

from sympy import (
    Complement,
    FiniteSet,
    Integer,
    Intersection,
    Interval,
    Rational,
    S,
    Set,
    Union,
    oo,
)

from virgo_ray.verify.answers.clean import clean, strip_fonts
from virgo_ray.verify.answers.compare import MAX_DIGITS, NOISE_DIGITS, digits_needed
from virgo_ray.verify.answers.mathcheck import constant
from virgo_ray.verify.answers.number import parse_number
from virgo_ray.verify.answers.shape import split_top

MAX_CHARS = 300
MAX_PIECES = 12
# Few steps, so that two bounds of about the same size are rounded alike.
_PLACES = (100, 500, MAX_DIGITS)

_EMPTY = re.compile(
    r"\\varnothing|\\emptyset|\{\s?\}|(?:there (?:is|are) )?no(?: real)? solutions?"
    r"|(?:the )?empty set"
    r"|none exist|no such (?:x|number|value)s?"
)
_ALL = re.compile(
    r"\\mathbb\s?\{?\s?R\s?\}?|\\R|(?:the set of )?(?:all|any)(?: the)? reals?(?: numbers?)?"
    r"|(?:the )?reals?(?: numbers?)|every real number|all real values"
)
_BUILDER = re.compile(
    r"\{\s?(?P<name>[a-z])(?:\s?\\in\s?(?:\\mathbb\s?\{?\s?R\s?\}?|R))?"
    r"\s?(?:\\mid|\||:|\\vert)\s?(?P<rest>.+)\}"
)
_OR = r"\\cup|\\lor|\\vee|(?<![A-Za-z\\])(?:or|U)(?![A-Za-z])|(?<=[0-9)\]}])or(?=[A-Za-z])"
_AND = r"\\cap|\\land|\\wedge|(?<![A-Za-z\\])(?:and|with|but)(?![A-Za-z])|,|;"
_SIGN = re.compile(
    r"\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt|neq|ne)(?![A-Za-z])|[<>]=?|!=|=|\\in(?![A-Za-z])"
)
_SIGNS = {
    "\\leq": "<=", "\\le": "<=", "\\leqslant": "<=", "\\lt": "<", "\\geq": ">=", "\\ge": ">=",
    "\\geqslant": ">=", "\\gt": ">", "\\ne": "!=", "\\neq": "!=", "\\in": "in",
}  # fmt: skip
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_ABS = re.compile(
    r"(?:\\[lr]?vert\s?|\|)\s?(?P<factor>[0-9]{0,9})\s?(?P<name>[A-Za-z]|\\[a-z]{2,8}?)\s?"
    r"(?:(?P<sign>[+-])\s?(?P<shift>[^|]{1,40}?))?\s?(?:\\[lr]?vert|\|)"
)
_INTERVAL = re.compile(r"(?P<left>[\[\](])(?P<inside>[^\[\]]{1,120})(?P<right>[\[\])])")


class Unclear(Exception):
    """The text is no region."""


def equal_regions(gold: str, answer: str) -> bool | None:
    r"""Whether two texts mean the same set of reals; None where one of them is no such set.

    >>> equal_regions(r"(-\infty,2)\cup(3,\infty)", "x<2 or x>3"), equal_regions("[1,2]", "x+1")
    (True, None)
    >>> equal_regions(r"(5,7)\cup(7,9)", r"5<x<9, x\ne 7"), equal_regions("(4,9)", "]4,9]")
    (True, False)

    Raises:
        RefusedError: a bound was not safe to read.
    """
    if max(len(gold), len(answer)) > MAX_CHARS or not (is_region(gold) or is_region(answer)):
        return None
    try:
        (right, name), (given, given_name) = parse_region(gold), parse_region(answer)
    except Unclear:
        return None
    if name and given_name and name != given_name:
        return False
    return bool(right == given)


def is_region(text: str) -> bool:
    """Whether it is written as a set of reals: a bare pair or list may be something else."""
    text = _tidy(text)
    if _EMPTY.fullmatch(text.lower()) or _ALL.fullmatch(text) or _ALL.fullmatch(text.lower()):
        return True
    relation = _SIGN.search(text)
    return bool(
        (relation and relation.group() != "=")
        or re.search(r"\\cup|\\mid|\\setminus|\\infty", text)
        or re.match(r"\].*[\[\]]$|[\[(].*\[$", text)
    )


def _tidy(text: str) -> str:
    text = strip_fonts(clean(text)).replace("\\{", "{").replace("\\}", "}").replace("\\lbrace", "{")
    text = text.replace("\\rbrace", "}").replace("\\quad", " ")
    return re.sub(r"\s+", " ", text).strip(" .$")


def parse_region(text: str) -> tuple[Set, str]:
    """The set, and the name of its variable where the text has one.

    Raises:
        Unclear: it is no region.
    """
    names: set[str] = set()
    region = _any_of(_tidy(text), names)
    if len(names) > 1:
        raise Unclear
    return region, "".join(names)


def _any_of(text: str, names: set[str]) -> Set:
    pieces = split_top(_without_reals(text), _OR)
    if not 0 < len(pieces) <= MAX_PIECES:
        raise Unclear
    return Union(*(_all_of(piece, names) for piece in pieces))


def _without_reals(text: str) -> str:
    r"""`x \in \mathbb{R}, x \ne 1` says no more than `x \ne 1`."""
    return re.sub(r"^[a-z] ?\\in ?\\mathbb ?\{? ?R ?\}? ?[,;] ?", "", text)


def _all_of(text: str, names: set[str]) -> Set:
    """Conditions that hold together; two that cannot hold together are alternatives."""
    pieces = _pieces(text)
    if not 0 < len(pieces) <= MAX_PIECES:
        raise Unclear
    sets = [_one(piece, names) for piece in pieces]
    together = Intersection(*sets)
    is_alternative = together is S.EmptySet and len(sets) > 1 and "," in text
    return Union(*sets) if is_alternative else together


def _pieces(text: str) -> list[str]:
    if _INTERVAL.fullmatch(text) or _BUILDER.fullmatch(text):
        return [text]
    return split_top(text, _AND)


def _one(text: str, names: set[str]) -> Set:
    text = text.strip()
    if _EMPTY.fullmatch(text.lower()):
        return S.EmptySet
    if _ALL.fullmatch(text) or _ALL.fullmatch(text.lower()):
        return S.Reals
    builder = _BUILDER.fullmatch(text)
    if builder:
        names.add(builder["name"])
        return _any_of(builder["rest"], names)
    whole, minus, without = text.partition("\\setminus")
    if minus:
        return Complement(_one(whole, names), _finite(without))
    interval = _INTERVAL.fullmatch(text)
    if interval:
        return _interval(interval)
    return _finite(text) if text.startswith("{") else _chain(text, names)


def _finite(text: str) -> Set:
    match = re.fullmatch(r"\s?\{(.+)\}\s?", text)
    if match is None:
        raise Unclear
    return FiniteSet(*(_bound(item) for item in split_top(match[1], ",")))


def _interval(match: re.Match[str]) -> Set:
    ends = split_top(match["inside"], "[,;]")
    if len(ends) != 2:
        raise Unclear
    low, high = (_bound(end) for end in ends)
    if not low < high:
        raise Unclear
    return Interval(low, high, match["left"] != "[", match["right"] != "]")


def _chain(text: str, names: set[str]) -> Set:
    r"""`a < x \le b`, `x \ne 3`, `5 > x`, `x \in [0,1]`."""
    signs = [_SIGNS.get(m.group(), m.group()) for m in _SIGN.finditer(text)]
    terms = [term.strip() for term in _SIGN.split(text)]
    distances = [_ABS.fullmatch(term) for term in terms]
    if any(distances):
        return _distance(distances, signs, terms, names)
    at = [i for i, term in enumerate(terms) if re.fullmatch(r"[A-Za-z]|\\[a-z]{2,8}", term)]
    at = [i for i in at if terms[i] not in ("e", "\\pi", "\\infty")]
    if len(at) != 1 or not 1 <= len(signs) <= 2:
        raise Unclear
    names.add(terms[at[0]])
    if signs == ["in"] and at == [0]:
        return _any_of(terms[1], names)
    if "in" in signs or (len(signs) == 2 and at != [1]):
        raise Unclear
    conditions = []
    for i, sign in enumerate(signs):
        is_left = at[0] == i
        conditions.append(
            _condition(sign if is_left else _FLIPPED[sign], terms[i + 1 if is_left else i])
        )
    return Intersection(*conditions)


def _distance(
    found: list[re.Match[str] | None], signs: list[str], terms: list[str], names: set[str]
) -> Set:
    r"""`|x-3|<5`, `2 \le |x|`, `1<|2x+1|<4`."""
    at = [i for i, match in enumerate(found) if match]
    match = found[at[0]]
    if match is None or len(at) != 1 or len(terms) > 3 or (len(terms) == 3 and at != [1]):
        raise Unclear
    if len(signs) != len(terms) - 1 or {"in", "=", "!="} & set(signs):
        raise Unclear
    names.add(match["name"])
    shift = _bound(match["shift"]) * (1 if match["sign"] == "+" else -1) if match["shift"] else 0
    factor = Integer(match["factor"] or 1)
    if not factor:
        raise Unclear
    sets = []
    for i, sign in enumerate(signs):
        is_left = at[0] == i
        bound = _bound(terms[i + 1 if is_left else i])
        sets.append(_within(sign if is_left else _FLIPPED[sign], bound, shift, factor))
    return Intersection(*sets)


def _within(sign: str, bound: Rational, shift: Rational, factor: Integer) -> Set:
    """The x for which |factor x + shift| `sign` bound."""
    is_open = sign in ("<", ">=")
    if bound < 0 or (bound == 0 and is_open):
        inside: Set = S.EmptySet
    else:
        ends = (-bound - shift) / factor, (bound - shift) / factor
        inside = Interval(*ends, is_open, is_open)
    return inside if sign.startswith("<") else Complement(S.Reals, inside)


def _condition(sign: str, bound: str) -> Set:
    """The x for which `x sign bound`."""
    value = _bound(bound)
    if sign == "<" or sign == "<=":
        return Interval(-oo, value, True, sign == "<")
    if sign == ">" or sign == ">=":
        return Interval(value, oo, sign == ">", True)
    return FiniteSet(value) if sign == "=" else Complement(S.Reals, FiniteSet(value))


def _bound(text: str) -> Rational:
    """A constant as a rational number."""
    text = text.strip()
    infinite = re.fullmatch(r"([+-]?)\s?(?:\\infty|infinity|inf|oo)", text)
    if infinite:
        return -oo if infinite[1] == "-" else oo
    number = parse_number(text)
    if number is not None and not number.units:
        value = number.value / (100 if number.is_percent else 1)
        return Rational(value.numerator, value.denominator)
    found = constant(text)
    if found is None or re.search(r"[=<>]", text):
        raise Unclear
    digits = digits_needed(found)
    if digits > MAX_DIGITS:
        raise Unclear
    places = next(limit for limit in _PLACES if digits - NOISE_DIGITS <= limit)
    value = found.evalf(places + NOISE_DIGITS)
    if not (value.is_Float or value.is_Rational):
        raise Unclear
    rounded = (
        Fraction(f"{value:.{places}e}") if value.is_Float else Fraction(int(value.p), int(value.q))
    )
    return Rational(rounded.numerator, rounded.denominator) if rounded else Integer(0)
