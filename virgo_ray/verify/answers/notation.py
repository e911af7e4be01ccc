r"""One spelling for formulas that mean the same: `z**2`, `B \cup A`, "(q>0)" behind a formula."""

from __future__ import annotations

import re

from virgo_ray.verify.answers.clean import strip_fonts

MAX_CHARS = 300

_POWER = re.compile(r"(?<=[0-9A-Za-z)}\]])\s?\*\*\s?(-?[0-9]{1,20}|(?=[({A-Za-z\\]))")
_OPERAND = (
    r"(?:[A-Z](?:'|\^\s?\{?\s?[cC]\s?\}?|_\s?\{?[0-9]\}?)?|\\(?:overline|bar)\s?\{?\s?[A-Z]\s?\}?)"
)
# Between brackets, commas or relations: beside another operator, the order counts.
_COMMUTING = re.compile(
    rf"(?P<before>^|[(=|,]\s?)(?P<all>{_OPERAND}(?:\s?\\(?P<sign>cup|cap|lor|land|vee|wedge)\s?"
    rf"{_OPERAND})(?:\s?\\(?P=sign)\s?{_OPERAND}){{0,6}})(?=\s?(?:$|[)=|,]))"
)
_CONDITION = re.compile(
    r"(?P<value>.+?)[\s,;]{1,4}(?:\(\s?)?(?:(?:for|if|when|where|with|provided|assuming)\s)?"
    r"(?P<left>[A-Za-z0-9-]{1,6})\s?(?:[<>]=?|\\(?:leq?|geq?|neq?|lt|gt)(?![A-Za-z]))\s?"
    r"(?P<right>[A-Za-z0-9-]{1,6})\s?\)?"
)
_RELATION = re.compile(
    r"[<>|,;]|\\(?:leq?|geq?|neq?|lt|gt|in|cup|begin)(?![A-Za-z])|\bor\b|\band\b"
)


def in_one_notation(text: str) -> str:
    r"""Powers with `^`, and the operands of union, intersection, "and" and "or" in order.

    >>> in_one_notation("z**2"), in_one_notation(r"P(B \cup A)=1")
    ('z^{2}', 'P(A \\cup B)=1')
    """
    if len(text) > MAX_CHARS:
        return text
    text = _POWER.sub(lambda m: f"^{{{m[1]}}}" if m[1] else "^", text)
    return _COMMUTING.sub(_in_order, text) if "\\" in text else text


def _in_order(match: re.Match[str]) -> str:
    sign = match["sign"]
    operands = sorted(part.strip() for part in re.split(rf"\\{sign}", match["all"]))
    return match["before"] + f" \\{sign} ".join(operands)


def without_side_condition(gold: str, answer: str) -> str:
    r"""The answer without what it says of its variable, where the gold answer says nothing of it.

    >>> without_side_condition("2q+1", "2q+1 (q>0)"), without_side_condition("x>1", "x>1, x<3")
    ('2q+1', 'x>1, x<3')
    """
    if len(answer) > MAX_CHARS or _RELATION.search(gold):
        return answer
    match = _CONDITION.fullmatch(re.sub(r"\s+", " ", strip_fonts(answer)))
    if match is None or _RELATION.search(match["value"]):
        return answer
    names = [side for side in (match["left"], match["right"]) if re.fullmatch("[A-Za-z]", side)]
    formula = re.sub(r"\\[A-Za-z]+", " ", match["value"].rpartition("=")[2])
    is_of_it = len(names) == 1 and names[0] in formula and names[0] in gold
    return match["value"].strip() if is_of_it else answer
