r"""Left sides, relations between figures, and chains of inequalities.

`f(4)=9` is not `f(1)=9`; `PQ \perp RS` is `RS \perp PQ`; `P > Q > R` is `R < Q < P`.
"""

from __future__ import annotations

import re

from virgo_ray.verify.answers.clean import strip_fonts
from virgo_ray.verify.answers.names import with_plain_names
from virgo_ray.verify.answers.shape import split_assignment

_VECTOR = r"\\(?:vec|mathbf|boldsymbol|overrightarrow|hat)\s?\{[^{}]{1,10}\}"
# Products in which the order counts: of vectors with a cross, of matrices with a transpose.
_ORDERED = re.compile(rf"{_VECTOR}\s?\\times|\^\s?\{{?\s?(?:T|\\top|\\intercal|\\dagger)(?![a-z])")
_FACTOR = re.compile(rf"{_VECTOR}|[A-Za-z]\s?(?:\^\s?\{{?\s?(?:T|\\[a-z]{{3,8}}|-1)\s?\}}?)?")
_SYMMETRIC = re.compile(
    r"\\(?P<sign>perp|parallel|cong|equiv|nparallel|not\s?\\parallel|neq|ne)(?![A-Za-z])"
)
_CHAIN = re.compile(r"\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z])|[<>]=?")
_ASCENDING = {
    ">": "<", ">=": "<=", "\\gt": "<", "\\geq": "<=", "\\ge": "<=", "\\geqslant": "<=",
    "<": "<", "<=": "<=", "\\lt": "<", "\\leq": "<=", "\\le": "<=", "\\leqslant": "<=",
}  # fmt: skip
_CURVE = re.compile(r"(?P<function>[fghy])\((?P<variable>[a-xz])\)")
_ARGUMENT = re.compile(
    r"(\\(?:arc)?(?:sin|cos|tan|cot|sec|csc|log|ln|exp|lg)h?"
    r"(?:\s?[_^]\s?(?:\{[^{}]{1,8}\}|[0-9A-Za-z]))?)\s?"
    r"(?:\(\s?([A-Za-z]|\\[a-z]{2,8})\s?\)|\{\s?([A-Za-z]|\\[a-z]{2,8})\s?\})"
)


def left_sides_differ(gold: str, answer: str) -> bool:
    r"""Whether both say what something is, but of two things.

    Two equations between variables are left to algebra: `y=2x` and `x=y/2` say the same.

    >>> left_sides_differ("f(4)=9", "f(1)=9"), left_sides_differ("f(x)=2x", "y=2x")
    (True, False)
    """
    (name, right), (other, given) = split_assignment(gold), split_assignment(answer)
    if not name or not other or _figure(name) == _figure(other):
        return False
    if name.startswith("(") and sorted(name) == sorted(other):
        return False  # the unknowns of a point in another order
    words = [_words(side) for side in (name, other)]
    if any(words):
        return words[0] != words[1]
    if is_same_curve(name, other):
        return False
    is_algebra = _is_variable(name) and _is_variable(other)
    return not (is_algebra and _has_variable(right) and _has_variable(given))


def factors_are_swapped(gold: str, answer: str) -> bool:
    r"""Whether two products of vectors or matrices have the same factors in another order.

    >>> factors_are_swapped("A^T B^T", "B^T A^T"), factors_are_swapped("A^T B^T", "A^{T}B^{T}")
    (True, False)
    """
    if not all(_ORDERED.search(side) and "+" not in side for side in (gold, answer)):
        return False
    factors = [[re.sub(r"[{}\s]", "", f) for f in _FACTOR.findall(side)] for side in (gold, answer)]
    return factors[0] != factors[1] and sorted(factors[0]) == sorted(factors[1])


def is_unsolved(equation: str) -> bool:
    """Whether an equation says nothing of its right side: `0 = 12`, `3x = 12`.

    >>> is_unsolved("17 = 18"), is_unsolved("18x = 18"), is_unsolved("x = 18")
    (True, True, False)
    """
    if equation.count("=") != 1:
        return False
    left, right = (side.strip() for side in equation.split("="))
    if re.fullmatch(r"[0-9.]{1,12}\s?[A-Za-z]", left):
        return True
    are_whole = all(re.fullmatch("-?[0-9]{1,20}", side) for side in (left, right))
    return are_whole and int(left) != int(right)


def is_same_curve(name: str, other: str) -> bool:
    """Whether one calls f(x) what the other calls y."""
    names = {re.sub(r"\s", "", name), re.sub(r"\s", "", other)}
    return "y" in names and any(_CURVE.fullmatch(side) for side in names)


def _bare(name: str) -> str:
    name = _ARGUMENT.sub(lambda m: f"{m[1]} {m[2] or m[3]}", name)
    return re.sub(r"\s|^\(|\)$", "", with_plain_names(name))


def _is_variable(name: str) -> bool:
    """A letter, perhaps with marks, or a product of such: what algebra may move around."""
    return not re.search(r"\(|\\(?:sin|cos|tan|log|ln|angle|triangle)", name)


def _words(name: str) -> str:
    """A left side in words, whatever its font and case; empty for symbols."""
    text = re.sub(r"[{}]|\\(?![A-Za-z])", "", strip_fonts(name)).strip()
    has_words = "\\" not in text and "_" not in text and re.search(r"[A-Za-z]{3}", text)
    return re.sub(r"\s+", " ", text).casefold() if has_words else ""


def _has_variable(text: str) -> bool:
    text = re.sub(r"\\[A-Za-z]+", " ", strip_fonts(text))
    return bool(re.search(r"[a-zA-Z]", re.sub(r"(?<![A-Za-z])e(?![A-Za-z])", " ", text)))


def equal_symmetric(gold: str, answer: str) -> bool | None:
    r"""Whether two texts say the same of two figures; None where one says nothing of the kind.

    >>> equal_symmetric(r"PQ \perp RS", r"SR \perp PQ"), equal_symmetric(r"a \perp b", "x")
    (True, None)
    """
    right, given = _relation(gold), _relation(answer)
    if right is None or given is None:
        return None
    return right == given


def _relation(text: str) -> tuple[str, tuple[str, ...]] | None:
    match = _SYMMETRIC.search(text)
    if match is None or len(text) > 100 or len(_SYMMETRIC.findall(text)) > 1:
        return None
    sign = {"ne": "neq"}.get(match["sign"], match["sign"])
    sides = (text[: match.start()], text[match.end() :])
    if sign in ("neq", "equiv") and not all(_LINE.fullmatch(_bare(side)) for side in sides):
        return None
    return sign, tuple(sorted(_figure(side) for side in sides))


_LINE = re.compile(r"[A-Z]{2}")


def _figure(text: str) -> str:
    """A line through two points has no direction here."""
    text = re.sub(r"\\(?:overline|overleftrightarrow|text|mathrm)(?![a-z])|[{}\s]", "", text)
    return "".join(sorted(text)) if _LINE.fullmatch(text) else _bare(text)


def equal_chains(gold: str, answer: str) -> bool | None:
    """Whether two chains of names say the same; None where one of them is no chain of three.

    >>> equal_chains("P > Q > R", "R<Q<P"), equal_chains("a<b<c", "a<c<b"), equal_chains("a", "b")
    (True, False, None)
    """
    right, given = _chain(gold), _chain(answer)
    return None if right is None or given is None else right == given


def _chain(text: str) -> list[str] | None:
    signs = [m.group() for m in _CHAIN.finditer(text[:300])]
    if not 2 <= len(signs) <= 20:
        return None
    terms = [_bare(term) for term in _CHAIN.split(text[:300])]
    turned = [_ASCENDING[sign] for sign in signs]
    is_turned = [">" in s or "g" in s for s in signs]
    if any(is_turned) != all(is_turned):
        return None
    if is_turned[0]:
        terms, turned = terms[::-1], turned[::-1]
    return [part for pair in zip(terms, [*turned, ""], strict=True) for part in pair]
