r"""Whether two short texts say the same: answers in words, read from pictures, formulas of matter.

An answer may be the gold text, or a sentence whose meaning is certain: "The table is round",
"The label says: SALT", "Therefore, Ann had more points than Bob" for Ann.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from virgo_ray.verify.answers.clean import plain, words
from virgo_ray.verify.answers.sentence import asserts_all, is_question

MAX_CHARS = 1000

_LEAD = (
    r"(?:(?:so|therefore|thus|hence|finally|in conclusion|then|as a result|overall"
    r"|consequently),?\s)"
)
_SUBJECT_IS = re.compile(
    rf"{_LEAD}?(?:in (?:the|this) (?:image|picture|photo|figure|diagram|graph|chart),?\s)?"
    r"(?P<subject>(?:the|this|that|it|its|their|his|her|our|my)(?:\s[^.:;]{1,100}?)?)"
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
_FORMULA = re.compile(rf"[(\[]?{_ELEMENT}(?:{_ELEMENT}|[0-9()\[\]]|\^?[+-])*")


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
    if any(_solid(words(reading)) in solid - {""} for reading in _readings(plain(answer))):
        return True
    return any(_is_winner(plain(name), plain(answer)) for name in names)


def _solid(text: str) -> str:
    return re.sub(r"[\s'\-.,]", "", text)


def _readings(answer: str) -> Iterator[str]:
    """What a sentence says, without the words around it."""
    is_said = _SUBJECT_IS.fullmatch(answer)
    if is_said and not _OTHER.search(is_said["subject"]) and asserts_all(is_said["subject"]):
        yield from _with_and_without_reason(is_said["said"])
    after = _AFTER_COLON.fullmatch(answer)
    lead = after["lead"] if after else ""
    if after and _SAYS.search(lead) and asserts_all(lead) and not _OTHER.search(lead):
        yield from _with_and_without_reason(after["said"])
    yield from _with_and_without_reason(answer)


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
    return first == second and any(c.isdigit() for c in first) and bool(_FORMULA.fullmatch(first))


def ranking(text: str) -> tuple[tuple[str, ...], ...] | None:
    r"""The names of a chain such as `A > B = C`, largest first; None for anything else.

    >>> ranking("C < B < A") == ranking("A > B > C"), ranking("A < B > C"), ranking("1 < x < 3")
    (True, None, None)
    """
    bare = re.sub(r"\\(gt|lt)(?![a-z])", lambda m: "<>"[m[1] == "gt"], plain(text))
    if len(bare) > 300 or ("<" in bare) is (">" in bare):
        return None
    groups = [[name.strip() for name in group.split("=")] for group in re.split("[<>]", bare)]
    names = [name for group in groups for name in group]
    if len(names) < 3 or not all(re.fullmatch(r"[A-Za-z][\w ']{0,40}", name) for name in names):
        return None
    ordered = groups if ">" in bare else groups[::-1]
    return tuple(tuple(sorted(group)) for group in ordered)
