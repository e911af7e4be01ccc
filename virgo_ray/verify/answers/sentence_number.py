r"""The one number that a sentence asserts, with what belongs to it: sign, percent, scale, unit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from virgo_ray.verify.answers.clean import clean
from virgo_ray.verify.answers.number import parse_number
from virgo_ray.verify.answers.units import is_measure

MATH = re.compile(
    r"\$\$(.{1,2000}?)\$\$|(?<!\\)\$((?:\\\$|[^$\n]){1,2000})\$|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![0-9A-Za-z_.\\{^])(?:(?:minus|negative)\s)?-?\s?\\?[$€£¥]?\s?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+|,[0-9]{1,2}(?![0-9]))?"
    r"(?:\s?/\s?[0-9]+)?(?:\s?\\?%| percent\b| pct\b)?"
    r"(?![0-9]|\s?[\\^_{*+=!]|\s?\((?![A-Za-z]{2})|\s?[-/\u00d7\u00f7\u00b7]\s?[0-9$]|(?:st|nd|rd|th)(?![a-z])|:[0-9])"
)
# After a number these say that it is not the whole value; "7 times" alone counts something.
_CHANGED_AFTER = re.compile(
    r"\s?(?:(?:plus|minus|divided|multiplied|squared|cubed|mod|modulo|factorial|choose|and a|to the"
    r"|percent of|over|or so|or thereabouts|less|more than|fewer|of the way|o'clock"
    r"|halves|thirds|quarters|tenths|-?ish|-digit|with an? [0-9]"
    r"|\+)(?![a-z])"
    r"|times\s(?:[0-9$]|as|the|that|more|less|bigger|larger|a|an|two|three|four|five|six|seven|eight|nine|ten)"
    r"|%?\s?of\s[0-9$]|[\u03c0\u221a\u00b2\u00b3!]|(?<!\s)[a-z](?![A-Za-z0-9%'])"
    r"|(?![ai](?![A-Za-z]))[a-z](?![A-Za-z0-9%']|\.[a-z]|\s[a-z]{2}))",
    re.IGNORECASE,
)
_FOLLOWING = re.compile(r"\s?[^\s.,;:!?()]{1,15}(?: [^\s.,;:!?()]{1,15}){0,3}")
MAX_UNIT = 60
PREPOSITIONS = ("in", "at", "a")  # no inches, technical atmospheres or ares
_SINGLE_UNITS = re.compile(r"\s?(?:[gmslLJNWVKAFCTH](?![A-Za-z])|h(?![A-Za-z]))")
_CHANGED_BEFORE = re.compile(
    r"(?:[+*/^\u00d7\u00f7\u00b7]|[0-9)}A-Za-z]\s?-|\b(?:plus|minus|times|divided by"
    r"|multiplied by|over|or|nor|mod|modulo|sum of|product of|difference of|power of"
    r"|root of|factor of|multiple of))\s?[$(\\]{0,3}$",
    re.IGNORECASE,
)
_WORD_NUMBER = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    r"|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    r"|hundred|thousand|million|billion|dozen)"
)
_OTHER = (
    r"(?:\s[A-Za-z]{1,20}){0,3},?\s?(?:and|or|to|vs\.?|versus|nor|/|&|~"
    r"|\u2013)\s(?:[A-Za-z]{1,20}\s){0,2}\\?[$(]{0,2}-?(?:[0-9]|"
    rf"{_WORD_NUMBER}(?![A-Za-z])|(?:something|anything|any|some|other|another|whatever)(?![a-z]))"
)
_JOINED_AFTER = re.compile(_OTHER, re.IGNORECASE)
_JOINED_BEFORE = re.compile(
    r"(?<![A-Za-z0-9.=])(?:is|are|was|were|either|be|have|has|had|between|from|of|and|or|both)?\s?\$?"
    r"[0-9][0-9.,]{0,20}\$?(?:\s[A-Za-z]{1,20}){0,3},?\s?(?:and|or|to|vs\.?|versus|nor|&|~|\u2013)\s(?:[A-Za-z]{1,20}\s){0,2}\$?$"
)
_SAID = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|answer|total of|result of|comes? (?:out )?to|get|gives?"
    r"|makes?|leaves?|leaving|becomes?|totals?|namely)|[=:\u2248])"
    r"\s?(?:about |approximately |exactly |only |just |roughly |around |still |now |then "
    r"|therefore |thus |also |equal to |a total of |to )?[\\$(]{0,3}$",
    re.IGNORECASE,
)
# What may stand between "the answer is" and its number.
_LEADS = re.compile(
    r"(?:[\s:*$\\(~\u2248=\[\"'_-]|about|approximately|exactly|roughly|around|only|just|simply|therefore"
    r"|thus|hence|now|then|still|indeed|clearly|definitely|equal|to|the|number|value|integer|a|total|of"
    r"|given|found|be|by|as|follows|also|but|rather|course|no|doubt|undoubtedly|certainly|obviously|,)*",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"[;:.](?=\s)|,(?=\s)|\b(?:so|then|hence|therefore|thus|which)\b", re.IGNORECASE
)
_WORDS = re.compile(
    rf"(?<![A-Za-z'-])(?:(?:minus|negative|a(?=\s(?:hundred|thousand|million|dozen)))\s)?{_WORD_NUMBER}"
    rf"(?:(?:\sand\s|[\s-]){_WORD_NUMBER}){{0,8}}(?![A-Za-z'])",
    re.IGNORECASE,
)
_PRONOUN_ONE = re.compile(
    r"(?:\b(?:the|no|any|every|each|this|that|some|which|another|other|right|last|first|next|not|than)\s$)",
    re.IGNORECASE,
)
_AFTER_ONE = re.compile(
    r"\s(?:of|another|is|was|who|that|which|can|could|would|might|has|to|more|by|on|in|at|side)\b",
    re.IGNORECASE,
)
_MORE_WORDS = re.compile(
    r"(?<![A-Za-z])(?:half|halves|thirds?|quarters?|fourths?|fifths?|tenths?|couple|pair|several|few|many|twice|double|first|second|th|times)(?![A-Za-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Quantity:
    start: int
    end: int
    text: str


def quantity(text: str, begins: bool = False, is_sentence: bool = False) -> str:
    """The number that an asserted text says; empty where it says none, or several equally.

    `begins` says that a number at the beginning is the answer, whatever follows in other clauses,
    and that one inside is none unless `is_sentence`, as behind "Answer:".

    >>> quantity("so 3 bags hold 12 kg"), quantity("it is 12 in 3 days"), quantity("it is 3 or 4")
    ('', '12', '')
    >>> quantity("There are two red balls left.")
    'two'
    """
    found = _quantities(text)
    if not found:
        return _in_words(text)
    first = found[0]
    if begins and _LEADS.fullmatch(text[: first.start]):
        return first.text if _stands_alone(text, first) else ""
    chosen = _concluded(text, found)
    if begins and not is_sentence and chosen and not _SAID.search(text[: chosen.start]):
        return ""  # "the answer is divisible by 7"
    return chosen.text if chosen and _stands_alone(text, chosen) else ""


def _quantities(text: str) -> list[Quantity]:
    """Formulas with digits, and numbers outside of formulas, in their order."""
    outside = MATH.sub(lambda m: " " * len(m.group()), text)
    found = [
        Quantity(m.start(), m.end(), clean(next(g for g in m.groups() if g)))
        for m in MATH.finditer(text)
        if re.search(r"[0-9]", m.group())
    ]
    for match in _NUMBER.finditer(outside):
        if _is_subtracted(outside, match):
            continue
        number = re.sub(r"^(?:minus|negative)\s", "-", match.group().strip(), flags=re.IGNORECASE)
        end = match.end()
        unit = _unit_after(number, outside[end : end + 60])
        found.append(Quantity(match.start(), end + len(unit), number + unit))
    return sorted(found, key=lambda q: q.start)


def _is_subtracted(text: str, match: re.Match[str]) -> bool:
    """Whether the sign of a number is that of a difference: "10 - 3"."""
    before = text[: match.start()].rstrip()
    if not match.group().lstrip().startswith("-") or not before:
        return False
    return before[-1].isdigit() or (before[-1].isalnum() and match.group().lstrip()[1] == " ")


def _unit_after(number: str, rest: str) -> str:
    """The unit or scale that follows a number in its sentence: 12 kg, 7 trillion."""
    following = _FOLLOWING.match(rest[:MAX_UNIT])
    words = following.group().split() if following else []
    gap = " " if rest.startswith(" ") else ""
    bare = parse_number(number)
    best, meaning = "", (bare.value, bare.units) if bare else None
    for count in range(1, len(words) + 1):
        unit = gap + " ".join(words[:count])
        said = parse_number(number + unit) if words[count - 1] not in PREPOSITIONS else None
        if said is None or bare is None or any(one.noun.words for one in said.units):
            continue
        is_other = said.value != bare.value or is_measure(said.units)
        if is_other and (said.value, said.units) != meaning:
            best, meaning = unit, (said.value, said.units)
    return best


def _concluded(text: str, found: list[Quantity]) -> Quantity | None:
    """The number of the last clause that has one; of several, the one right after "is" or "="."""
    clauses = [0, *(m.end() for m in _CLAUSE_END.finditer(text)), len(text) + 1]
    begins = max(at for at in clauses if at <= found[-1].start)
    last = [q for q in found if q.start >= begins]
    if len({q.text for q in last}) == 1:
        return last[-1]
    said = [q for q in last if _SAID.search(text[: q.start])]
    return said[-1] if said else None


def _stands_alone(text: str, number: Quantity) -> bool:
    before, after = text[: number.start], text[number.end :]
    is_joined = _JOINED_AFTER.match(after) or _JOINED_BEFORE.search(before[-80:])
    if is_joined or _CHANGED_BEFORE.search(before[-30:]):
        return False
    return _CHANGED_AFTER.match(after) is None or bool(_SINGLE_UNITS.match(after))


def _in_words(text: str) -> str:
    """The one number that a text says in words: "There are two red balls left"."""
    if re.search(r"[0-9]", text) or _MORE_WORDS.search(text):
        return ""
    runs = [m for m in _WORDS.finditer(text) if not _is_pronoun(text, m)]
    if len(runs) != 1 or parse_number(runs[0].group()) is None:
        return ""
    start, end = runs[0].span()
    if _CHANGED_BEFORE.search(text[:start][-30:]) or _CHANGED_AFTER.match(text[end:]):
        return ""
    return runs[0].group()


def _is_pronoun(text: str, match: re.Match[str]) -> bool:
    if match.group().lower() != "one":
        return False
    return bool(_PRONOUN_ONE.search(text[: match.start()]) or _AFTER_ONE.match(text[match.end() :]))
