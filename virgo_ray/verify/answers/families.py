r"""Families of numbers with an integer parameter, whatever its name: `\frac{\pi}{5}+2k\pi`.

A family is a + b k for all integers k; two are the same where b is, up to its sign, and the
values of a differ by a multiple of b. `\pm` stands for two families, a list for several.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import sympy

from virgo_ray.verify.answers.clean import clean, strip_fonts
from virgo_ray.verify.answers.mathcheck import expression
from virgo_ray.verify.answers.shape import split_list, without_assignment

MAX_CHARS = 200
MAX_FAMILIES = 8
DIGITS = 25

_Z = r"(?:\\mathbb\s?\{?\s?Z\s?\}?|\\Z(?![A-Za-z])|Z)"
_DECLARED = re.compile(
    r"[,;]?\s?\(?\s?(?:where |for |with )?(?:(?:any |all |every |some )?integers? (?P<after>[a-z])"
    rf"|(?P<element>[a-z])\s?\\in\s?{_Z}|(?P<before>[a-z]) (?:is |being )?(?:an? |any )?"
    r"(?:arbitrary )?integer)\s?\)?$"
)
_PARAMETERS = ("k", "n", "m", "l", "N", "K")


@dataclass(frozen=True)
class Family:
    """start + period times every integer."""

    start: Any
    period: Any


def equal_families(gold: str, answer: str) -> bool | None:
    r"""Whether two families are the same; None where one of the texts is none.

    >>> equal_families(r"\frac{\pi}{5}+2k\pi", r"\frac{\pi}{5}+2n\pi, n \in \mathbb{Z}")
    True
    >>> equal_families(r"k\pi", r"2k\pi"), equal_families("2k", "2n")
    (False, None)

    Raises:
        RefusedError: one of them was not safe to read.
    """
    right, given = parse_families(gold), parse_families(answer)
    if not right or not given:
        return None
    return all(any(_same(a, b) for b in given) for a in right) and all(
        any(_same(a, b) for a in right) for b in given
    )


def parse_families(text: str) -> list[Family]:
    """The families that a text lists; none where one of its items is something else."""
    text = strip_fonts(clean(text)).replace("\\quad", " ").strip()
    if len(text) > MAX_CHARS or not re.search(r"\\pi|\bpi\b|integer|\\in", text):
        return []
    declared = _DECLARED.search(text)
    name = next((g for g in declared.groups() if g), "") if declared else ""
    text = text[: declared.start()].rstrip(" ,;(") if declared else text
    items = [without_assignment(item) for item in split_list(text)][:MAX_FAMILIES]
    families = [_family(part, name) for item in items for part in _both_signs(item)]
    found = [family for family in families if family]
    return found if len(found) == len(families) else []


def _both_signs(text: str) -> list[str]:
    if text.count("\\pm") != 1:
        return [text]
    return [text.replace("\\pm", sign) for sign in "+-"]


def _family(text: str, name: str) -> Family | None:
    read = expression(text)
    if not isinstance(read, sympy.Expr) or len(read.free_symbols) != 1:
        return None
    (parameter,) = read.free_symbols
    allowed = (name,) if name else _PARAMETERS
    if str(parameter) not in allowed or not (name or read.has(sympy.pi)):
        return None
    read = sympy.expand(read)
    period = read.coeff(parameter, 1)
    start = read.coeff(parameter, 0)
    is_linear = sympy.expand(read - start - period * parameter) == 0
    has_values = period.is_real and start.is_real and period != 0
    return Family(start, period) if is_linear and has_values else None


def _same(gold: Family, answer: Family) -> bool:
    if abs(gold.period) != abs(answer.period) and not _is_zero(
        abs(gold.period) - abs(answer.period)
    ):
        return False
    steps = ((gold.start - answer.start) / gold.period).evalf(DIGITS)
    return bool(_is_zero(steps - round(steps)))


def _is_zero(value: Any) -> bool:
    return bool(abs(value.evalf(DIGITS)) < 10 ** (5 - DIGITS)) if value != 0 else True
