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

# A box further from its neighbour than this is another statement, not another part of one answer;
# the two distances are math-verify's, so that lists of boxes read the same there and here.
BOXES_TOUCH = 10
BOXES_JOINED = 70
MAX_JOINED = 50
# A last line longer than this is prose, not an answer.
MAX_LINE = 2000

_SEPARATOR = re.compile(r"\b(?:and|or)\b|[,;]")
_STATED = re.compile(
    r"(?:\banswer|\bsolution)\b[*_]{0,3}"
    r"(?:\s{1,3}to\s[^.:\n]{1,80}?)?"
    r"(?:\s{0,3}[:=]|\s{1,3}(?:is|are|was|should\s{1,3}be|must\s{1,3}be|would\s{1,3}be)\b)"
    r"[*_:\s]{0,8}",
    re.IGNORECASE,
)
_LINE_LABEL = re.compile(r"^\s{0,8}(?:A:|####)[ \t]*", re.MULTILINE)
_SENTENCE_END = re.compile(r"\.(?=\s+\S|\s*$)|[!?](?=\s|$)|\n")


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
    for example text after the answer that contradicts it.
    """

    answer: str = ""
    rule: str = ""
    boxes: tuple[str, ...] = ()
    note: str = ""
    context: str = ""


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


def extract(text: str) -> Extraction:
    r"""The answer that a solution part gives.

    >>> extract(r"Thus $x=\boxed{\frac{1}{2}}$.").answer
    '\\frac{1}{2}'
    """
    boxes = find_boxes(text)
    if boxes:
        return _from_boxes(text, boxes)
    for rule, find in (("stated", _stated), ("last_line", _last_line)):
        answer, context = find(text)
        if answer:
            return Extraction(answer, rule, context=context)
    return Extraction()


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
    return Extraction(answer, rule, contents, _contradiction(after, contents[-1]), text)


def _belong_together(text: str, box: Box, following: Box) -> bool:
    between = text[box.end : following.start]
    if len(between) < BOXES_TOUCH:
        return True
    if len(between) >= BOXES_JOINED or box.content == following.content:
        return False
    return bool(_SEPARATOR.search(between))


def _contradiction(after: str, answer: str) -> str:
    """A note where the text after the box states another answer."""
    stated, _ = _stated(after)
    if not stated or _squeeze(stated) == _squeeze(answer):
        return ""
    return f"the text after the box says {stated[:80]!r}"


def _squeeze(text: str) -> str:
    return re.sub(r"[\s$.*\\()\[\]{}]|text|boxed", "", text)


def _stated(text: str) -> tuple[str, str]:
    """What follows the last "the answer is", "A:" or "####" up to the end of its sentence."""
    last = None
    for pattern in (_STATED, _LINE_LABEL):
        for match in pattern.finditer(text):
            if last is None or match.end() > last:
                last = match.end()
    if last is None:
        return "", ""
    rest = text[last : last + MAX_LINE].lstrip()
    end = _SENTENCE_END.search(rest)
    sentence = rest[: end.start()] if end else rest
    return _tidy(sentence), rest


def _last_line(text: str) -> tuple[str, str]:
    text = text.strip()
    for opening, closing in ((r"\[", r"\]"), ("$$", "$$")):  # a display over several lines
        if text.endswith(closing):
            text = text[: -len(closing)]
            start = text.rfind(opening)
            return (_tidy(text[start + 2 :]), text) if start >= 0 else ("", "")
    line = text.rpartition("\n")[2].strip()
    if not line or len(line) > MAX_LINE:
        return "", ""
    return _tidy(line), text


def _tidy(line: str) -> str:
    """Without Markdown emphasis and the full stop of a sentence."""
    return line.strip().strip("*_").strip().removesuffix(".").strip()
