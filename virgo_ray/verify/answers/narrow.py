"""From a found sentence to the answer inside it, knowing the answer's type.

`extract.py` finds where an answer is said; a last line such as "so it weighs 12 kg in all" holds
more than the answer, and a sentence may deny or leave open what it mentions. What a response does
not assert is no answer. A box is the answer unless it holds a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from virgo_ray.records import AnswerType
from virgo_ray.verify.answers.choice import chosen, contradicts, mentioned, named
from virgo_ray.verify.answers.clean import clean, plain, words
from virgo_ray.verify.answers.codes import is_numbered
from virgo_ray.verify.answers.extract import Extraction, find_statement, last_line
from virgo_ray.verify.answers.number import parse_number
from virgo_ray.verify.answers.quantity import named_value
from virgo_ray.verify.answers.relation_words import in_signs
from virgo_ray.verify.answers.sentence import is_question, read
from virgo_ray.verify.answers.sentence_number import MATH, quantity
from virgo_ray.verify.answers.text import said_code
from virgo_ray.verify.answers.truth import NO, YES, truth_of

MAX_CONTEXT = 20_000
MAX_BOX = 1000
NOT_ASSERTED = Extraction(note="the sentence does not assert an answer")
# Types of which an answer may be a bound: "x is at least 5".
_WITH_BOUNDS = frozenset({AnswerType.EQUATION, AnswerType.INTERVAL})
_RELATIONS = _WITH_BOUNDS | {AnswerType.EXPRESSION}
# A formula is not a sentence: two words of letters, or one where there is no command.
_SENTENCE = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]{2,}\b.*(?<![\\A-Za-z])[A-Za-z]{2,}\b|^[^\\]*\b[A-Za-z]{2,}\b[^\\]*$"
    r"|[\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]",
    re.DOTALL,
)
# Letters of other scripts may touch the marks, ASCII ones may not: `2**3**2` is a formula.
_BOLD = re.compile(r"(?<![A-Za-z0-9_*)\]}])\*\*(?=[^\s*])([^*\n]{1,300})\*\*(?![A-Za-z0-9_*({])")
_UNDERLINED = re.compile(r"(?<![\w\\}])__(?=[^\s_])([^_\n]{1,300})__(?![\w({])")
_ITALIC = re.compile(r"(?<=[A-Za-z:]\s)\*(?=[^\s*])([^*\n]{1,300})\*(?![\w*({])")
# Another value that is offered beside the one asserted.
_HEDGED = re.compile(
    r"(?<![A-Za-z])(?:maybe|perhaps|possibly|might|may be|could be"
    r"|probably)(?![A-Za-z])[^.;:]{0,30}"
    r"(?:[0-9]|(?<![A-Za-z])(?:one|two|three|four|five|six|seven|eight|nine|ten)(?![A-Za-z]))",
    re.IGNORECASE,
)
# Words and numbers with spaces between, as in "there are 12 apples": nothing of a program.
_PROSE = re.compile(r"(?:(?:[A-Za-z]{1,20}|[$-]{0,2}[0-9][0-9.,/]{0,20}%?)[,.]?(?:\s|$)){2,40}")
# "The area is 25π", "the vertex is at (3, -8)": what follows the last verb, if it holds no words.
_SAID_LAST = re.compile(r"\b(?:is|are|equals?)\s(?:at\s|equal to\s)?([^=]{1,80})$", re.IGNORECASE)
_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|log|sqrt|exp)\b)[A-Za-z]{3,}")
_CONCLUDES = re.compile(
    r"\b(?:answer|correct|right|so|therefore|thus|choose|it is|it's|is)\b", re.I
)


def narrow(found: Extraction, answer_type: AnswerType, options: Sequence[str] = ()) -> Extraction:
    """The same finding with the sentence around the answer removed."""
    if not found.answer:
        return found
    if found.rule.startswith("boxed"):
        return _box(found, answer_type, options)
    if answer_type is AnswerType.TEXT:
        return found
    if is_question(found.sentence):
        return NOT_ASSERTED
    if answer_type is AnswerType.CHOICE:
        return _choice(found, options)
    if answer_type is AnswerType.YES_NO:
        return _yes_no(found)
    if is_numbered(found.answer) and found.rule == "stated":
        return found
    lead, tail = found.sentence[: found.offset], found.sentence[found.offset :]
    lead, tail = _unmarked(lead), _unmarked(tail)
    reading = read(lead + tail, answer_type in _WITH_BOUNDS)
    asserted, denied = reading.asserted[len(lead) :], reading.denied[len(lead) :]
    if not denied.strip(" .") and _is_bare_number(found.answer):
        return found
    if answer_type is AnswerType.NUMBER:
        return _number(found, asserted, denied)
    return _formula(found, asserted, denied)


def _is_bare_number(answer: str) -> bool:
    """Not "step 3", and not "six of the birds"."""
    is_part = re.match("[A-Za-z]{2,}.*[0-9]", answer) or re.search(r"\bof\b", answer)
    return parse_number(answer) is not None and not is_part


def _box(found: Extraction, answer_type: AnswerType, options: Sequence[str]) -> Extraction:
    """A box is narrowed only where it holds a statement, or words that leave it open."""
    if answer_type is AnswerType.TEXT or found.rule == "boxed_list" or len(found.answer) > MAX_BOX:
        return found
    content = plain(found.answer)
    if is_numbered(content) or (answer_type in _RELATIONS and in_signs(content)):
        return found
    has_words = re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", content)
    if not has_words or "\\begin" in found.answer or named_value(content):
        return found
    stated = find_statement(content)
    if stated is not None and stated.answer:
        return replace(narrow(stated, answer_type, options), rule=found.rule)
    if answer_type in (AnswerType.CHOICE, AnswerType.YES_NO):
        return found
    reading = read(content, answer_type in _WITH_BOUNDS)
    if reading.denied.strip(" .") and re.search(r"[0-9A-Za-z]", reading.denied):
        return NOT_ASSERTED
    if answer_type is AnswerType.NUMBER and "\\" not in content and parse_number(content) is None:
        if not _PROSE.fullmatch(content):
            return found
        # A number with a clause behind it, such as "42 or any other": the clause may undo it.
        is_open = re.match(r"[-+$]{0,2}\s?[0-9]", content)
        said = "" if is_open else quantity(reading.asserted, begins=True)
        return replace(found, answer=said) if said else NOT_ASSERTED
    return found


def _unmarked(text: str) -> str:
    """Without the marks of bold and italic type; `2**3**2` is a formula."""
    text = re.sub(r"(?:\*\*|__)(?=\W{0,3}$)|^\s?(?:\*\*|__)(?=\S)", "", _without_pairs(text))
    return _ITALIC.sub(r"\1", text)


def _without_pairs(text: str) -> str:
    return _UNDERLINED.sub(r"\1", _BOLD.sub(r"\1", text))


def _number(found: Extraction, asserted: str, denied: str) -> Extraction:
    """The one number of the sentence; a stated answer may also begin with it and go on."""
    outside = MATH.sub(lambda m: " " * len(m.group()), asserted)
    is_prose = bool(_SENTENCE.search(outside)) or found.rule == "stated"
    if not (is_prose or MATH.search(asserted) or denied.strip(" .")):
        return found
    is_labelled = found.sentence[: found.offset].rstrip(" *_").endswith(":")
    said = quantity(asserted, begins=found.rule == "stated", is_sentence=is_labelled)
    if said and _HEDGED.search(denied):
        return NOT_ASSERTED
    if said:
        is_also_denied = re.search(rf"(?<![0-9.]){re.escape(said)}(?![0-9])", denied)
        return NOT_ASSERTED if is_also_denied else replace(found, answer=said)
    if found.rule == "stated" and not re.search("[0-9A-Za-z]", asserted) and found.after.strip():
        return narrow(last_line(found.after), AnswerType.NUMBER)
    is_formula = not _SENTENCE.search(found.answer) and not denied.strip(" .")
    return found if is_formula else NOT_ASSERTED


def _formula(found: Extraction, asserted: str, denied: str) -> Extraction:
    """The formula of the sentence; those joined by "and", "or" or a comma are one answer."""
    if found.rule != "stated" and in_signs(found.sentence):
        return replace(found, answer=in_signs(found.sentence))
    spans = [
        (m.start(), m.end(), clean(next(g for g in m.groups() if g)))
        for m in MATH.finditer(asserted)
    ]
    if not spans:
        if re.search("[0-9A-Za-z]", denied):
            return NOT_ASSERTED
        said = said_code(found.sentence) or _said_last(found, asserted)
        return replace(found, answer=said) if said else found
    joined = [spans[-1]]
    for span in reversed(spans[:-1]):
        between = asserted[span[1] : joined[0][0]].strip()
        if between not in (",", "and", "or", ", and", ", or"):
            break
        joined.insert(0, span)
    return replace(found, answer=", ".join(math for _, _, math in joined))


def _said_last(found: Extraction, asserted: str) -> str:
    """The formula that ends a last line such as "The area is 25π"; empty where words follow."""
    said = _SAID_LAST.search(asserted.rstrip(" .*_")) if found.rule == "last_line" else None
    return said[1] if said and not _WORD.search(said[1]) else ""


def _yes_no(found: Extraction) -> Extraction:
    """The truth value that a sentence says."""
    if found.rule == "stated" and found.offset:
        asserted = read(found.sentence).asserted
        if not asserted[found.offset :].strip(" .!*"):
            return NOT_ASSERTED
    for text in (found.answer, found.sentence):
        said = truth_of(text)
        if said is not None:
            bare = words(found.answer)
            return found if bare in YES | NO else replace(found, answer=_truth_word(found, said))
    return found


def _truth_word(found: Extraction, said: bool) -> str:
    """The word of the sentence for its truth value where it holds just that one."""
    held = set(re.findall(r"[a-z]+", words(found.answer))) & ((YES if said else NO) - {"y", "n"})
    return held.pop() if len(held) == 1 else ("yes" if said else "no")


def _choice(found: Extraction, options: Sequence[str]) -> Extraction:
    lines = [line for line in found.context[:MAX_CONTEXT].splitlines() if line.strip()]
    firsts = [chosen(line, options) for line in lines] if found.rule == "last_line" else []
    if all(firsts) and len(set(firsts)) > 1:
        return Extraction(note="a copy of the options")
    lead, tail = (
        _unmarked(found.sentence[: found.offset]),
        _unmarked(found.sentence[found.offset :]),
    )
    sentence = lead + tail
    if chosen(found.answer, options):
        is_denied = found.rule == "stated" and not read(sentence).asserted[len(lead) :].strip()
        return NOT_ASSERTED if is_denied else found
    letter = mentioned(tail, len(options)) if read(sentence).asserted[len(lead) :].strip() else None
    letter = letter or mentioned(sentence, len(options))
    if letter and contradicts(sentence, letter, options):
        return NOT_ASSERTED
    if firsts and firsts[0]:
        is_other = letter and letter != firsts[0] and _CONCLUDES.search(sentence)
        is_denied = mentioned(found.context[:MAX_CONTEXT], len(options)) not in (firsts[0], None)
        if is_other or is_denied:
            return NOT_ASSERTED
        return replace(found, answer=lines[0].strip(), rule="first_line")
    letter = letter or _by_truth(found, options) or named(sentence, options)
    if letter:
        return replace(found, answer=letter)
    return _choice_by_value(found, sentence, options)


def _by_truth(found: Extraction, options: Sequence[str]) -> str | None:
    """The option of a sentence that begins with yes or no, where these are the options."""
    if not options or not all(words(option) in YES | NO for option in options):
        return None
    said = truth_of(found.answer)
    meant = [option for option in options if said is not None and (words(option) in YES) is said]
    return chosen(meant[0], options) if len(meant) == 1 else None


def _choice_by_value(found: Extraction, sentence: str, options: Sequence[str]) -> Extraction:
    """The option whose value stands behind "is" or in the last formula."""
    asserted = read(sentence).asserted
    said = [clean(next(g for g in m.groups() if g)) for m in MATH.finditer(asserted)][-1:]
    said += [
        m.strip()
        for m in re.findall(r"\b(?:is|are|equals)\s+([^:;]{1,200})$", asserted.rstrip(" ."))
    ]
    for value in (*said, quantity(asserted, begins=found.rule == "stated")):
        if value and chosen(value, options):
            return replace(found, answer=value)
    return found if asserted.strip() == sentence.strip() else NOT_ASSERTED
