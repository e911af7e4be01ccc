r"""Relations in words: "r is greater than 7" is `r > 7`, "PQ is parallel to RS" `PQ \parallel RS`.

Only a text that is nothing but two terms and the words between them is rewritten.
"""

from __future__ import annotations

import re

from virgo_ray.verify.answers.clean import clean, strip_fonts

MAX_CHARS = 150

_IS = r"(?:is|are|must be|has to be|should be)"
_NOT = r"(?:(?:is|are) not|isn't|aren't)"
_MORE = r"(?:strictly )?(?:greater|more|larger|bigger|higher) than"
_LESS = r"(?:strictly )?(?:less|smaller|lower|fewer) than"
# Longer phrases stand before those that they begin with.
_SIGNS = tuple(
    (re.compile(phrase, re.IGNORECASE), sign)
    for phrase, sign in (
        (rf"{_NOT} parallel to", r"\nparallel"),
        (rf"{_IS} (?:both )?parallel to", r"\parallel"),
        (rf"{_IS} perpendicular to", r"\perp"),
        (rf"{_IS} congruent to", r"\cong"),
        (rf"{_IS} {_MORE} or equal to|{_IS} at least|{_IS} no (?:less|smaller) than", r"\geq"),
        (rf"{_NOT} {_LESS}", r"\geq"),
        (
            rf"{_IS} {_LESS} or equal to|{_IS} at most|{_IS} no (?:more|greater|larger) than",
            r"\leq",
        ),
        (rf"{_NOT} {_MORE}|does not exceed", r"\leq"),
        (rf"{_IS} {_MORE}(?! or)|exceeds", ">"),
        (rf"{_IS} {_LESS}(?! or)", "<"),
        (rf"{_NOT} equal to|does not equal|{_IS} different from", r"\neq"),
    )
)
_BOTH = re.compile(
    r"(?P<left>[^\s,]{1,30}(?:\s[A-Z]{1,3})?) and (?P<right>[^,]{1,30}?) (?P<is>are (?:not )?)"
    r"(?P<how>parallel|perpendicular|congruent)(?: to each other)?"
)
_SECOND_BOUND = re.compile(
    r" (?:and|but) (?:also )?(?=(?:strictly )?(?:less|more|greater|smaller|larger|at most"
    r"|at least))",
    re.IGNORECASE,
)
_LEAD = re.compile(r"(?:so|thus|therefore|hence|then|finally),?\s", re.IGNORECASE)
_FIGURE = re.compile(
    r"(?:the )?(?:lines?|segments?|sides?|rays?) (?=[A-Za-z]{1,2}(?![A-Za-z]))", re.I
)
_SHAPES = re.compile(r"(?:the )?(?<![\\A-Za-z])(triangle|angle) (?=[A-Z]{1,3}(?![A-Za-z]))")
_WORDS = re.compile(r"(?<![\\A-Za-z])(?![A-Z]{1,4}(?![A-Za-z]))[A-Za-z]{3,}")


def in_signs(text: str) -> str:
    r"""The relation that a text says in words, with its sign; empty for any other text.

    >>> in_signs("Thus r is greater than 7."), in_signs("r may be greater than 7")
    ('r > 7', '')
    >>> in_signs("AB and CD are parallel"), in_signs("x is at least 3 and less than 9")
    ('AB \\parallel CD', 'x \\geq 3, x < 9')
    """
    if len(text) > MAX_CHARS:
        return ""
    text = re.sub(r"\s+", " ", re.sub(r"[$]|\\[()]", "", strip_fonts(clean(text)))).strip(" .")
    text = _FIGURE.sub("", _SHAPES.sub(r"\\\1 ", _LEAD.sub("", text, count=1)))
    both = _BOTH.fullmatch(text)
    if both:
        text = f"{both['left']} {both['is'].replace('are', 'is')}{both['how']} to {both['right']}"
    parts = _SECOND_BOUND.split(text)
    first = _relation(parts[0])
    if len(parts) == 1 or not first:
        return first
    left = re.split(r" (?:[<>]|\\[lg]eq) ", first)[0]
    second = _relation(f"{left} is {parts[1]}") if len(parts) == 2 else ""
    return f"{first}, {second}" if second else ""


def _relation(text: str) -> str:
    for phrase, sign in _SIGNS:
        found = phrase.search(text)
        if found:
            left, right = text[: found.start()].strip(), text[found.end() :].strip()
            are_terms = left and right and not _WORDS.search(f"{left} ; {right}")
            return f"{left} {sign} {right}" if are_terms else ""
    return ""
