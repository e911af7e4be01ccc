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

from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy import Expr
from sympy.core.relational import Equality, Relational

from virgo_ray.verify.answers.compare import same_relation, same_scalar, with_imaginary_unit
from virgo_ray.verify.answers.names import with_plain_names
from virgo_ray.verify.answers.terms import have_same_terms
from virgo_ray.verify.answers.units import parse_units

MAX_CHARS = 1500
MAX_DEPTH = 30
MAX_POWER = 1000
MAX_COMMANDS = 200
DIGITS = 30

# Our own deadline stands outside; math-verify would warn about it for every process.
logging.getLogger("math_verify").setLevel(logging.ERROR)
logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)

_NORMALIZE = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
_CASED = ConversionConfig(lowercase_symbols=False)
_TRIGONOMETRIC = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(
    r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?(?:\^\s?(?:\{\s?\\circ\s?\}|\\circ)|\\degree)"
)
_UNIT = re.compile(
    r"(?P<value>.*[0-9}A-Za-z)])\s*\\(?:text|mathrm|mbox|textrm)\s?\{(?P<unit>[^{}]{1,40})\}"
    r"(?P<power>\s?(?:\^\s?\{?\s?-?[1-3]\s?\}?)?)\s*$"
)
_HUGE = re.compile(r"[0-9]{400}")
_POWER = re.compile(r"(?:\^|\*\*)\s?\{?\s?[-+(]{0,3}\s?([0-9][0-9.,]*)")
_BIG_TOWER_PART = re.compile(
    r"(?:\^|\*\*)\s?[{(]{0,3}\s?-?[0-9]+\s?[})]{0,3}\s?(?:\^|\*\*)|(?:\^|\*\*)\s?\{[^{}]{0,60}(?:\^|\*\*)"
)
# The grammar tries every way to read `x^x^x^x`.
_ENDLESS_TOWER = re.compile(r"(?:\^\s?\{?\s?\\?[A-Za-z0-9]{0,9}\s?){4}")
_COMBINATORIAL = re.compile(
    r"([0-9]{4,})\s?[)}]{0,4}\s?!|!\s?[)}]{0,4}\s?!|\\binom\s?\{?\s?[0-9]{4,}|\\sqrt\s?\[\s?[^\]]{4,}\]"
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
    if _BIG_TOWER_PART.search(text) or _ENDLESS_TOWER.search(text):
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
    """What the grammar makes of a text: at most one expression, none for what it cannot read."""
    text = normalize_latex(with_plain_names(text), _NORMALIZE)
    is_complex = bool(re.search(r"(?<![A-Za-z\\])i(?![A-Za-z])", text))
    for part in (text, text.rpartition("=")[2] if "=" in text else ""):
        try:
            if part.strip():
                found = latex2sympy(
                    part,
                    is_real=not is_complex,
                    normalization_config=None,
                    conversion_config=_CASED,
                )
                return (found,)
        except (MemoryError, RecursionError):  # no verdict: ERROR, never WRONG
            raise
        except Exception as unreadable:  # the grammar raises bare Exceptions
            logging.debug("not read: %s", unreadable)
    return ()


def parses(text: str) -> bool:
    """Whether the LaTeX grammar makes an expression of it (not only a string).

    Raises:
        RefusedError: it was not tried.
    """
    guard(text)
    return bool(_parsed(text))


def expression(text: str) -> Any:
    """What the grammar makes of a text, None where it can make nothing of it.

    Raises:
        RefusedError: it was not tried.
    """
    guard(text)
    return next(iter(_parsed(text)), None)


def constant(text: str) -> Any:
    """Mathematics without variables, such as `3\\sqrt{2}`, as a sympy number; None for all else.

    Raises:
        RefusedError: it was not tried.
    """
    item = expression(text)
    return item if isinstance(item, Expr) and not item.free_symbols else None


def is_constant(text: str) -> bool:
    """Whether it is mathematics without variables, such as `3\\sqrt{2}`.

    Raises:
        RefusedError: it was not tried.
    """
    return constant(text) is not None


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
    if not gold.isascii() or not answer.isascii():
        return bool(gold) and _bare(gold) == _bare(answer)
    guard(gold)
    guard(answer)
    if not any(c.isalnum() for c in answer):
        return False
    if have_same_terms(gold, answer):
        return True
    (gold, unit), (answer, given_unit) = _split_unit(gold), _split_unit(answer)
    if unit and given_unit and unit != given_unit:
        return False
    pairs = dict.fromkeys([(with_degrees(gold), with_degrees(answer)), (gold, answer)])
    if any(_TRIGONOMETRIC.search(side) for side in (gold, answer)):
        pairs = dict.fromkeys([(with_degrees(gold), with_degrees(answer))])
    return any(_texts_equal(a, b, float_rounding) for a, b in pairs)


def _split_unit(text: str) -> tuple[str, str]:
    r"""`3\sqrt{2} \text{ cm}` without its unit, and the unit."""
    match = _UNIT.match(text)
    unit = match["unit"].strip() if match else ""
    if match is None or unit in ("e", "i", "j", "d") or not parse_units(unit):
        return text, ""
    return match["value"].strip(), re.sub(
        r"\s", "", unit.lower().removesuffix("s") + match["power"]
    )


def with_degrees(text: str) -> str:
    r"""Degrees as the angle that they are: `90^\circ` is `(\frac{90\pi}{180})`."""
    return _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)


def _texts_equal(gold: str, answer: str, float_rounding: int) -> bool:
    right, given = _parsed(gold), _parsed(answer)
    if not right or not given:
        return _bare(gold) == _bare(answer)
    return _same(right[0], given[0], float_rounding)


def _bare(text: str) -> str:
    """What the grammar cannot read is the same only where it is written the same."""
    return re.sub(r"[\s{}]", "", with_plain_names(text))


def _same(gold: Any, answer: Any, float_rounding: int) -> bool:
    gold, answer = with_imaginary_unit(gold, answer)
    if isinstance(answer, Equality) and isinstance(gold, Expr):
        answer = answer.rhs
    if isinstance(gold, Equality) and gold.lhs.is_Symbol and isinstance(answer, Expr):
        gold = gold.rhs
    if gold == answer:
        return True
    if isinstance(gold, Relational) and isinstance(answer, Relational):
        same = same_relation(gold, answer)
    else:
        same = same_scalar(gold, answer)
    if same is not None:
        return same
    return verify(
        [gold],
        [answer],
        float_rounding=float_rounding,
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )
