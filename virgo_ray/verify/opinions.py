"""Second opinions on a judged response: right answer, wrong thought?

Each is a short class with one method, `ask(item, answer) -> Second`. They change no verdict: the
caller decides what a doubt costs. The two here read only the text; llm_judge.py asks a model.

The arithmetic is recomputed with exact fractions by a parser of our own, not by sympy: reading
model text with sympy's parser would be `eval`, and its LaTeX parser needs milliseconds for every
step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Protocol

from virgo_ray.records import AnswerType
from virgo_ray.verify.clean import clean
from virgo_ray.verify.equal import equal
from virgo_ray.verify.extract import FORMATS, extract, solution_part
from virgo_ray.verify.gold import gold_answer
from virgo_ray.verify.infer import infer_type
from virgo_ray.verify.item import Item
from virgo_ray.verify.mathcheck import RefusedError
from virgo_ray.verify.narrow import narrow

MAX_STEPS = 2000
MAX_DIGITS = 15
MAX_POWER = 20


class Opinion(StrEnum):
    """What a second opinion says; UNKNOWN where it cannot tell."""

    AGREES = "agrees"
    DOUBTS = "doubts"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Second:
    """An opinion and its reason: the first wrong step, the other conclusion, why it is unknown."""

    opinion: Opinion
    reason: str = ""


class SecondOpinion(Protocol):
    def ask(self, item: Item, answer: str) -> Second:
        """An opinion on a response (`item.text`) of which `answer` was extracted."""
        ...


# --- arithmetic ----------------------------------------------------------------------------------

_NUMBER = r"(?:[0-9]{1,15}(?:,[0-9]{3})*(?:\.[0-9]{1,15})?)"
_STEP = re.compile(
    rf"(?<![\w.^_/*+\-=(])(?P<left>-?\(?\s?-?{_NUMBER}(?:[\s()]*(?:\*\*|[-+*/^])[\s()]*-?{_NUMBER}\)?){{1,20}})"
    rf"\s?=\s?(?P<right>-?{_NUMBER}(?:\s?/\s?{_NUMBER})?)(?![\w^*/%]|\.[0-9]|\s?[-+*/^(\\])"
)
_TOKEN = re.compile(rf"\s*({_NUMBER}|\*\*|[-+*/^()])")


class StepCheck:
    """Recomputes every `a + b = c` that the response writes.

    A wrong step that is computed again rightly later (the same left side) is a corrected slip.

    >>> StepCheck().ask(Item("", "7 + 5 = 12. Then 12 - 4 = 9."), "9").reason
    '12 - 4 = 9, but it is 8'
    """

    def ask(self, item: Item, answer: str) -> Second:
        steps = find_steps(item.text)
        right = {left for left, said, value in steps if said == value}
        wrong = [(left, said, value) for left, said, value in steps if said != value]
        for left, said, value in wrong:
            if left not in right:
                return Second(Opinion.DOUBTS, f"{left} = {said}, but it is {value}")
        if not steps:
            return Second(Opinion.UNKNOWN, "no arithmetic was found")
        return Second(Opinion.AGREES, f"{len(steps)} steps")


def find_steps(text: str) -> list[tuple[str, Fraction, Fraction]]:
    """(left side, stated value, computed value) of every step of plain arithmetic.

    A stated decimal that is the computed value rounded to its places counts as that value.
    """
    text = re.sub(r"\\times|\\cdot", "*", text.replace("\u00d7", "*").replace("\u00f7", "/"))
    text = text.replace("\u2212", "-").replace("\\div", "/")
    steps = []
    for match in list(_STEP.finditer(text))[:MAX_STEPS]:
        try:
            value, said = evaluate(match["left"]), evaluate(match["right"])
        except ArithmeticError:
            continue
        places = len(match["right"].partition(".")[2])
        rounded = places > 0 and round(value, places) == said
        left = re.sub(r"\s+", " ", match["left"]).strip()
        steps.append((left, value if rounded else said, value))
    return steps


def evaluate(text: str) -> Fraction:
    """The value of plain arithmetic with + - * / ^ and parentheses, exactly.

    >>> evaluate("2 * (3 - 1/2)^2")
    Fraction(25, 2)

    Raises:
        ArithmeticError: malformed, a division by zero, or a power above MAX_POWER.
    """
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s+", "", text) or len(tokens) > 200:
        raise ArithmeticError(f"{text[:60]!r} is not plain arithmetic")
    value, rest = _sum(tokens)
    if rest:
        raise ArithmeticError(f"{text[:60]!r} is not plain arithmetic")
    return value


def _sum(tokens: list[str]) -> tuple[Fraction, list[str]]:
    value, tokens = _product(tokens)
    while tokens and tokens[0] in "+-":
        term, rest = _product(tokens[1:])
        value, tokens = (value + term if tokens[0] == "+" else value - term), rest
    return value, tokens


def _product(tokens: list[str]) -> tuple[Fraction, list[str]]:
    value, tokens = _power(tokens)
    while tokens and tokens[0] in ("*", "/"):
        factor, rest = _power(tokens[1:])
        value, tokens = (value * factor if tokens[0] == "*" else value / factor), rest
    return value, tokens


def _power(tokens: list[str]) -> tuple[Fraction, list[str]]:
    if tokens and tokens[0] == "-":
        value, tokens = _power(tokens[1:])
        return -value, tokens
    value, tokens = _atom(tokens)
    if tokens and tokens[0] in ("^", "**"):
        exponent, tokens = _power(tokens[1:])
        if (
            exponent.denominator != 1
            or abs(exponent) > MAX_POWER
            or value.numerator > 10**MAX_DIGITS
        ):
            raise ArithmeticError(f"the power {exponent} is not computed")
        value = value ** int(exponent)
    return value, tokens


def _atom(tokens: list[str]) -> tuple[Fraction, list[str]]:
    if not tokens:
        raise ArithmeticError("a number is missing")
    if tokens[0] == "(":
        value, tokens = _sum(tokens[1:])
        if not tokens or tokens[0] != ")":
            raise ArithmeticError("a parenthesis is not closed")
        return value, tokens[1:]
    if not tokens[0][0].isdigit():
        raise ArithmeticError(f"{tokens[0]!r} is no number")
    return Fraction(tokens[0].replace(",", "")), tokens[1:]


# --- consistency ---------------------------------------------------------------------------------


class Consistency:
    """Whether the thought comes to the answer that the solution gives.

    >>> text = "<think>so the answer is 7.</think> \\\\boxed{8}"
    >>> Consistency().ask(Item("8", text), "8").opinion.value
    'doubts'
    """

    def ask(self, item: Item, answer: str) -> Second:
        thought = thought_part(item.text)
        answer_type = AnswerType(item.answer_type)
        if answer_type is AnswerType.AUTO:
            answer_type = infer_type(gold_answer(item.gold), item.options)
        found = narrow(extract(thought), answer_type, item.options)
        if found.rule not in ("boxed", "boxed_list", "stated"):
            return Second(Opinion.UNKNOWN, "the thought states no conclusion")
        try:
            same = equal(answer, found.answer, answer_type, item.options)
        except RefusedError as refused:
            return Second(Opinion.UNKNOWN, f"not compared: {refused}")
        if same:
            return Second(Opinion.AGREES, found.answer[:100])
        return Second(Opinion.DOUBTS, f"the thought concludes {clean(found.answer)[:100]!r}")


def thought_part(text: str) -> str:
    """The thought of a tagged response; empty for a response without one."""
    for tags in FORMATS:
        before, closed, _ = text.rpartition(tags.end_thought)
        if closed and not solution_part(text).is_truncated:
            return before.partition(tags.begin_thought)[2] or before
    return ""
