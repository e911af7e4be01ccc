r"""Mathematical equality by math-verify, behind a guard. The only file that imports math_verify.

What is guarded, and why:

- `math_verify.parse` with `ExprExtractionConfig` hands plain text to sympy's `parse_expr`, which is
  `eval`
  behind a tokeniser. It is never used here: model text only meets the LaTeX grammar (antlr), which
  builds expressions and executes nothing.
- `math_verify`'s own time-outs use SIGALRM, which works only in a main thread and not inside C
  code: they
  are switched off; `killable.py` kills the process from outside.
- What would be computed while parsing (huge powers, factorials, roots, sums over long ranges,
  thousands of
  digits, deep nesting) is refused before parsing. A refusal is "could not judge", never "wrong".
- Two parses of one text are the same expression: gold answers are parsed once and kept.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from virgo_ray.verify.answers.terms import have_same_terms

MAX_CHARS = 1500
MAX_DEPTH = 30
MAX_POWER = 1000
MAX_COMMANDS = 200
DIGITS = 30

# Our own deadline stands outside; math-verify would warn about it for every process.
logging.getLogger("math_verify").setLevel(logging.ERROR)
logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)

_CONFIG = [LatexExtractionConfig(boxed_match_priority=-1)]
_HUGE = re.compile(r"[0-9]{400}")
_POWER = re.compile(r"(?:\^|\*\*)\s?\{?\s?[-+(]{0,3}\s?([0-9][0-9.,]*)")
_BIG_TOWER_PART = re.compile(
    r"(?:\^|\*\*)\s?[{(]{0,3}\s?-?[0-9]+\s?[})]{0,3}\s?(?:\^|\*\*)|(?:\^|\*\*)\s?\{[^{}]{0,60}(?:\^|\*\*)"
)
_COMBINATORIAL = re.compile(
    r"([0-9]{3,})\s?[)}]{0,4}\s?!|!\s?[)}]{0,4}\s?!|\\binom\s?\{?\s?[0-9]{4,}|\\sqrt\s?\[\s?[^\]]{4,}\]"
)
_LARGE_ARGUMENT = re.compile(
    r"\^[^!=,]{0,20}[)}]\s?!|\\(?:binom|Gamma)[^=,]{0,12}\^|[)\]]\s?\^\s?\{?\s?[0-9]{3}"
)
_RANGE = re.compile(r"\\(?:sum|prod|int|bigcup|bigcap|lim)(?![a-zA-Z])")
_BARE_COMMANDS = re.compile(r"(?:\\(?:frac|sqrt|binom|vec|overline)\s?){4}")
_FORBIDDEN = re.compile(
    r"__|[\x00-\x08\x0b\x0e-\x1f\x7f]|\\(?:input|include|write|def|let|csname|catcode|loop|[hv]?phantom)"
    r"(?![a-zA-Z])"
)


class RefusedError(Exception):
    """The text is not safe to hand to a parser; the message says why."""


def guard(text: str) -> None:
    """Raise RefusedError for text that could hang, fill the memory or leave the grammar."""
    if len(text) > MAX_CHARS:
        raise RefusedError(f"{len(text)} characters, at most {MAX_CHARS} are parsed")
    if not text.isascii():
        raise RefusedError("characters outside ASCII")
    if _FORBIDDEN.search(text):
        raise RefusedError("control characters or names that no answer has")
    if _depth(text) > MAX_DEPTH:
        raise RefusedError(f"nested deeper than {MAX_DEPTH}")
    if text.count("\\") > MAX_COMMANDS:
        raise RefusedError(f"more than {MAX_COMMANDS} commands")
    if _BARE_COMMANDS.search(text):
        raise RefusedError("commands without arguments")
    _guard_size(text)


def _guard_size(text: str) -> None:
    if _HUGE.search(text):
        raise RefusedError("a number of more than 400 digits")
    for match in _POWER.finditer(text):
        if (
            len(match[1]) > 8
            or float(match[1].replace(",", "").rstrip(".").split(".")[0] or 0) > MAX_POWER
        ):
            raise RefusedError(f"a power above {MAX_POWER}")
    if _BIG_TOWER_PART.search(text):
        raise RefusedError("a tower of powers")
    if _COMBINATORIAL.search(text) or _LARGE_ARGUMENT.search(text):
        raise RefusedError("a factorial, binomial, root or power that is large")
    if len(_RANGE.findall(text)) > 2 or (_RANGE.search(text) and re.search(r"[0-9]{4,}", text)):
        raise RefusedError("a sum, product or integral over a long range")


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        if char in "({[":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")}]":
            depth -= 1
    return deepest


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[Any, ...]:
    return tuple(parse(f"${text}$", _CONFIG, parsing_timeout=None))


def parses(text: str) -> bool:
    """Whether the LaTeX grammar makes an expression of it (not only a string).

    Raises:
        RefusedError: it was not tried.
    """
    guard(text)
    return any(not isinstance(item, str) for item in _parsed(text))


def is_constant(text: str) -> bool:
    """Whether it is mathematics without variables, such as `3\\sqrt{2}`.

    Raises:
        RefusedError: it was not tried.
    """
    guard(text)
    return any(not isinstance(item, str) and not item.free_symbols for item in _parsed(text))


def numeric_value(text: str) -> Fraction | None:
    """The value of a real expression without variables, to DIGITS digits; None for another.

    Raises:
        RefusedError: it was not tried.
    """
    guard(text)
    for item in _parsed(text):
        if isinstance(item, str) or getattr(item, "free_symbols", True):
            continue
        value = item.evalf(DIGITS) if hasattr(item, "evalf") else None
        if getattr(value, "is_Float", False) or getattr(value, "is_Integer", False):
            return Fraction(str(value))
    return None


def math_equal(gold: str, answer: str, float_rounding: int = 6) -> bool:
    r"""Whether two LaTeX texts mean the same.

    >>> math_equal(r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}")
    True

    Raises:
        RefusedError: one of them was not tried.
    """
    guard(gold)
    guard(answer)
    if not any(c.isalnum() for c in answer):
        return False
    if have_same_terms(gold, answer):
        return True
    return verify(
        list(_parsed(gold)),
        list(_parsed(answer)),
        float_rounding=float_rounding,
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )
