r"""Whether two short texts say the same: answers in words, read from pictures, formulas of matter.

An answer may be the gold text, or a sentence whose meaning is certain: "The table is round",
"The label says: SALT", "Therefore, Ann had more points than Bob" for Ann.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from virgo_ray.verify.answers.clean import plain, words
from virgo_ray.verify.answers.codes import kind_of
from virgo_ray.verify.answers.dates import parse_weekday
from virgo_ray.verify.answers.sentence import asserts_all, is_question

MAX_CHARS = 1000
MAX_ITEMS = 12

_LEAD = (
    r"(?:(?:so|therefore|thus|hence|finally|in conclusion|then|as a result|overall"
    r"|consequently),?\s)"
)
_SUBJECT_IS = re.compile(
    rf"{_LEAD}?(?:in (?:the|this) (?:image|picture|photo|figure|diagram|graph|chart),?\s)?"
    r"(?P<subject>(?:the|this|that|it|he|she|they|these|its|their|his|her|our|my)(?:\s[^.:;]{1,100}?)?)"
    r"(?:\s(?:is|are|was|were|would be|must be|should be|reads|says|is called|is named)"
    r"|(?<=it)['\u2019]s)"
    r"\s(?::\s?)?(?P<said>.{1,200})",
    re.IGNORECASE | re.DOTALL,
)
# A subject with one of these is not the thing that was asked for.
_OTHER = re.compile(
    r"(?<![a-z])(?:other|others|another|next|beside|besides|behind|opposite|neighbou?r\w*|rest"
    r"|remaining|left of|right of|above|below|under|adjacent|near|closest to|except|second|previous"
    r"|following|wrong|incorrect|false|question|options?|choices?|similar|different|like|than|if"
    r"|some|most|many|few|neither|either|and|or|but|not|no|first guess|example)(?![a-z])",
    re.IGNORECASE,
)
_AFTER_COLON = re.compile(r"(?P<lead>[A-Za-z][^:\n]{2,100}):\s+(?P<said>[^:]{1,300})", re.DOTALL)
_PICTURE = r"(?:image|picture|photo|photograph|figure|drawing|painting|scene)"
_SHOWS = re.compile(
    rf"{_LEAD}?(?:(?:it|this|that|the {_PICTURE}) (?:shows|depicts|displays|represents"
    rf"|is a picture of)"
    rf"|(?:i|we|you|one)(?: can)? see|there is)\s(?P<said>.{{1,100}}?)(?:\s(?:in|on) (?:the"
    rf"|this) {_PICTURE})?",
    re.IGNORECASE | re.DOTALL,
)
_COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "brown", "black",
    "white",
    "gray", "grey", "cyan", "magenta", "teal", "turquoise", "beige", "maroon", "navy", "gold",
    "golden",
    "silver", "lavender", "tan", "olive", "indigo", "crimson",
)  # fmt: skip
_COLOUR = re.compile(rf"(?<![a-z])(?:{'|'.join(_COLOURS)})(?![a-z])", re.IGNORECASE)
# "The man on the left is wearing a green hat" names the colour of one thing.
_HAS_COLOUR = re.compile(
    rf"{_LEAD}?(?P<subject>(?:the|this|that|he|she|it|they)(?:\s[^.:;,]{{1,80}}?)?)"
    r"\s(?:(?:is|are) (?:wearing|holding|carrying|driving|riding|using)|wears?|holds?|carries"
    r"|has|have|drives|rides)"
    r"\s(?:an?|the|his|her|their|its)\s(?P<said>[a-z]{2,10})\s(?P<thing>[a-z]{2,20})",
    re.IGNORECASE,
)
# Sentences before the last one that leave open whether it is meant.
_UNSURE = re.compile(
    r"(?<![a-z])(?:sure|unsure|certain|uncertain|doubt|maybe|perhaps|possibly|probably|might|may|could"
    r"|would|should|guess|suppose|assume|imagine|pretend|if|whether|wrong|incorrect|false|mistake"
    r"|cannot|unable|some|say|says|said|claim|claims|thought|think|clear|unclear|unknown|example|question"
    r"|or|either|next|other|another)(?![a-z])|n['\u2019]t (?:know|tell|see|read)|\?",
    re.IGNORECASE,
)
_SERIAL = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Z]*[A-Z])[A-Z0-9]{1,12}(?:[ -][A-Z0-9]{1,12}){0,4}")
_REFUTES = re.compile(r"(?<![a-z])(?:wrong|incorrect|false|mistaken)(?![a-z])", re.IGNORECASE)
_ITEMS = re.compile(r",?\sand\s|\s?&\s?|,\s", re.IGNORECASE)
# With one of these the order of a list, or what it belongs to, may count.
_NO_LIST = re.compile(
    r"(?<![a-z])(?:not|no|nor|or|but|then|than|first|second|last|next|before|after|of|in|on|at|to|by|for|from"
    r"|with|between|without|is|are|was|were|has|have|had|if|as|only|both|neither|either|\w+['\u2019]s)(?![a-z])",
    re.IGNORECASE,
)
_SAYS = re.compile(
    r"(?<![a-z])(?:reads?|says?|is|are|was|shows?|written|states?|displays?|answer|text|word|sign|label|title|caption|follows)\s?$",
    re.IGNORECASE,
)
_REASON = re.compile(
    r",?\s(?:because|since|as (?:it|the|they|this)|which|for the reason)\s", re.IGNORECASE
)
_MORE = re.compile(
    r"(?<![a-z])(?:more|most|higher|highest|larger|largest|greater|greatest|bigger|biggest|longer"
    r"|longest|taller|tallest|older|oldest|faster|fastest|first|better|best|won|wins|winner"
    r"|heavier|heaviest|earlier|earliest|stronger|strongest|the (?:correct|right) \w+)(?![a-z])",
    re.IGNORECASE,
)
_LESS = re.compile(
    r"(?<![a-z])(?:fewer|fewest|less|least|lower|lowest|smaller|smallest|shorter|shortest|slower"
    r"|younger|worse|worst|lost|loses|loser|last|behind|lighter|weaker|except|if|and|or)(?![a-z])",
    re.IGNORECASE,
)
_VERBS = (
    r"(?:is|are|was|were|has|have|had|did|does|scored|got|gained|made|ran|threw|won|wins|sold|earned|received|caught"
    r"|kicked|finished|came|lived|produced|spent|completed|hit|weighs?|contains?|holds?|owns?)"
)
_ELEMENT = r"(?:[A-Z][a-z]?)"
_FORMULA = re.compile(rf"[(\[]?{_ELEMENT}(?:{_ELEMENT}|[0-9()\[\]])*(?:\^?[0-9]?[+-])?")


def equal_text(gold: str, answer: str) -> bool:
    """One of the aliases ("NYC | New York") in other case, spacing or punctuation.

    >>> equal_text("round", "The table is round"), equal_text("round", "The table is not round")
    (True, False)
    """
    names = [alias for alias in gold.split("|") if words(alias)]
    solid = {_solid(words(name)) for name in names}
    said = words(answer)
    if said and (said in {words(name) for name in names} or _solid(said) in solid):
        return True
    if len(answer) > MAX_CHARS or is_question(answer):
        return False
    if any(_is_same_list(name, answer) or _is_same_day(name, answer) for name in names):
        return True
    if any(_solid(words(reading)) in solid - {""} for reading in _readings(plain(answer))):
        return True
    return any(_is_winner(plain(name), plain(answer)) for name in names)


def _solid(text: str) -> str:
    return re.sub(r"[\s'\-.,]", "", text)


def _is_same_list(gold: str, answer: str) -> bool:
    """Whether both join the same things by "and", in any order: "salt and oil"."""
    right, given = _items(gold), _items(answer)
    return right is not None and right == given


def _items(text: str) -> list[str] | None:
    """The sorted items of a list with "and"; with commas alone the order may be what was asked."""
    text = plain(text).strip(" .")
    items = [words(item) for item in _ITEMS.split(text)]
    is_joined = re.search(r"\sand\s|&", text, re.IGNORECASE) is not None
    if not is_joined or not 2 <= len(items) <= MAX_ITEMS or _NO_LIST.search(text):
        return None
    is_even = len({len(item.split()) for item in items}) == 1
    return sorted(items) if is_even and all(items) else None


def _is_same_day(gold: str, answer: str) -> bool:
    right = parse_weekday(plain(gold))
    return right is not None and right in map(
        parse_weekday, (plain(answer), *_readings(plain(answer)))
    )


def said_code(sentence: str) -> str:
    """The plate, serial number, clock time or date that a sentence says; empty for any other.

    >>> said_code("The plate reads AB12 XYZ."), said_code("It is 8 o'clock."), said_code("It is x")
    ('AB12 XYZ', "8 o'clock", '')
    """
    said = _SUBJECT_IS.fullmatch(plain(sentence))
    if said is None or _OTHER.search(said["subject"]) or not asserts_all(plain(sentence)):
        return ""
    code = said["said"].strip(" .'")
    return code if _SERIAL.fullmatch(code) or kind_of(code) else ""


def _readings(answer: str) -> Iterator[str]:
    """What a sentence says, without the words around it."""
    is_said = _SUBJECT_IS.fullmatch(answer)
    if is_said and not _OTHER.search(is_said["subject"]) and asserts_all(is_said["subject"]):
        yield from _with_and_without_reason(is_said["said"])
    after = _AFTER_COLON.fullmatch(answer)
    lead = after["lead"] if after else ""
    if after and _SAYS.search(lead) and asserts_all(lead) and not _OTHER.search(lead):
        yield from _with_and_without_reason(after["said"])
    shown = _SHOWS.fullmatch(answer)
    if shown and asserts_all(answer):
        yield shown["said"]
    yield from _colours(answer)
    yield from _conclusions(answer)
    yield from _with_and_without_reason(answer)


def _colours(answer: str) -> Iterator[str]:
    """The one colour of a sentence about what somebody wears or has."""
    has = _HAS_COLOUR.fullmatch(answer)
    if has is None or len(_COLOUR.findall(answer)) != 1 or not _COLOUR.fullmatch(has["said"]):
        return
    if asserts_all(answer) and not _OTHER.search(has["subject"]):
        yield has["said"]


def _conclusions(answer: str) -> Iterator[str]:
    """What the last sentence says, after one that denies something: "It is not red. It is blue"."""
    before, _, last = answer.rpartition(". ")
    is_denial = re.search(r"(?<![a-z])not(?![a-z])|n['\u2019]t(?![a-z])", before) is not None
    is_said = _SUBJECT_IS.fullmatch(last)
    if not is_denial or is_said is None or _UNSURE.search(before) or _REFUTES.search(answer):
        return
    is_repeated = words(is_said["said"]) in words(before)
    if asserts_all(last) and not is_repeated and not _OTHER.search(is_said["subject"]):
        yield is_said["said"]


def _with_and_without_reason(text: str) -> Iterator[str]:
    yield text
    reason = _REASON.search(text)
    if reason:
        yield text[: reason.start()]


def _is_winner(name: str, answer: str) -> bool:
    """Whether a conclusion says of its subject that it is ahead, or right: "So Ann had more"."""
    begins = re.match(
        rf"{_LEAD}(?:the )?{re.escape(name)}\s(?P<rest>{_VERBS}\s.{{1,300}})",
        answer,
        re.IGNORECASE | re.DOTALL,
    )
    if begins is None or not asserts_all(begins["rest"].replace(" than ", " ")):
        return False
    return bool(_MORE.search(begins["rest"])) and not _LESS.search(begins["rest"])


def same_matter(gold: str, answer: str) -> bool:
    r"""Whether two texts are the same chemical formula, however its subscripts are written.

    >>> same_matter("CO_2", r"\mathrm{CO2}"), same_matter("CO_2", "Co2"), same_matter("x_2", "x2")
    (True, False, False)
    """
    first, second = (re.sub(r"[\s_{}]", "", plain(text)) for text in (gold, answer))
    is_marked = re.search("[0-9]|[+-]$", first) is not None
    return first == second and is_marked and _FORMULA.fullmatch(first) is not None
