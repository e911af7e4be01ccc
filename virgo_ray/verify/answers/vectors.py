r"""Vectors as sums of unit vectors: `3\hat{i}-4\hat{j}` and `3\mathbf{i}-4\mathbf{j}` are (3,-4).

Letters without a mark are unit vectors only beside a vector in another notation: alone, `3i+4j`
may be a complex number or a formula.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from virgo_ray.verify.answers.clean import clean
from virgo_ray.verify.answers.shape import parse_shape, without_assignment

MAX_CHARS = 300
Compare = Callable[[str, str], bool]

_FONT = r"\\(?:hat|widehat|vec|mathbf|boldsymbol|bm|textbf|overrightarrow|mathrm|text)"
_MARKED = re.compile(
    rf"{_FONT}\s?\{{\s?(?:{_FONT}\s?\{{\s?)?(?P<in>\\[ij]math|[ijk])\s?\}}?\s?\}}"
    r"|\\(?:hat|vec)\s?(?P<bare>\\[ij]math|[ijk])(?![A-Za-z])"
)
_UNIT = re.compile(r"(?P<coefficient>.*?)\s?(?:\\cdot|\*)?\s?\\unit(?P<name>[ijk])")


@dataclass(frozen=True)
class Vector:
    """`is_marked` where the unit vectors have hats, arrows or another font than variables."""

    parts: tuple[str, str, str]
    is_marked: bool


def parse_vector(text: str) -> Vector | None:
    r"""The components along i, j and k; None where a term is along none of them.

    >>> parse_vector(r"3\hat{i}-\hat{k}")
    Vector(parts=('3', '0', '-1'), is_marked=True)
    >>> parse_vector("2+3i") is None
    True
    """
    if len(text) > MAX_CHARS:
        return None
    text = without_assignment(clean(text))
    marked = _MARKED.sub(lambda m: "\\unit" + (m["in"] or m["bare"]).strip("\\")[0], text)
    is_marked = marked != text
    if not is_marked:
        marked = re.sub(r"(?<![A-Za-z\\])([ijk])(?=\s?(?:[+-]|$))", r"\\unit\1", text)
    parts: dict[str, str] = {}
    for term in _terms(marked):
        match = _UNIT.fullmatch(term)
        if match is None or match["name"] in parts or "\\unit" in match["coefficient"]:
            return None
        parts[match["name"]] = _coefficient(match["coefficient"])
    if not parts or (len(parts) < 2 and not is_marked):
        return None
    return Vector((parts.get("i", "0"), parts.get("j", "0"), parts.get("k", "0")), is_marked)


def _terms(text: str) -> list[str]:
    """The summands with their signs."""
    starts, depth = [0], 0
    for position, char in enumerate(text):
        depth += (char in "({[") - (char in ")}]")
        if char in "+-" and depth == 0 and text[:position].strip():
            starts.append(position)
    pairs = zip(starts, [*starts[1:], len(text)], strict=True)
    return [text[start:end].strip() for start, end in pairs]


def _coefficient(text: str) -> str:
    bare = text.replace(" ", "").removeprefix("+")
    return bare + "1" if bare in ("", "-") else text.removeprefix("+").strip()


def equal_vectors(gold: str, answer: str, same: Compare) -> bool | None:
    r"""Whether two vectors are the same; None where neither is a sum of unit vectors, or one of
    them is no vector.

    >>> equal_vectors(r"6\hat{i}+8\hat{j}", "(6,8)", str.__eq__)
    True
    """
    right, given = parse_vector(gold), parse_vector(answer)
    if right and given:
        return _all_same(right.parts, given.parts, same) if _is_vector(right, given) else None
    vector, other = (right, answer) if right else (given, gold)
    row = _row(other)
    if vector is None or row is None:
        return None
    parts, row = vector.parts, (*row, "0")[:3] if len(row) == 2 else row
    if len(row) != 3:
        return False
    return _all_same(*((parts, row) if right else (row, parts)), same)


def _is_vector(right: Vector, given: Vector) -> bool:
    return right.is_marked or given.is_marked


def _row(text: str) -> tuple[str, ...] | None:
    """The components of a tuple, or of a row or column of a matrix."""
    shape = parse_shape(without_assignment(clean(text)))
    if shape is None:
        return None
    is_row = shape.kind == "tuple" or (
        shape.kind == "matrix" and shape.num_columns in (1, len(shape.parts))
    )
    return shape.parts if is_row or shape.open + shape.close == "[]" else None


def _all_same(right: tuple[str, ...], given: tuple[str, ...], same: Compare) -> bool:
    return all(same(a, b) for a, b in zip(right, given, strict=True))
