"""From a found sentence to the answer inside it, knowing the answer's type.

`extract.py` finds where an answer is said; a last line such as "so it weighs 12 kg in all" holds
more than the answer. Boxes are never narrowed: what stands in a box is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from virgo_ray.records import AnswerType
from virgo_ray.verify.answers.choice import chosen, mentioned
from virgo_ray.verify.answers.clean import clean, words
from virgo_ray.verify.answers.extract import Extraction
from virgo_ray.verify.answers.infer import NO, YES
from virgo_ray.verify.answers.number import parse_number
from virgo_ray.verify.answers.units import is_measure
from virgo_ray.verify.answers.words import find_in_sentence

_MATH = re.compile(
    r"\$\$(.{1,2000}?)\$\$|(?<!\\)\$((?:\\\$|[^$\n]){1,2000})\$|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![0-9A-Za-z_.\\{^])-?[$€£¥]?\s?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
    r"(?:\.[0-9]+|,[0-9]{1,2}(?![0-9]))?(?:\s?/\s?[0-9]+)?(?:\s?\\?%| percent\b| pct\b)?"
    r"(?![0-9]|\s?[\\^_{(*+=])"
)
MAX_CONTEXT = 20_000
MAX_UNIT = 60
# A formula is not a sentence: two words of letters, or one where there is no command.
_SENTENCE = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]{2,}\b.*(?<![\\A-Za-z])[A-Za-z]{2,}\b|^[^\\]*\b[A-Za-z]{2,}\b[^\\]*$",
    re.DOTALL,
)


def narrow(found: Extraction, answer_type: AnswerType, options: Sequence[str] = ()) -> Extraction:
    """The same finding with the sentence around the answer removed."""
    if not found.answer or found.rule.startswith("boxed"):
        return found
    if answer_type is AnswerType.CHOICE:
        return _choice(found, options)
    if answer_type is AnswerType.YES_NO:
        return _yes_no(found)
    if answer_type is AnswerType.TEXT:
        return _text(found)
    if parse_number(found.answer) is not None:
        return found
    spans = [
        (m.start(), clean(next(g for g in m.groups() if g))) for m in _MATH.finditer(found.answer)
    ]
    if answer_type is AnswerType.NUMBER:
        return _number(found, spans)
    return replace(found, answer=spans[-1][1]) if spans else found


def _number(found: Extraction, spans: list[tuple[int, str]]) -> Extraction:
    """The last number of the sentence; a stated answer may also begin with it and go on."""
    begins = _NUMBER.match(found.answer) if found.rule == "stated" else None
    if begins and not re.match(r"\s*[-+*/^=(\\]", found.answer[begins.end() :]):
        return replace(
            found, answer=_with_unit(begins.group().strip(), found.answer[begins.end() :])
        )
    numeric = [(at, math) for at, math in spans if re.search(r"[0-9]", math)]
    outside = _MATH.sub(lambda m: " " * len(m.group()), found.answer)
    if _SENTENCE.search(outside) or not spans:
        numbers = [
            (m.start(), _with_unit(m.group().strip(), outside[m.end() : m.end() + MAX_UNIT]))
            for m in list(_NUMBER.finditer(outside))[-1:]
        ]
        numeric += numbers if _SENTENCE.search(found.answer) else []
    if not numeric and not re.search(r"[0-9]", found.answer):
        spelled = find_in_sentence(found.answer)
        return replace(found, answer=spelled) if spelled else found
    return replace(found, answer=max(numeric)[1]) if numeric else found


def _with_unit(number: str, rest: str) -> str:
    """The number with the unit or scale that follows in its sentence: 12 kg, 7 trillion."""
    following = re.match(r"\s?[^\s.,;:!?()]{1,15}(?: [^\s.,;:!?()]{1,15}){0,3}", rest[:MAX_UNIT])
    words = following.group().strip().split(" ") if following else []
    bare = parse_number(number)
    best, meaning = number, (bare.value, bare.units) if bare else None
    for count in range(1, len(words) + 1):
        longer = f"{number} {' '.join(words[:count])}"
        read = parse_number(longer) if words[count - 1] != "in" else None
        if read is None or bare is None or any(unit.noun.words for unit in read.units):
            continue
        if (read.value, read.units) != meaning and (
            read.value != bare.value or is_measure(read.units)
        ):
            best, meaning = longer, (read.value, read.units)
    return best


def _text(found: Extraction) -> Extraction:
    """What a last line such as "The shape is red" says of its subject."""
    is_said = re.fullmatch(r".{1,200}\b(?:is|are|was|were)\s+(.{1,60})", found.answer)
    if found.rule != "last_line" or not is_said:
        return found
    return replace(found, answer=is_said[1])


def _yes_no(found: Extraction) -> Extraction:
    """The one truth value that a sentence holds."""
    said = set(re.findall(r"[a-z]+", words(found.answer))) & ((YES | NO) - {"y", "n"})
    if "not" in words(found.answer).split() or len(said) != 1:
        return found
    return replace(found, answer=said.pop())


def _choice(found: Extraction, options: Sequence[str]) -> Extraction:
    lines = [line for line in found.context[:MAX_CONTEXT].splitlines() if line.strip()]
    named = [chosen(line, options) for line in lines] if found.rule == "last_line" else []
    if all(named) and len(set(named)) > 1:
        return Extraction(note="a copy of the options")
    if chosen(found.answer, options):
        return found
    if named and named[0]:
        return replace(found, answer=lines[0].strip(), rule="first_line")
    letter = mentioned(found.answer, len(options))
    if letter:
        return replace(found, answer=letter)
    math = _MATH.findall(found.answer)
    return replace(found, answer=clean(next(g for g in math[-1] if g))) if math else found
