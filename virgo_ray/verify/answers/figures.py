r"""Figures named by their points: "segment AB" is `\overline{AB}`, "ray AB" `\overrightarrow{AB}`.

A bare `AB` may be the segment, the line or the side, and no ray.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from virgo_ray.verify.answers.clean import clean, strip_fonts

_POINTS = r"\s?\{?\s?(?P<points>(?:[A-Z]'{0,2}(?:_\{?[0-9]\}?)?\s?){1,6})\}?"
_WORDS = re.compile(
    r"(?:the )?(?P<what>line segment|segment|side|chord|edge|diagonal|line|ray|vector|point|vertex"
    r"|angle|triangle)s? " + _POINTS,
    re.IGNORECASE,
)
_WORD = re.compile(
    r"(?:the )?(?:line|segment|side|chord|edge|diagonal|ray|vector|point|vertex|angle|triangle)s? ",
    re.IGNORECASE,
)
_SIGNS = re.compile(
    r"(?:[Tt]he )?(?:(?:(?:[Ll]ine )?[Ss]egment|[Ss]ide|[Ll]ine|[Rr]ay|[Vv]ector) )?"
    r"\\(?P<what>overline|overleftrightarrow|overrightarrow|vec|angle|triangle)" + _POINTS
)
_KINDS = {
    "line segment": "segment", "overline": "segment", "overleftrightarrow": "line",
    "overrightarrow": "ray", "vec": "ray", "vector": "ray", "vertex": "point",
}  # fmt: skip
_NUM_POINTS = {"angle": (1, 3), "triangle": (3,), "point": (1,)}
_DIRECTED = ("ray", "triangle")
_UNSPOKEN = ("segment", "side", "chord", "edge", "diagonal", "line", "point")


@dataclass(frozen=True)
class Figure:
    """`kind` is empty for bare letters."""

    kind: str
    points: tuple[str, ...]


def equal_figures(gold: str, answer: str) -> bool | None:
    r"""Whether two figures are the same; None where none is named in words, or one is none.

    >>> equal_figures("AB", "segment AB"), equal_figures("AB", "ray AB"), equal_figures("x", "y")
    (True, False, None)
    """
    texts = [strip_fonts(clean(text)) for text in (gold, answer)]
    if not any(_WORD.match(text) for text in texts):
        return None
    right, given = (parse_figure(text) for text in texts)
    if right is None or given is None:
        return None
    if right.points != given.points:
        return False
    kinds = {right.kind, given.kind}
    return len(kinds) == 1 or ("" in kinds and kinds <= {"", *_UNSPOKEN})


def parse_figure(text: str) -> Figure | None:
    """The figure that a short text names.

    >>> parse_figure("segment BA")
    Figure(kind='segment', points=('A', 'B'))
    """
    if len(text) > 60:
        return None
    match = _WORDS.fullmatch(text) or _SIGNS.fullmatch(text)
    what = match["what"].lower() if match else ""
    found = match or re.fullmatch(_POINTS, text)
    if found is None or not found["points"].isascii() or _is_lower(found["points"]):
        return None
    kind = _KINDS.get(what, what)
    points = tuple(re.findall(r"[A-Z]'*(?:_\{?[0-9]\}?)?", found["points"]))
    if kind and len(points) not in _NUM_POINTS.get(kind, (2,)):
        return None
    return Figure(kind, points if kind in _DIRECTED else min(points, points[::-1]))


def _is_lower(points: str) -> bool:
    """IGNORECASE is for the words: points are capitals."""
    return points != points.upper()
