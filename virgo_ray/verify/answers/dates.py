"""Calendar dates and months as people write them; a day that no calendar has is no date.

Known: `1969-07-20`, `July 20, 1969`, `20 July 1969`, `the 20th of July`, `July 1969`, `Jan.`.
Dates with slashes are left out: 4/7/1776 is April in one country and July in another.
"""

from __future__ import annotations

import datetime
import re

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SHORT_WEEKDAYS = {
    "Mon": 0, "Tue": 1, "Tues": 1, "Wed": 2, "Weds": 2, "Thu": 3, "Thur": 3, "Thurs": 3, "Fri": 4,
    "Sat": 5, "Sun": 6,
}  # fmt: skip
# The year of a date without one: a leap year, so that February 29 is a day.
_ANY_LEAP_YEAR = 2000
_MONTH = r"(?P<month>[a-z]{3,9})\.?"
_DAY = r"(?P<day>[0-9]{1,2})(?P<ordinal>st|nd|rd|th)?"
_YEAR = r"(?P<year>[0-9]{4})"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,? )?"
_FORMS = tuple(
    re.compile(form)
    for form in (
        rf"{_WEEKDAY}{_MONTH} (?:the )?{_DAY}(?:,? {_YEAR})?",
        rf"{_WEEKDAY}(?:the )?{_DAY}(?: of)? {_MONTH}(?:,? {_YEAR})?",
        rf"{_MONTH},? {_YEAR}",
        rf"{_YEAR}[-/](?P<month>[0-9]{{2}})[-/](?P<day>[0-9]{{2}})",
        _MONTH,
    )
)


def parse_date(text: str) -> tuple[int, int, int] | None:
    """(year, month, day) with 0 for what is not said; None for anything else.

    >>> parse_date("July 20th, 1969") == parse_date("1969-07-20") == (1969, 7, 20)
    True
    >>> parse_date("the 4th of July"), parse_date("Jan."), parse_date("February 30")
    ((0, 7, 4), (0, 1, 0), None)
    """
    text = re.sub(r"\s+", " ", text.strip().lower()) if len(text) < 60 else ""
    for form in _FORMS:
        match = form.fullmatch(text)
        if match:
            groups = match.groupdict()
            return _real_date(groups.get("year"), groups["month"], groups.get("day"))
    return None


def parse_weekday(text: str) -> int | None:
    """0 for Monday to 6 for Sunday; a short form has one capital: "Tue", not "sun" and "SUN".

    >>> parse_weekday("Tue."), parse_weekday("tuesday"), parse_weekday("sun"), parse_weekday("Tues")
    (1, 1, None, 1)
    """
    name = text.strip().removesuffix(".")
    if name.lower() in _WEEKDAYS:
        return _WEEKDAYS.index(name.lower())
    return _SHORT_WEEKDAYS.get(name)


def _real_date(year: str | None, month: str, day: str | None) -> tuple[int, int, int] | None:
    number = int(month) if month.isdigit() else _month_number(month)
    try:
        datetime.date(int(year or _ANY_LEAP_YEAR), number, int(day or 1))
    except ValueError:
        return None
    return int(year or 0), number, int(day or 0)


def _month_number(name: str) -> int:
    """1 to 12; 0 where it is no month: "jan", "sept" and "may" are, "marc" is not."""
    for number, month in enumerate(_MONTHS, 1):
        if name in (month, month[:3]) or (name == "sept" and number == 9):
            return number
    return 0
