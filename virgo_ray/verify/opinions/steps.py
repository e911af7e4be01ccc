r"""Plain arithmetic as model text writes it, found in prose and checked step by step.

Guarantees: time linear in the length of the text; at most MAX_EQUATIONS of MAX_TOKENS tokens to a
side. Read are + - * / ^, parentheses, \frac, \sqrt (with an index), percent and "of" after a share;
degrees, dollars and thousands separators are looked through. Whatever holds a letter is left alone:
a doubt must be right more often than a step is seen.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass

from sympy import Expr, Rational

from virgo_ray.verify.opinions.arithmetic import CLOSING, OPENING, ROOTS, evaluate

MAX_TOKENS = 60
MAX_EQUATIONS = 2000
# Of numbers with roots in them; a stated decimal never has as many.
DIGITS = 30
# What a calculator shows of 4.2 * 7: 29.400000000000002.
FLOAT_NOISE = Rational(1, 10**14)

_NUMBER = r"[0-9]{1,15}(?:,[0-9]{3})*(?:\.[0-9]{1,15})?"
_TOKEN = re.compile(
    rf"{_NUMBER}|\*\*|\\[dt]?frac|\\sqrt|sqrt|\u221a|\\?%|\bof\b|[-+*/^(){{}}\[\]=]"
)
_OPERATORS = frozenset(("+", "-", "*", "/", "^", "**", "of"))
# One spelling for each thing; what only dresses a number is taken away.
_SPELLINGS = (
    (re.compile(r"\\times(?![a-z])|\\cdot(?![a-z])|\u00d7|\u22c5|(?<=[0-9]) x (?=[0-9])"), "*"),
    (re.compile(r"\\div(?![a-z])|\u00f7"), "/"),
    (re.compile(r"\u2212"), "-"),
    (re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,;!: ]|\^\{?\\circ\}?|\u00b0|\\?\$"), ""),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"\{,\}"), ","),
)
# Before a left side: part of a name, a number or a formula. After a right side: it goes on.
_GOES_ON_LEFT = re.compile(r"[\w.^_:\\}\])]$")
# "x - 3", "f (3)", "7 -3": the sign or the parenthesis belongs to what stands before it.
_OWNED = re.compile(r"(?:^|\W)[A-Za-z]\s*$|[0-9)}\]]\s*$")
_SHARE = re.compile(
    r"(?:half|third|quarter|fourth|fifth|sixth|eighth|tenth|percent|part|fraction|root|square)s?\s*$",
    re.IGNORECASE,
)
_GOES_ON_RIGHT = re.compile(
    r"[\w^_(]|\.[0-9]|\s?\\(?!text|mathrm|quad|qquad|[^A-Za-z])"
    r"|\s?\(?(?:mod|remainder|rem|[rR][0-9]?)\b"
)


@dataclass(frozen=True)
class Step:
    """One `left = right` of a text; `value` is what the left side comes to."""

    left: str
    right: str
    value: Expr
    is_right: bool


def find_steps(text: str) -> Iterator[Step]:
    r"""Yield every equation between plain numbers whose left side computes something.

    A right side that computes again (`3 + 4 = 7 + 2 = 9`) counts only where it is right: such lines
    are notes, not claims.

    >>> [(s.left, s.right, s.is_right) for s in find_steps("x = sqrt(2) * sqrt(8) = 4")]
    [('sqrt(2) * sqrt(8)', '4', True)]
    """
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    tokens = list(_TOKEN.finditer(text))
    equations = [index for index, token in enumerate(tokens) if token.group() == "="]
    for index in equations[:MAX_EQUATIONS]:
        left, right = _find_left_side(text, tokens, index), _find_right_side(text, tokens, index)
        step = _read_step(text, left, right) if left and right else None
        if step is not None:
            yield step


Tokens = list["re.Match[str]"]


def _find_left_side(text: str, tokens: Tokens, index: int) -> Tokens:
    """Find the run of tokens that ends at tokens[index]; empty where it does not stand alone."""
    side: Tokens = []
    depth = 0
    for token in reversed(tokens[max(0, index - MAX_TOKENS - 1) : index]):
        end = side[0].start() if side else tokens[index].start()
        depth += (token.group() in CLOSING) - (token.group() in OPENING)
        if token.group() == "=" or depth < 0 or text[token.end() : end].strip(" "):
            break
        side.insert(0, token)
    for index in _find_unmatched(side, CLOSING, OPENING)[-1:]:  # "1) 3 + 4"
        side = side[index + 1 :]
    if side and side[0].group() == "of" and not _SHARE.search(_cut_line_before(text, side[0])):
        side = side[1:]  # "a total of 3 + 4"
    if len(side) > MAX_TOKENS or not side:
        return []
    before = _cut_line_before(text, side[0])
    first, has_space = side[0].group(), text.startswith(" ", side[0].end())
    if first == "-" and not before.strip(" "):  # a bullet, or a sign at the line's start
        return side[1:] if has_space else side
    if first in _OPERATORS and (first != "-" or has_space):
        return []
    is_owned = first in ("-", "(") and _OWNED.search(before)
    return [] if is_owned or _GOES_ON_LEFT.search(before.rstrip("(")) else side


def _cut_line_before(text: str, token: re.Match[str]) -> str:
    return text[max(0, token.start() - 20) : token.start()].rpartition("\n")[2]


def _find_right_side(text: str, tokens: Tokens, index: int) -> Tokens:
    """Find the run of tokens after tokens[index]; empty where the text goes on with it."""
    side: Tokens = []
    depth = 0
    for token in tokens[index + 1 : index + MAX_TOKENS + 2]:
        start = side[-1].end() if side else tokens[index].end()
        depth += (token.group() in OPENING) - (token.group() in CLOSING)
        if token.group() == "=" or depth < 0 or text[start : token.start()].strip(" "):
            break
        side.append(token)
    for index in _find_unmatched(side[::-1], OPENING, CLOSING)[-1:]:  # "7 (as we saw)"
        side = side[: len(side) - index - 1]
    if len(side) > MAX_TOKENS or not side or side[-1].group() in _OPERATORS:
        return []
    return [] if _GOES_ON_RIGHT.match(text, side[-1].end()) else side


def _find_unmatched(side: Tokens, lone: Container[str], partner: Container[str]) -> list[int]:
    """Find where a bracket of `lone` stands without one of `partner` before it."""
    found, num_open = [], 0
    for index, token in enumerate(side):
        num_open += token.group() in partner
        if token.group() in lone:
            if not num_open:
                found.append(index)
            num_open = max(0, num_open - 1)
    return found


def _read_step(text: str, left: Tokens, right: Tokens) -> Step | None:
    words = [token.group() for token in left]
    said_words = [token.group() for token in right]
    if (
        not _is_computation(words)
        and not ROOTS.intersection(words)
        and "frac" not in "".join(words)
    ):
        return None
    try:
        value, said = evaluate(words), evaluate(said_words)
        is_right = _is_statement(said, said_words, value)
    except ArithmeticError:
        return None
    if not is_right and _is_computation(said_words, may_divide=True):
        return None
    return Step(_show(text, left), _show(text, right), value, is_right)


def _show(text: str, side: Tokens) -> str:
    return " ".join(text[side[0].start() : side[-1].end()].split())


def _is_computation(words: list[str], may_divide: bool = False) -> bool:
    """Whether these are more than one number with a sign; 3/4 is a number if it `may_divide`."""
    bare = words[1:] if words[0] == "-" else words
    if may_divide and len(bare) == 3 and bare[1] == "/":
        return False
    return not _OPERATORS.isdisjoint(bare)


def _is_statement(said: Expr, words: list[str], value: Expr) -> bool:
    """Whether a right side states the value: 3/4 is 0.75, 75% and, times 100, 75%."""
    is_percent = words[-1] in ("%", "\\%")
    number = words[-2] if is_percent else words[-1]
    places = len(number.partition(".")[2])
    if not is_percent:
        return _is_value(said, places, value)
    return _is_value(said, places + 2, value) or _is_value(100 * said, places, value)


def _is_value(said: Expr, places: int, value: Expr) -> bool:
    """Equal, or a decimal that is the value rounded or cut to its places."""
    difference = said - value
    if difference.is_Rational:
        is_equal = difference.is_zero
    else:
        is_equal = abs(difference.evalf(DIGITS)) < 10 ** (8 - DIGITS)
    if is_equal or not places:
        return bool(is_equal)
    exact = value if value.is_Rational else Rational(str(value.evalf(DIGITS)))
    off = abs(said - exact)
    is_cut = off * 10**places < 1 and abs(said) <= abs(exact)
    is_rounded = off * 10**places <= Rational(1, 2) or off <= abs(exact) * FLOAT_NOISE
    return bool(is_cut or is_rounded)
