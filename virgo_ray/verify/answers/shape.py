r"""The shape of an answer that has parts: set, tuple, interval, matrix, list, labelled parts.

`parse_shape` reads brackets and separators only, in one pass; what the parts mean is equal.py's
business. A union of intervals has the kind "union" and its intervals as texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from virgo_ray.verify.answers.clean import clean, strip_fonts

MAX_PARTS = 200

_OPEN, _CLOSE = "([{", ")]}"
_SEPARATOR = re.compile(
    r"[,;]|\\\\|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|(?<=[0-9)}\]])or(?=[A-Za-z(\\])"
)
_MATRIX = re.compile(
    r"^[(\[]?\s?\\begin\{(?P<env>[pbvBV]?matrix|array)\}(?P<columns>\{[clr| ]*\})?"
    r"(?P<body>[^$]*?)\\end\{(?P=env)\}\s?[)\]]?\s?$"
)
# The left side of an assignment is a name ("x", "f(x)", "S_{1}:S", "|AB|", "(p,q)"), not a formula.
# Every alternative begins with another character, so that no text is read in two ways.
_NAME = re.compile(
    r"(?:\\[A-Za-z]{1,30}|[A-Za-z'|:,\s]|[_^]\s?(?:[A-Za-z0-9*]|\\[A-Za-z]{1,30}"
    r"|\{[A-Za-z0-9*+\- ]{1,20}\}"
    r"|\{\s?\\[A-Za-z]{1,30}\s?(?:\{[A-Za-z0-9 ]{1,30}\})?\s?\})|\{[A-Za-z0-9 '.&-]{1,60}\}"
    r"|(?<=[fghPEFG'])\([^()]{1,40}\)|(?<![fghPEFG'])\([A-Za-z0-9',_\\\s]{1,40}\))+"
)
MAX_NAME = 100
_EQUALS = re.compile(r"(?<![<>!])=|\\in(?![A-Za-z])")
_LABEL = re.compile(
    r"(?:^|(?<=[\s,;.]))\(?(?P<label>[a-h]|i{1,3}|iv|v|[1-9])\s?(?:\)|\.(?=\s)|:(?=\s))\s?"
)


@dataclass(frozen=True)
class Shape:
    """`kind` is set, tuple, interval, union, matrix, list or parts; `open` and `close` its
    brackets.

    A matrix has its rows joined: `num_columns` says where they end. `labels` belong to `parts` of
    kind "parts".
    """

    kind: str
    parts: tuple[str, ...]
    open: str = ""
    close: str = ""
    num_columns: int = 0
    labels: tuple[str, ...] = ()


def parse_shape(text: str) -> Shape | None:
    r"""The shape of an answer, or None for one without parts.

    >>> parse_shape(r"\{1, \frac{1}{2}\}")
    Shape(kind='set', parts=('1', '\\frac{1}{2}'), open='{', close='}', num_columns=0, labels=())
    >>> parse_shape("[0, 1)").kind, parse_shape("1, 2 and 3").parts, parse_shape("x+1")
    ('interval', ('1', '2', '3'), None)
    """
    text = _braces(strip_fonts(clean(text)))
    matrix = _MATRIX.match(text)
    if matrix and "\\begin" not in matrix["body"]:
        return _matrix(matrix["body"])
    pieces = split_top(text, r"\\cup|(?<![a-zA-Z])U(?![a-zA-Z])")
    if len(pieces) > 1 and all(_bracketed(piece) for piece in pieces):
        return Shape("union", tuple(pieces))
    bracketed = _bracketed(text)
    if bracketed:
        return bracketed
    parts = split_list(text)
    return Shape("list", parts) if len(parts) > 1 else None


def _braces(text: str) -> str:
    r"""`\{`, `\lbrace` as `{`: from here on a brace is a bracket."""
    text = re.sub(r"\\langle(?![a-z])", "(", re.sub(r"\\rangle(?![a-z])", ")", text))
    text = re.sub(r"\\lbrace(?![a-z])", "{", re.sub(r"\\rbrace(?![a-z])", "}", text))
    return text.replace("\\{", "{").replace("\\}", "}").strip()


def _bracketed(text: str) -> Shape | None:
    """A text that is one bracket from end to end."""
    text = text.strip()
    if (
        len(text) < 2
        or text[0] not in _OPEN
        or text[-1] not in _CLOSE
        or _end_of(text) != len(text)
    ):
        return None
    first, last, inner = text[0], text[-1], text[1:-1].strip()
    parts = split_list(inner)
    rows = _rows(parts) if first == "[" and last == "]" else None
    if rows:
        return rows
    if first == "{" and last == "}":
        return Shape("set", parts if inner else (), "{", "}")
    if len(parts) < 2:
        return Shape("tuple", parts, first, last) if first == "[" and last == "]" else None
    is_interval = len(parts) == 2 and (first + last != "()" or "\\infty" in inner)
    return Shape("interval" if is_interval else "tuple", parts, first, last)


def _rows(parts: tuple[str, ...]) -> Shape | None:
    """A matrix as a list of lists: [[6,7],[8,9]]."""
    if len(parts) < 2 or not all(part.startswith("[") and part.endswith("]") for part in parts):
        return None
    rows = [split_list(part[1:-1]) for part in parts]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        return None
    return Shape("matrix", tuple(cell for row in rows for cell in row), num_columns=widths.pop())


def _end_of(text: str) -> int:
    """The position after the bracket that closes the first one; 0 where none does."""
    depth = 0
    for position, char in enumerate(text):
        if char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
            if depth == 0:
                return position + 1
    return 0


def _matrix(body: str) -> Shape:
    body = re.sub(r"\\hline|\\\\\s*(?:\[[^\]]{0,20}\])?\s*$", "", body.strip())
    rows = [row.split("&") for row in re.split(r"\\\\|\\cr(?![a-z])", body) if row.strip()]
    widths = {len(row) for row in rows}
    cells = tuple(cell.strip() for row in rows for cell in row)
    return Shape("matrix", cells, num_columns=widths.pop() if len(widths) == 1 else 0)


def split_list(text: str) -> tuple[str, ...]:
    r"""The items of a bare list: "1, 2 and 3" has three. A thousands separator separates nothing.

    >>> split_list(r"(1,2), (6,8)"), split_list("1,234")
    (('(1,2)', '(6,8)'), ('1,234',))
    """
    if re.fullmatch(r"\s?[$]?-?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?.{0,30}", text) and (
        text.count(",") == len(re.findall(r",[0-9]{3}(?![0-9])", text))
    ):
        return (text.strip(),)
    return tuple(split_top(text, _SEPARATOR.pattern))


def split_top(text: str, separator: str) -> list[str]:
    """Split where the separator stands outside all brackets; empty pieces are dropped."""
    pieces: list[str] = []
    start = depth = position = 0
    matches = {m.start(): m.end() for m in re.finditer(separator, text)}
    while position < len(text) and len(pieces) < MAX_PARTS:
        if depth == 0 and position in matches:
            pieces.append(text[start:position])
            start = position = matches[position]
            continue
        depth += (text[position] in _OPEN) - (text[position] in _CLOSE)
        depth = max(0, depth)
        position += 1
    pieces.append(text[start:])
    tidy = [re.sub(r"[\s$.\\]+$", "", piece.lstrip(" $")) for piece in pieces]
    return [piece for piece in tidy if piece]


def without_assignment(text: str) -> str:
    r"""`x = 3` as `3`, `x \in [0, 1]` as `[0, 1]`, `(p,q)=(3,2)` as `(3,2)`; others unchanged."""
    return split_assignment(text)[1]


def split_assignment(text: str) -> tuple[str, str]:
    r"""The name on the left side, and what it is; ("", text) for what assigns nothing.

    >>> split_assignment("f(3) = 5"), split_assignment("2x = 5"), split_assignment("a = b = 1")
    (('f(3)', '5'), ('', '2x = 5'), ('', 'a = b = 1'))
    """
    signs = [m for m in _EQUALS.finditer(text[:MAX_NAME]) if _is_outside(text, m.start())]
    if not signs:
        return "", text
    name, rest = text[: signs[0].start()].strip(), text[signs[0].end() :].strip()
    if not rest or "=" in rest or not _NAME.fullmatch(name):
        return "", text
    return name, rest


def _is_outside(text: str, position: int) -> bool:
    return all(text.count(a, 0, position) == text.count(b, 0, position) for a, b in ("()", "{}"))


def parse_parts(text: str) -> Shape | None:
    """Labelled parts: "(a) 3 (b) yes" has the labels a and b; None where fewer than two are
    labelled.

    >>> parse_parts("(a) 3, (b) yes").parts
    ('3', 'yes')
    """
    text = strip_fonts(clean(text))
    matches = list(_LABEL.finditer(text))[:MAX_PARTS]
    labels = tuple(m["label"] for m in matches)
    if len(matches) < 2 or matches[0].start() > 0 or len(set(labels)) < len(labels):
        return None
    ends = [m.start() for m in matches[1:]] + [len(text)]
    parts = tuple(text[m.end() : end].strip(" ,;.$") for m, end in zip(matches, ends, strict=True))
    return Shape("parts", parts, labels=labels)
