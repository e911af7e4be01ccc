r"""Removes from an answer what carries no meaning: wrappers, spacing commands, fonts, typographic
signs.

Guarantees: linear time, no exception on any string. Knows nothing of answer types.

Left out on purpose: Unicode normalisation. NFKC would turn `5²` into `52`, and digits of other
scripts into ASCII; digits and letters that only look like the gold answer's are not the gold
answer.
"""

from __future__ import annotations

import re
from functools import lru_cache

from virgo_ray.verify.answers.signs import MATHEMATICAL, with_scripts

_SIGN_NAMES = {
    "-": "\u2212\u2013\u2014\u2010\u2011",  # minus, dashes, hyphens
    "/": "\u00f7\u2215\u2044",  # division, slashes
    " ": "\u00a0\u2009\u202f\u2002\u2003\u3000\u200b",
    '"': "\u201c\u201d",
    "'": "\u2018\u2019\u2032",
    ", ": "\uff0c\u3001",
    ":": "\uff1a\u2236",
    "%": "\uff05",
    "(": "\uff08",
    ")": "\uff09",
    r" \times ": "\u00d7",
    r" \cdot ": "\u00b7\u22c5",
    r"\pi ": "\u03c0",
    r"\theta ": "\u03b8",
    r"^\circ ": "\u00b0",
    "^2": "\u00b2",
    "^3": "\u00b3",
    r"\infty ": "\u221e",
    r"\leq ": "\u2264\u2a7d",
    r"\geq ": "\u2265\u2a7e",
    r"\neq ": "\u2260",
    r"\approx ": "\u2248",
    r"\pm ": "\u00b1",
    r"\cup ": "\u222a",
    r"\in ": "\u2208",
}
_SIGNS = str.maketrans(
    MATHEMATICAL | {char: name for name, chars in _SIGN_NAMES.items() for char in chars}
)
_ROOT = re.compile(
    "(?P<degree>(?<![0-9A-Za-z)}])[\u00b2\u00b3\u2074-\u2079])?(?P<sign>[\u221a\u221b\u221c])\\s?"
    "(?:\\{([^{}]{1,200})\\}|\\(([^()]{1,200})\\)|([0-9]+(?:\\.[0-9]+)?|[a-zA-Z]))"
)
_DEGREES = {"\u221a": "", "\u221b": "[3]", "\u221c": "[4]"}
_SPACING = re.compile(
    r"(?<!\\)\\[!,;:> ]|\\q?quad\b|~|\\displaystyle\b|\\limits\b"
    r"|\\[Bb]igg?[lr]?(?![a-zA-Z])|\\left(?![a-zA-Z])\.?|\\right(?![a-zA-Z])\.?"
)
_GLUE = ("\\!", "\\left", "\\right", "\\left.", "\\right.", "\\displaystyle", "\\limits")
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname"
    r"|boldsymbol|bm|emph|underline)\s?\{([^{}]{0,400})\}|\{\s?\\(?:rm|bf|it)\s([^{}]{0,400})\}"
)
_OUTER = (
    ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"), ('"', '"'),
)  # fmt: skip
_OPEN_FONT = re.compile(
    r"[+-]?\s?\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname"
    r"|boldsymbol|bm|emph|underline)\s?\{"
)
_LABEL_IN_FONT = re.compile(
    r"^\\(?:text|mathrm|textbf|mbox)\s?\{\s?([A-Za-z][A-Za-z ']{0,60}?)\s?=\s?\}"
)
# How an answer looks: its colour, and the size and shape of its letters.
_LOOK = re.compile(
    r"\\(?:text)?color\s?\{[A-Za-z]{1,20}\}\s?"
    r"|\\(?:bf|it|rm|sf|tt|tiny|small|normalsize|[lL]arge|LARGE|huge|Huge)(?![a-zA-Z])\s?"
)
_BRACED = re.compile(r"^\{([^{}]{1,500})\}(?=\s?(?:\\?%)?$)")
_EXTREME = re.compile(r"_\s?(?:\{\s?\\(max|min)\s?\}|\\(max|min)(?![a-z]))")
_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{([^{}]{0,2000})\}")


def clean(text: str) -> str:
    r"""Without outer math delimiters, spacing commands, colours and typographic signs; white space
    squeezed.

    >>> clean(r"$\left( 1,\! 000 \right)$. "), clean(r"{\color{red}\large 42}")
    ('( 1,000 )', '42')
    """
    text = _ROOT.sub(_root, text)
    text = with_scripts(text).translate(_SIGNS).replace("\\$", "$")
    text = re.sub(r",\\!\s*", ",", text)
    text = re.sub(r"\\[dtcs]frac", r"\\frac", text)
    text = re.sub(r"(?<![0-9A-Za-z)}\]])\s?\+\s?/?\s?-(?=\s?[0-9A-Za-z\\])", r"\\pm ", text)
    if "\\begin" not in text and "matrix" not in text and "array" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # "\\frac": escaped once too often
        text = re.sub(r"(?<!\\)\\\\\s*$", "", text)  # a line break with nothing behind it
    text = _EXTREME.sub(lambda m: rf"_{{\text{{{m[1] or m[2]}}}}}", _LOOK.sub("", text))
    text = unwrap(_SPACING.sub(lambda m: "" if m.group() in _GLUE else " ", text))
    text = _BRACED.sub(r"\1", text)
    text = re.sub(r"^\$([^$]{1,500})\$(?=\s*[A-Za-z%\\])", r"\1", text)  # "$125$ miles"
    text = re.sub(
        r"\^\s?\{?(?:\\(?:text[a-z]{0,6}|math[a-z]{2}|[lr]m)(?![a-z]))?[{}\s]*$", "", text
    )  # a superscript without content
    text = _LABEL_IN_FONT.sub(r"\\text{\1} = ", text)
    text = re.sub(r"^\s*\\?#\s?(?=[0-9])", "", text)  # "#42" is number 42
    return re.sub(r"\s+", " ", text).strip()


def _root(match: re.Match[str]) -> str:
    r"""A root sign as `\sqrt`; a small 5 before a square root says that it is the fifth."""
    degree = _DEGREES[match["sign"]]
    if match["degree"]:
        small = with_scripts(match["degree"]).lstrip("^")
        degree = "" if small == "2" else f"[{small}]"
        if match["sign"] != "\u221a":
            return match.group()
    return rf"\sqrt{degree}{{{match[3] or match[4] or match[5]}}}"


def unwrap(text: str) -> str:
    r"""Outer delimiters off: `$x$`, `\(x\)`, `**x**`, `\boxed{x}`; a final full stop too."""
    for _ in range(6):
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for left, right in _OUTER:
            inner = text[len(left) : len(text) - len(right)]
            if len(text) >= len(left) + len(right) and text == left + inner + right:
                text = inner if left not in inner else text
        boxed = _BOX.fullmatch(text)
        text = boxed.group(1) if boxed else _inside_font(text)
        if text == before:
            break
    return text


def starts_with_font(text: str) -> bool:
    r"""Whether it begins with `\text{`, `\mathrm{` or the like, perhaps behind a sign."""
    return _OPEN_FONT.match(text) is not None


def _inside_font(text: str) -> str:
    r"""`\text{19 km}` as `19 km`; names without a digit stay in their font."""
    opened = _OPEN_FONT.match(text)
    if opened is None or text[0] != "\\" or not text.endswith("}"):
        return text
    inner = text[opened.end() : -1]
    depth = 0
    for char in inner:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return text
    return inner if depth == 0 and re.search("[0-9]", inner) else text


def strip_fonts(text: str) -> str:
    r"""`\text{cm}` and `\mathrm{cm}` become `cm`."""
    for _ in range(4):
        shorter = _FONT.sub(lambda m: m[1] if m[1] is not None else m[2], text)
        if shorter == text:
            return text
        text = shorter
    return text


def plain(text: str) -> str:
    r"""The words of an answer: fonts and `\text{}` removed, braces, dollars and quotes dropped.

    >>> plain(r"\text{The midpoints} \mathbf{A}")
    'The midpoints A'
    """
    text = strip_fonts(clean(text))
    text = re.sub(r"[${}\"`]|\*\*|\\(?![a-zA-Z])", "", text)
    return re.sub(r"\s+", " ", text).strip()


@lru_cache(maxsize=2048)  # a source holds the same answers again and again
def words(text: str) -> str:
    """Normalised for comparing short texts: case folded, no punctuation at the ends, no article.

    >>> words("The Red-Circle.")
    'red circle'
    """
    text = plain(text).casefold().strip(" .,;:!?'\"()[]")
    text = re.sub(r"(?<=\w)[-_](?=\w)", " ", text)
    return re.sub(r"^(?:the|an|a)\s+(?=\S)", "", text)
