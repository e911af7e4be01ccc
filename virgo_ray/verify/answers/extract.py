r"""From a response to the answer it gives.

Guarantees: linear time in the length of the text; an answer comes only from the solution part when
the response has one; the rule that found the answer is named. An opened thought or solution that is
never closed is reported as truncated, not searched for an answer.

Rules, in this order: `boxed` (last brace-matched `\boxed{}`), `boxed_list` (several boxes side by
side), `stated` ("the answer is ...", "A: 7", "#### 7"), `last_line` (a bare last line).

Knows nothing of gold answers and answer types.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from virgo_ray.config import FORMATS, Format
from virgo_ray.verify.answers.fence import json_answer, unfence
from virgo_ray.verify.answers.revision import (
    confirms,
    denies,
    leaves_open,
    replaces,
    split_at_retraction,
    without_closing,
)
from virgo_ray.verify.answers.sentence import is_question

# A box further from its neighbour than this is another statement, not another part of one answer;
# the two distances are math-verify's, so that lists of boxes read the same there and here.
BOXES_TOUCH = 10
BOXES_JOINED = 70
MAX_JOINED = 50
# A last line longer than this is prose, not an answer.
MAX_LINE = 2000

# "my first answer was 7": what it says is no longer the answer.
_FORMER = re.compile(
    r"(?:\b(?:my|our|an?|the) (?:very )?(?:initial|earlier|previous|original|old|wrong|incorrect)"
    r"|\b(?:my|our) (?:very )?first|\b(?:thought|believed|guessed|suspected|expected)(?: that)?"
    r"(?: the| my| our)?(?: final| correct| right)?)\s?[*_]{0,3}$",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"(?<![\w\\}])(_{1,2})(?=[^\s_])([^_\n{}\\^]{1,300})\1(?![\w({])")
_SEPARATOR = re.compile(r"\b(?:and|or)\b|[,;]")
_STATED = re.compile(
    r"(?<![^\W_])(?<![^\W_]_)(?:answers?|solutions?)(?![^\W_]|_[^\W_])[*_]{0,3}"
    r"(?:\s{1,3}to\s[^.:\n]{1,80}?)?"
    r"(?:\s{0,3}[:=]|\s{1,3}(?:is|are|was|should\s{1,3}be|must\s{1,3}be|would\s{1,3}be)\b)"
    r"[*_:\s]{0,8}\}?[*_:\s]{0,8}",
    re.IGNORECASE,
)
# The same in other languages: a noun, then a colon or a word for "is".
_STATED_ABROAD = re.compile(
    "(?:\u7b54\u6848|\u7d50\u679c|\u7ed3\u679c)(?:\u5e94\u8be5|\u61c9\u8a72|\u5c31)?"
    "(?:\u662f|\u4e3a|\u70ba|\\s?[:\uff1a])[:\uff1a]?"
    "|\u7b54[:\uff1a]|(?:\u7b54\u3048|\u7b54|\u89e3\u7b54|\u6b63\u89e3)(?:\u306f|[:\uff1a])"
    "|(?:\uc815\ub2f5|\ub2f5)(?:\uc740|\\s?[:\uff1a])"
    r"|\b(?:\u043e\u0442\u0432\u0435\u0442|respuesta|r[e\u00e9]ponse|antwort|l[o\u00f6]sung|resposta|risposta"
    r"|soluci[o\u00f3]n)(?:\s(?:final|correcta|finale|correcte))?\b[*_]{0,3}"
    r"(?:\s?:|\s?[\u2014-]\s|\s(?:es|est|ist|lautet|\u00e9|\u00e8)\b)",
    re.IGNORECASE,
)
_LINE_LABEL = re.compile(r"^\s{0,8}(?:A:|####)[ \t]*", re.MULTILINE)
# "No. 8" does not end at its point.
_SENTENCE_END = re.compile(
    r"(?<!\b[Nn]o)\.(?=\s+\S|\s*$)|(?<=\b[Nn]o)\.(?=\s+[^\s0-9]|\s*$)|[!?](?=\s|$)|\n|[\u3002\uff01\uff1f]"
)
# An exclamation mark after a digit or bracket is a factorial.
_FULL_STOP = re.compile(r"(?:[.\u3002]|(?<=[A-Za-z*_])[!?]|[\uff01\uff1f])[*_\s]{0,3}$")
# A box that says where an answer goes, not which.
_PLACEHOLDER = re.compile(
    r"(?:[\s.?_~\u2026-]|\\[lc]?dots|\\text\s?\{\s{0,3}\}|\\,|\\ )*|(?:\\text\s?\{)?(?:your "
    r"|final )?answer\}?",
    re.IGNORECASE,
)
_SENTENCE_BEFORE = 300


@dataclass(frozen=True)
class Part:
    """The part of a response that may hold the answer."""

    text: str
    is_truncated: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Extraction:
    """The answer as written; `rule` is empty where nothing was found.

    `boxes` are the contents of all boxes that were joined; `note` tells what a reader should know,
    for example text after the answer that contradicts it. `sentence` is the whole sentence that
    states the answer, which begins at its character `offset`; `after` is the text that follows.
    """

    answer: str = ""
    rule: str = ""
    boxes: tuple[str, ...] = ()
    note: str = ""
    context: str = ""
    sentence: str = ""
    offset: int = 0
    after: str = ""


def solution_part(
    text: str, require_end_tag: bool = True, formats: Sequence[Format] = FORMATS
) -> Part:
    """The solution of a tagged response; a response without tags is all solution.

    >>> solution_part("<think>1+1</think> So 2.").text
    ' So 2.'
    >>> solution_part("<think>1+1").is_truncated
    True
    """
    for tags in formats:
        if any(tag and tag in text for tag in tags[:3]):
            return _tagged_part(text, tags, require_end_tag)
    return Part(text)


def thought_part(text: str, formats: Sequence[Format] = FORMATS) -> str:
    """The thought of a tagged and finished response; empty for a response without one.

    >>> thought_part("<think>1+1</think> So 2.")
    '1+1'
    """
    if solution_part(text, formats=formats).is_truncated:
        return ""
    for tags in formats:
        before, closed, _ = text.rpartition(tags.end_thought)
        if closed:
            _, opened, thought = before.partition(tags.begin_thought)
            return thought if opened else before
    return ""


def _tagged_part(text: str, tags: Format, require_end_tag: bool) -> Part:
    closed = text.rfind(tags.end_thought)
    if closed < text.rfind(tags.begin_thought) and require_end_tag:
        return Part("", True, f"{tags.begin_thought} without {tags.end_thought}")
    solution = text if closed < 0 else text[closed + len(tags.end_thought) :]
    opened = solution.find(tags.begin_solution)
    if opened < 0 or not tags.begin_solution:
        return Part(_without(tags, solution))
    solution = solution[opened + len(tags.begin_solution) :]
    ended = solution.find(tags.end_solution) if tags.end_solution else len(solution)
    if ended < 0 and require_end_tag:
        return Part("", True, f"{tags.begin_solution} without {tags.end_solution}")
    return Part(_without(tags, solution if ended < 0 else solution[:ended]))


def _without(tags: Format, text: str) -> str:
    """A tag that stands once more is no answer: a solution opened twice and left empty has none."""
    for tag in filter(None, tags):
        text = text.replace(tag, " ")
    return text


@dataclass(frozen=True)
class Box:
    start: int
    end: int
    content: str


def find_boxes(text: str) -> list[Box]:
    r"""All brace-matched `\boxed{...}` and `\fbox{...}`, in order; a box inside a box is part of
    it.

    One pass over the text, whatever its nesting.
    """
    boxes: list[Box] = []
    end = 0
    for match in re.finditer(r"\\f?box(?:ed)?\s{0,8}\{", text):
        if match.start() < end:
            continue
        closing = _closing_brace(text, match.end())
        if closing is None:
            # Nothing after an open brace can close it twice: later boxes are inside this one.
            rest = text[match.end() :].split("\n", 1)[0]
            inner = find_boxes_inside(text, match.end())
            return boxes + (inner or [Box(match.start(), len(text), rest.strip())])
        end = closing + 1
        boxes.append(Box(match.start(), end, text[match.end() : closing].strip()))
    return boxes


def find_boxes_inside(text: str, start: int) -> list[Box]:
    """Closed boxes after an unclosed one (a slip early in a long text), innermost only."""
    found = []
    for match in re.finditer(r"\\boxed\{([^{}]{1,2000})\}", text[start:]):
        found.append(Box(start + match.start(), start + match.end(), match.group(1).strip()))
    return found


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        token = match.group()
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return None


_STRUCK = re.compile(r"~~[^~\n]{1,200}~~")


def extract(text: str) -> Extraction:
    r"""The answer that a solution part gives.

    >>> extract(r"Thus $x=\boxed{\frac{1}{2}}$.").answer
    '\\frac{1}{2}'
    >>> extract(r"It is \boxed{2}. Wait, that is wrong. It is \boxed{3}.").answer
    '3'
    """
    text = without_closing(_STRUCK.sub(" ", text))
    before, after = split_at_retraction(text)
    if not before.strip():
        return _explicit(text) or last_line(unfence(text))
    found = _explicit(after)
    if found:
        return found
    earlier = _explicit(before)
    if earlier and confirms(after) and not re.search(r"[0-9]|\b[A-H]\b", after):
        return earlier
    if denies(after) and not re.search(r"[0-9]|\b[A-H]\b", after):
        return Extraction(note="the response takes its answer back")
    return last_line(after.lstrip(" ,.:!*_\u2014-"))


def _explicit(text: str) -> Extraction | None:
    """An answer that the text marks as one: by a box, as JSON, or in words."""
    boxes = find_boxes(text)
    said = [box for box in boxes[-2 * MAX_JOINED :] if not _PLACEHOLDER.fullmatch(box.content)]
    meant = [box for box in said if not _is_denied(text, box)]
    if meant:
        return _from_boxes(text, meant)
    if said:
        return find_statement(text[said[-1].end :]) or Extraction(note="the box is denied")
    if boxes:
        text = text[boxes[-1].end :]
    answer = json_answer(text)
    if answer:
        return _explicit(answer) or Extraction(answer, "json", sentence=answer)
    if boxes:
        return find_statement(text) or last_line(text)
    return find_statement(text)


def _is_denied(text: str, box: Box) -> bool:
    """Whether the sentence of a box says that it is not the answer, or asks whether it is."""
    lead = text[max(0, box.start - _SENTENCE_BEFORE) : box.start]
    lead = lead[max((m.end() for m in _SENTENCE_END.finditer(lead)), default=0) :]
    rest = text[box.end : box.end + _SENTENCE_BEFORE]
    end = _SENTENCE_END.search(rest)
    tail = rest[: end.end()] if end else rest
    if leaves_open(lead, tail):
        return True
    following = rest[end.end() :] if end else ""
    if is_question(tail) and re.match(r"\s*no\b", following, re.IGNORECASE):
        return True
    following = following[: m.end()] if (m := _SENTENCE_END.search(following)) else following
    return denies("}" + tail.split("\\box")[0]) or denies(following.split("\\box")[0])


def _from_boxes(text: str, boxes: list[Box]) -> Extraction:
    joined = [boxes[-1]]
    for box in reversed(boxes[-MAX_JOINED:-1]):
        if not _belong_together(text, box, joined[0]):
            break
        joined.insert(0, box)
    contents = tuple(dict.fromkeys(box.content for box in joined))
    after = text[boxes[-1].end :].lstrip(" \t$*\\)]}")
    # "28" in the box and "percent" right after it belong together.
    unit = re.match(r"(?:\\?%|percent(?:age)?\b|pct\b)", after)
    answer = ", ".join(contents) + (" " + unit.group() if unit else "")
    rule = "boxed" if len(contents) == 1 else "boxed_list"
    return Extraction(answer, rule, contents, _contradiction(after, contents[-1]), text, answer)


def _belong_together(text: str, box: Box, following: Box) -> bool:
    between = text[box.end : following.start]
    if len(between) < BOXES_TOUCH:
        return True
    if len(between) >= BOXES_JOINED or box.content == following.content or replaces(between):
        return False
    return bool(_SEPARATOR.search(between))


def _contradiction(after: str, answer: str) -> str:
    """A note where the text after the box states another answer."""
    stated = find_statement(after)
    if not stated or _squeeze(stated.answer) == _squeeze(answer):
        return ""
    return f"the text after the box says {stated.answer[:80]!r}"


def _squeeze(text: str) -> str:
    return re.sub(r"[\s$.*\\()\[\]{}]|text|boxed", "", text)


def find_statement(text: str) -> Extraction | None:
    """What follows the last "the answer is", "A:" or "####" up to the end of its sentence."""
    last = None
    for pattern in (_STATED, _LINE_LABEL, _STATED_ABROAD):
        for match in pattern.finditer(text):
            is_former = _FORMER.search(text, max(0, match.start() - 60), match.start())
            if not is_former and (last is None or match.end() > last.end()):
                last = match
    if last is None:
        return None
    rest = text[last.end() : last.end() + MAX_LINE].lstrip()
    sentence, after = _first_sentence(rest)
    answer = _tidy(sentence)
    for opening, closing in ((r"\[", r"\]"), (r"\(", r"\)")):  # the sentence began outside of it
        answer = answer if opening in answer else answer.removesuffix(closing).strip()
    if not answer:
        return None
    if denies(_first_sentence(after)[0]):
        return Extraction(note="the response takes its answer back")
    lead = text[max(0, last.start() - _SENTENCE_BEFORE) : last.end()].rstrip() + " "
    starts = [m.end() for m in _SENTENCE_END.finditer(lead[: len(lead) - 1 - len(last.group())])]
    lead = lead[max(starts, default=0) :]
    return Extraction(
        answer, "stated", context=rest, sentence=lead + sentence, offset=len(lead), after=after
    )


def _first_sentence(text: str) -> tuple[str, str]:
    """(the first sentence with its full stop, the rest); a display is one sentence."""
    for opening, closing in (("$$", "$$"), (r"\[", r"\]")):
        if text.startswith(opening) and (end := text.find(closing, 2)) > 0:
            return text[2:end], text[end + 2 :]
    end_of = _SENTENCE_END.search(text)
    return (text[: end_of.end()], text[end_of.end() :]) if end_of else (text, "")


def last_line(text: str) -> Extraction:
    """The bare last line of a text, or the display that ends it."""
    text = text.strip()
    context = text
    for opening, closing in ((r"\[", r"\]"), ("$$", "$$")):  # a display over several lines
        if text.endswith(closing):
            text = text[: -len(closing)]
            start = text.rfind(opening)
            return _line(text[start + 2 :], text) if start >= 0 else Extraction()
    line = text.rpartition("\n")[2].strip()
    return _line(line, context) if len(line) <= MAX_LINE else Extraction()


def _line(line: str, context: str) -> Extraction:
    answer = _tidy(line)
    if not answer:
        return Extraction()
    return Extraction(answer, "last_line", context=context, sentence=line)


def _tidy(line: str) -> str:
    """Without Markdown emphasis and the full stop of a sentence."""
    line = _EMPHASIS.sub(r"\2", line.strip()).strip("*_").strip()
    return _FULL_STOP.sub("", line, count=1)
