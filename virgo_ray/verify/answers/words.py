# ruff: noqa: SIM905
r"""Numbers in words: "twenty-one", "a hundred", "three quarters", "two and a half", "minus seven".

`read_words` reads as many words as belong to one number and says how many they were, so that a unit
may follow. It knows no digits: number.py reads those, and asks here what a word behind them does
("7 trillion", "7 thirds", "7 squared").
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

_SMALL = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
        " fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * number
    for number, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2
    )
} | {"fourty": 40}
_POWERS = {
    "thousand": 3,
    "million": 6,
    "billion": 9,
    "trillion": 12,
    "quadrillion": 15,
    "quintillion": 18,
    "lakh": 5,
    "crore": 7,
}
SCALES = (
    {name: 10**power for name, power in _POWERS.items()}
    | {f"{name}s": 10**power for name, power in _POWERS.items()}
    | {"hundred": 100, "hundreds": 100, "dozen": 12, "dozens": 12, "gross": 144, "score": 20}
    | {"bn": 10**9, "mn": 10**6, "mln": 10**6, "mil": 10**6, "tn": 10**12, "trn": 10**12}
    | {"тыс": 10**3, "тысяч": 10**3, "млн": 10**6, "миллионов": 10**6, "млрд": 10**9}
    | {"百": 100, "千": 10**3, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8, "百万": 10**6}
)
_ORDINALS = {
    word: number
    for number, word in enumerate(
        "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
        " fifteenth sixteenth seventeenth eighteenth nineteenth twentieth".split(),
        start=3,
    )
} | {"hundredth": 100, "thousandth": 1000, "millionth": 10**6, "billionth": 10**9}
DENOMINATORS = (
    _ORDINALS
    | {f"{name}s": number for name, number in _ORDINALS.items()}
    | {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
)
_SIGNS = {"minus": -1, "negative": -1, "plus": 1, "positive": 1}
NUMBER_WORDS = frozenset({*_SMALL, *_TENS, *SCALES, *DENOMINATORS})
MAX_WORDS = 24


def split_words(text: str) -> list[str]:
    """The words of a text, "twenty-one" as two; at most MAX_WORDS + 1 of them."""
    return text.lower().replace("-", " ").replace(",", " ").split()[: MAX_WORDS + 1]


def read_words(words: Sequence[str]) -> tuple[Fraction, int] | None:
    """(the number that the words begin with, how many words it takes), or None.

    >>> read_words("two and a half hours".split())
    (Fraction(5, 2), 4)
    >>> read_words("one hundred and five thousand".split())
    (Fraction(105000, 1), 5)
    >>> read_words("three quarters".split()), read_words(["apple"])
    ((Fraction(3, 4), 2), None)
    """
    sign = _SIGNS.get(words[0]) if words else None
    start = 0 if sign is None else 1
    read = _magnitude(words[start:MAX_WORDS])
    return None if read is None else ((sign or 1) * read[0], start + read[1])


def _magnitude(words: Sequence[str]) -> tuple[Fraction, int] | None:
    if words and words[0] == "half":
        return _half(words)
    whole = _cardinal(words)
    if whole is None:
        return None
    value, used = Fraction(whole[0]), whole[1]
    rest = words[used:]
    if rest and rest[0] in DENOMINATORS:
        return value / DENOMINATORS[rest[0]], used + 1
    if words[0] in ("a", "an") and used == 1:
        return None
    if rest and rest[0] == "point":
        return _with_decimals(value, used, rest[1:])
    part, more = read_and_fraction(rest)
    return value + part, used + more


def _half(words: Sequence[str]) -> tuple[Fraction, int]:
    """ "half", "half a dozen", "half a million"."""
    if len(words) > 2 and words[1] in ("a", "an") and words[2] in SCALES:
        return Fraction(SCALES[words[2]], 2), 3
    return Fraction(1, 2), 1


def read_and_fraction(words: Sequence[str]) -> tuple[Fraction, int]:
    """(value, words) of "and a half", "and three quarters"; (0, 0) where there is none."""
    if not words or words[0] != "and":
        return Fraction(0), 0
    if len(words) > 1 and words[1] == "half":
        return Fraction(1, 2), 2
    part = _cardinal(words[1:3])
    if part is None or len(words) <= 1 + part[1] or words[1 + part[1]] not in DENOMINATORS:
        return Fraction(0), 0
    value = Fraction(part[0], DENOMINATORS[words[1 + part[1]]])
    return (value, 2 + part[1]) if value < 1 else (Fraction(0), 0)


def _with_decimals(value: Fraction, used: int, words: Sequence[str]) -> tuple[Fraction, int] | None:
    digits = ""
    for word in words:
        if _SMALL.get(word, 10) > 9:
            break
        digits += str(_SMALL[word])
    if not digits:
        return None
    return value + Fraction(int(digits), 10 ** len(digits)), used + 1 + len(digits)


def _cardinal(words: Sequence[str]) -> tuple[int, int] | None:
    """(value, words) of "two hundred and five thousand"; None where the words name no number."""
    if not words:
        return None
    if words[0] in ("a", "an"):
        follows = len(words) > 1 and (words[1] in SCALES or words[1] in DENOMINATORS)
        return _scaled(1, words, 1) if follows else None
    below = _below_hundred(words, 0)
    return _scaled(below[0], words, below[1]) if below else None


def _scaled(group: int, words: Sequence[str], used: int) -> tuple[int, int]:
    """Goes on after the first group: scales multiply it, smaller groups are added."""
    total, largest = 0, 10**19
    while used < len(words):
        word = words[used]
        scale = SCALES.get(word, 0)
        if scale == 100 and 0 < group < 100:
            group, used = group * 100, used + 1
            below = _below_hundred(words, used + (words[used : used + 1] == ["and"]))
            if below and not _is_fraction_ahead(words, used, below[1]):
                group, used = group + below[0], below[1]
        elif 1 < scale < largest and group:
            total, largest, group, used = total + group * scale, scale, 0, used + 1
        else:
            after = _below_hundred(words, used + (word == "and")) if total and not group else None
            if after is None or _is_fraction_ahead(words, used, after[1]):
                break
            group, used = after
    return total + group, used


def _is_fraction_ahead(words: Sequence[str], used: int, end: int) -> bool:
    """Whether "and three" goes on with "quarters": a fraction, not a part of the whole number."""
    return words[used : used + 1] == ["and"] and end < len(words) and words[end] in DENOMINATORS


def _below_hundred(words: Sequence[str], at: int) -> tuple[int, int] | None:
    """(value, position after it) of "forty two" or "seven" at a position."""
    word = words[at] if at < len(words) else ""
    if word in _SMALL:
        return _SMALL[word], at + 1
    if word not in _TENS:
        return None
    ones = _SMALL.get(words[at + 1], 0) if at + 1 < len(words) else 0
    return (_TENS[word] + ones, at + 2) if 0 < ones < 10 else (_TENS[word], at + 1)
