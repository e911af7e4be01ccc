r"""Answers in digits and signs that are no arithmetic: ranges, scores, ratios, clocks, durations,
dates, versions, telephone numbers, numbers with leading zeros.

`21-24` is not -3 and `6:30` is not one fifth. Where the gold answer is such a code, only the same
code equals it; where the answer alone is one, it equals no value.

Left out: what `5-3` counts. A range and a score are the same two numbers in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

from virgo_ray.verify.answers.clean import clean, plain, strip_fonts
from virgo_ray.verify.answers.dates import parse_date
from virgo_ray.verify.answers.number import parse_number

MAX_CHARS = 80
DAY_S = 24 * 3600

_NUMBER = r"[0-9]{1,12}(?:,[0-9]{3}){0,4}(?:\.[0-9]{1,9})?"
_RANGE = re.compile(
    rf"(?:from )?(?P<low>{_NUMBER})\s?(?:-{{1,3}}|to|through|until)\s?(?P<high>{_NUMBER})"
    r"(?P<unit>\s[a-z]{2}[a-z/ ]{0,24})?"
)
_BETWEEN = re.compile(
    rf"between (?P<low>{_NUMBER}) and (?P<high>{_NUMBER})(?P<unit> [a-z ]{{1,24}})?"
)
_COLON = re.compile(rf"{_NUMBER}(?:\s?:\s?{_NUMBER}){{1,5}}")
_TO = re.compile(rf"{_NUMBER} (?:is )?to {_NUMBER}")
_FRACTION = re.compile(
    r"(?:frac\s?)?\{\s?([0-9]{1,9})\s?\}\s?\{\s?([0-9]{1,9})\s?\}|([0-9]{1,9})\s?/\s?([0-9]{1,9})"
)
_CLOCK = re.compile(r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-5][0-9])(?: ?(?:hours|h|o'?clock))?")
_OCLOCK = re.compile(r"(?P<hour>[0-9]{1,2}|[a-z]{3,6}) o'? ?clock")
_NUMBERED = re.compile(r"(?:no\.|nr\.|\u2116|number|\\?#)\s?(?P<digits>[0-9]{1,9})", re.IGNORECASE)
_TIME = re.compile(
    r"(?P<hour>[0-9]{1,2})(?:\s?[:.]\s?(?P<minute>[0-5][0-9]))?(?::(?P<second>[0-5][0-9]))?"
    r"\s?(?P<half>[ap])\.?\s?m\.?"
)
_HMS = re.compile(r"(?P<hour>[0-9]{1,3}):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9])")
_DURATION = re.compile(
    r"(?:(?P<hour>[0-9]{1,4}) ?(?:hours?|hrs?|h)(?![a-z])[, ]{0,2})?(?:and )?"
    r"(?:(?P<minute>[0-9]{1,5}) ?(?:minutes?|mins?|m)(?![a-z])[, ]{0,2})?(?:and )?"
    r"(?:(?P<second>[0-9]{1,6}) ?(?:seconds?|secs?|s)(?![a-z]))?"
)
_GROUPED_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:\.[0-9]{3})+")
_GROUPS = re.compile(
    r"\+?\(?[0-9]{1,8}\)?(?:(?:\s?-\s?[0-9]{1,8}){2,6}|(?:\.[0-9]{1,8}){2,6}|(?:/[0-9]{1,4}){2}"
    r"|(?<=\))\s?[0-9]{1,8}\s?-\s?[0-9]{1,8})|v\s?[0-9]{1,4}(?:\.[0-9]{1,4}){1,4}"
)
_MIN_TELEPHONE_DIGITS = 10
_NAMED_TIMES = {"noon": 12, "midday": 12, "12 noon": 12, "midnight": 0, "12 midnight": 0}
# Of which kinds an answer may be, by the kind of the gold answer.
_ACCEPTED = {
    "date": ("date",),
    "month": ("month",),
    "named time": ("time", "named time", "clock"),
    "time": ("time", "named time", "clock"),
    "clock": ("time", "named time", "clock", "pair"),
    "hms": ("hms", "duration", "time", "clock"),
    "duration": ("hms",),
    "ratio": ("ratio", "fraction"),
    "range": ("range", "between"),
    "groups": ("groups",),
    "digits": ("digits",),
}
# Words of these kinds may be something else: there the answer must be a code too.
_MAY_BE_WORDS = ("month", "named time", "duration")


@dataclass(frozen=True)
class Code:
    """Codes are equal where their values are and their units do not contradict each other."""

    value: object
    unit: str = ""


def equal_codes(gold: str, answer: str) -> bool | None:
    """Whether an answer is the same code; None where neither is a code.

    >>> equal_codes("21-24", "21 to 24"), equal_codes("21-24", "25-28"), equal_codes("5-3", "2")
    (True, False, False)
    >>> equal_codes("4:50 PM", "16:50"), equal_codes("6:8", "3 to 4"), equal_codes("7", "x+1")
    (True, True, None)
    """
    same = _equal_numbered(gold, answer)
    if same is not None:
        return same
    gold, answer = _bare(gold), _bare(answer)
    if _OCLOCK.fullmatch(gold) and re.fullmatch("[0-9]{1,2}|[a-z]{3,6}", answer):
        answer += " o'clock"
    kind = kind_of(gold)
    if kind is None:
        return False if _is_value(gold) and _is_no_value(answer) else None
    right = _READERS[kind](gold)
    for accepted in _ACCEPTED[kind]:
        given = _READERS[accepted](answer)
        if given and right and given.value == right.value:
            return not right.unit or not given.unit or right.unit == given.unit
    if kind == "duration" and not _hms(answer):
        return None
    if kind in _MAY_BE_WORDS and kind_of(answer) is None:
        return None
    return _squeezed(gold) == _squeezed(answer)


def is_numbered(text: str) -> bool:
    """Whether it is the number of something: "No. 8", "#8".

    >>> is_numbered("No. 8"), is_numbered("no 8"), is_numbered("8")
    (True, False, False)
    """
    return _NUMBERED.fullmatch(_without_fonts(text)) is not None


def _equal_numbered(gold: str, answer: str) -> bool | None:
    """ "No. 8" is "#8"; None where the gold answer is no such number, or the answer is a value."""
    right, given = (_NUMBERED.fullmatch(_without_fonts(text)) for text in (gold, answer))
    if right is None:
        is_word = given is not None and not given.group().lstrip("\\").startswith("#")
        return False if is_word and parse_number(gold) is not None else None
    digits = given["digits"] if given else clean(answer)
    return digits == right["digits"]


def _without_fonts(text: str) -> str:
    return strip_fonts(text[:MAX_CHARS]).strip(" $.")


def kind_of(text: str) -> str | None:
    """The first kind that reads the text.

    >>> [kind_of(t) for t in ("4:10 pm", "12:40", "2:3:5", "1969-07-20", "1.2.3", "007", "7")]
    ['time', 'clock', 'ratio', 'date', 'groups', 'digits', None]
    """
    return next((kind for kind in _ACCEPTED if text and _READERS[kind](text)), None)


def _bare(text: str) -> str:
    """Lower case, without fonts; empty for a formula and for what is longer than any code."""
    if len(text) > 4 * MAX_CHARS:
        return ""
    text = plain(re.sub(r"\\q?quad", " ", _with_braces(text)).replace("\\%", "%")).strip().lower()
    return text if len(text) <= MAX_CHARS and "\\" not in text else ""


def _with_braces(text: str) -> str:
    r"""`\frac{3}{4}` as 3/4: `plain` drops braces."""
    return re.sub(r"\\d?frac\s?\{([0-9]{1,9})\}\s?\{([0-9]{1,9})\}", r"\1/\2", clean(text))


def _squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def _is_value(gold: str) -> bool:
    return parse_number(gold) is not None or (
        bool(re.search("[0-9]", gold)) and not re.search(r"[a-z]{2}|[|,;<>=:]", gold)
    )


def _is_no_value(answer: str) -> bool:
    return kind_of(answer) in ("range", "time", "clock", "hms", "date", "groups")


def _date(text: str) -> Code | None:
    date = parse_date(text)
    return Code(date) if date and (date[0] or date[2]) else None


def _month(text: str) -> Code | None:
    date = parse_date(text)
    return Code(date) if date and not date[0] and not date[2] else None


def _named_time(text: str) -> Code | None:
    hour = _NAMED_TIMES.get(text)
    return None if hour is None else Code(hour * 3600)


def _time(text: str) -> Code | None:
    match = _TIME.fullmatch(text)
    if match is None or not 1 <= int(match["hour"]) <= 12:
        return None
    in_half = _seconds(match) % (DAY_S // 2)
    return Code(in_half + (DAY_S // 2 if match["half"] == "p" else 0))


def _clock(text: str) -> Code | None:
    on_the_hour = _OCLOCK.fullmatch(text)
    if on_the_hour:
        hour = parse_number(on_the_hour["hour"])
        is_hour = hour is not None and hour.value.denominator == 1 and 0 <= hour.value <= 24
        return Code(int(hour.value) * 3600 % DAY_S) if hour and is_hour else None
    match = _CLOCK.fullmatch(text)
    return Code(_seconds(match) % DAY_S) if match and int(match["hour"]) <= 24 else None


def _pair(text: str) -> Code | None:
    """`6 to 30` for what looks like a clock and may be a ratio."""
    return _clock(re.sub(r" (?:is )?to ", ":", text)) if _TO.fullmatch(text) else None


def _hms(text: str) -> Code | None:
    match = _HMS.fullmatch(text)
    return Code(_seconds(match)) if match else None


def _duration(text: str) -> Code | None:
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    is_length = match["hour"] is None and re.search(r"[0-9] ?m(?![a-z])", text)  # "5 m"
    return None if is_length else Code(_seconds(match))


def _seconds(match: re.Match[str]) -> int:
    groups = match.groupdict()
    hour, minute, second = (int(groups.get(key) or 0) for key in ("hour", "minute", "second"))
    return 3600 * hour + 60 * minute + second


def _ratio(text: str) -> Code | None:
    """`6:8` as `3:4`, also in words."""
    if not _COLON.fullmatch(text) and not _TO.fullmatch(text):
        return None
    return _lowest_terms(re.split(r"\s?:\s?| (?:is )?to ", text))


def _written_ratio(text: str) -> Code | None:
    return _ratio(text) if ":" in text else None


def _fraction(text: str) -> Code | None:
    match = _FRACTION.fullmatch(text)
    return _lowest_terms([group for group in match.groups() if group]) if match else None


def _lowest_terms(terms: list[str]) -> Code:
    values = [Fraction(term.replace(",", "")) for term in terms]
    scale = lcm(*(value.denominator for value in values))
    whole = [int(value * scale) for value in values]
    common = gcd(*whole) or 1
    return Code(tuple(term // common for term in whole))


def _range(text: str) -> Code | None:
    return _ends(_RANGE.fullmatch(re.sub(r"(?<=[0-9]) ?%", "", text)), text)


def _between(text: str) -> Code | None:
    colon = text if re.fullmatch(rf"{_NUMBER}\s?:\s?{_NUMBER}", text) else ""
    return _ends(_BETWEEN.fullmatch(text), text) or _range(colon.replace(":", " to "))


def _ends(match: re.Match[str] | None, text: str) -> Code | None:
    if match is None:
        return None
    low, high = match["low"].replace(",", ""), match["high"].replace(",", "")
    if len(low) == 4 and len(high) == 2 and low.isdigit() and low[2:] < high:
        high = low[:2] + high  # 2010-15
    unit = (match["unit"] or "").strip().removesuffix("s")
    return Code((_end(low), _end(high)), unit or "%" * ("%" in text))


def _end(text: str) -> object:
    return text if text.startswith("0") and text.isdigit() and text != "0" else Fraction(text)


def _groups(text: str) -> Code | None:
    """Versions, addresses, telephone numbers: the signs count, but not in telephone numbers."""
    if not _GROUPS.fullmatch(text) or _GROUPED_THOUSANDS.fullmatch(text):
        return None
    digits = re.sub("[^0-9]", "", text)
    is_telephone = len(digits) >= _MIN_TELEPHONE_DIGITS and "/" not in text
    return Code(digits if is_telephone else _squeezed(text).removeprefix("v"))


def _digits(text: str) -> Code | None:
    return Code(text) if re.fullmatch(r"0[0-9]{1,20}", text) else None


_READERS: dict[str, Callable[[str], Code | None]] = {
    "date": _date, "month": _month, "named time": _named_time, "time": _time, "clock": _clock,
    "pair": _pair, "hms": _hms, "duration": _duration, "ratio": _written_ratio, "range": _range,
    "between": _between, "fraction": lambda text: _fraction(text) or _ratio(text),
    "groups": _groups, "digits": _digits,
}  # fmt: skip
