r"""Solutions with several unknowns, systems and functions by cases, in one notation.

`x=1,y=2 or x=2,y=1` lists the points (1,2) and (2,1): the unknowns in the order of the alphabet.
A system in `cases` or `aligned` is the list of its rows; a function by cases is a set of pairs of a
value and its condition, in any order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from virgo_ray.verify.answers.clean import strip_fonts
from virgo_ray.verify.answers.shape import parse_shape, split_assignment, split_top

MAX_ROWS = 20
MAX_CHARS = 500
Compare = Callable[[str, str], bool]

_SYSTEM = re.compile(
    r"^(?P<before>[^\\]{0,20}(?:=\s?)?)(?:\\\{|\\lbrace|\{)?\s?"
    r"\\begin\{(?P<env>[dr]?cases|aligned|align\*?|gathered|split|array)\}(?:\{[lcr| ]{0,9}\})?"
    r"(?P<body>.*?)\\end\{(?P=env)\}\s?\.?$",
    re.DOTALL,
)
_CONDITION = re.compile(r"^(?:if|when|for|,|\\text|\\quad|\s)+(?![A-Za-z])", re.IGNORECASE)
_OR = r"(?<![A-Za-z\\])or(?![A-Za-z])|(?<=[0-9)}\]])or(?=[A-Za-z(\\])|;|\\lor"
_EITHER = r"(?<![A-Za-z\\])or(?![A-Za-z])|(?<=[0-9)}\]])or(?=[A-Za-z(\\])|\\lor|\\vee"
_AND = r",|(?<![A-Za-z\\])and(?![A-Za-z])|\\land|\\wedge"


@dataclass(frozen=True)
class Case:
    """A value and the condition under which a function has it."""

    value: str
    condition: str


def without_system(text: str) -> str:
    r"""A system as the list of its equations; other texts unchanged.

    >>> without_system(r"\begin{cases}x=6\\y=8\end{cases}")
    'x=6, y=8'
    """
    rows = _rows(text)
    if not rows or parse_cases(text):
        return text
    return ", ".join(row.replace("&", "").strip(" ,") for row in rows)


def _rows(text: str) -> list[str]:
    match = _SYSTEM.match(text)
    if match is None:
        return []
    return [row.strip() for row in match["body"].split("\\\\") if row.strip()][:MAX_ROWS]


def parse_cases(text: str) -> list[Case]:
    r"""The cases of a function.

    >>> parse_cases(r"f(x)=\begin{cases}x & x>0\\0 & \text{if } x\le 0\end{cases}")
    [Case(value='x', condition='x>0'), Case(value='0', condition='x\\le 0')]
    """
    rows = [[cell.strip() for cell in row.split("&")] for row in _rows(text)]
    if not rows or any(len(row) != 2 or re.match("[=<>]|$", row[1]) for row in rows):
        return []
    return [Case(row[0].rstrip(" ,"), _condition(row[1])) for row in rows]


def _condition(text: str) -> str:
    text = strip_fonts(text).strip(" ,.")
    return re.sub(r"^(?:if|when|for|where)\s+", "", text)


def equal_cases(gold: str, answer: str, same: Compare) -> bool | None:
    """Whether two functions by cases have the same cases; None where one has none."""
    right, given = parse_cases(gold), parse_cases(answer)
    if not right or not given:
        return None
    if len(right) != len(given):
        return False
    left = list(given)
    for case in right:
        twin = next((other for other in left if _same_case(case, other, same)), None)
        if twin is None:
            return False
        left.remove(twin)
    return True


def _same_case(gold: Case, answer: Case, same: Compare) -> bool:
    return same(gold.value, answer.value) and same(gold.condition, answer.condition)


def equal_points(gold: str, answer: str, same: Compare) -> bool | None:
    """Whether two lists of solutions hold the same points; None where neither names unknowns, or
    one of them lists no points."""
    right, given = parse_points(gold), parse_points(answer)
    if not right or not given or not (right[0][0] or given[0][0]):
        return None
    return _all_found(right, given, same) and _all_found(given, right, lambda a, b: same(b, a))


Point = tuple[str, tuple[str, ...]]


def parse_points(text: str) -> list[Point]:
    """(names of the unknowns, values) for every solution listed.

    >>> parse_points("x=1,y=2 or y=1,x=2")
    [('x y', ('1', '2')), ('x y', ('2', '1'))]
    """
    text = strip_fonts(text)
    shape = parse_shape(text)
    if shape and shape.kind == "set" and shape.open == "{":
        text = (
            text.strip().removeprefix("\\").removesuffix("}").removesuffix("\\").removeprefix("{")
        )
    points: list[Point] = []
    for piece in split_top(text, _OR):
        found = _points_of(piece)
        if not found:
            return []
        points += found
    return points


def _points_of(piece: str) -> list[Point]:
    parts = split_top(piece, _AND)
    named = [split_assignment(part) for part in parts]
    unknowns = re.fullmatch(r"\(([^()]+)\)", named[0][0]) if len(named) == 1 else None
    if unknowns:
        return _named_point(unknowns[1].split(","), _tuple(named[0][1]))
    if all(name.startswith("(") or not name for name, _ in named):
        return [point for _, value in named for point in _tuple(value)] * _all_tuples(named)
    if len(parts) < 2 or not all(re.fullmatch(r"[A-Za-z](?:_\{?\w\}?)?", n) for n, _ in named):
        return []
    named.sort()
    return [(" ".join(n for n, _ in named), tuple(value for _, value in named))]


def _named_point(names: list[str], points: list[Point]) -> list[Point]:
    """`(z,q)=(6,8)` in the order in which it is written, that of a point without names too."""
    if len(points) != 1 or len(points[0][1]) != len(names):
        return points
    return [(" ".join(name.strip() for name in names), points[0][1])]


def are_alternatives(text: str) -> bool:
    """Whether a text joins values of different unknowns by "or", which is no system.

    >>> are_alternatives("x=1 or y=2"), are_alternatives("x=1 or x=2")
    (True, False)
    """
    text = strip_fonts(text)
    if len(text) > MAX_CHARS:
        return False
    names = [
        {split_assignment(part)[0] for part in split_top(piece, _AND)}
        for piece in split_top(text, _EITHER)
    ]
    return len(names) > 1 and all(all(some) for some in names) and any(names[0] != n for n in names)


def _all_tuples(named: list[tuple[str, str]]) -> bool:
    return all(_tuple(value) for _, value in named)


def _tuple(text: str) -> list[Point]:
    shape = parse_shape(text)
    return [("", shape.parts)] if shape and shape.kind == "tuple" else []


def _all_found(these: list[Point], those: list[Point], same: Compare) -> bool:
    return all(any(_same_point(a, b, same) for b in those) for a in these)


def _in_alphabet(point: Point) -> Point:
    names = point[0].split()
    if len(names) != len(point[1]):
        return point
    pairs = sorted(zip(names, point[1], strict=True))
    return " ".join(name for name, _ in pairs), tuple(value for _, value in pairs)


def _same_point(gold: Point, answer: Point, same: Compare) -> bool:
    if gold[0] and answer[0]:
        gold, answer = _in_alphabet(gold), _in_alphabet(answer)
    if len(gold[1]) != len(answer[1]) or (gold[0] and answer[0] and gold[0] != answer[0]):
        return False
    return all(same(a, b) for a, b in zip(gold[1], answer[1], strict=True))
