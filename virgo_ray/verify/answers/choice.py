r"""Multiple choice: which option an answer means, by letter or by text.

Guarantees: an answer whose letter and text disagree names no option. Options are lettered A, B, C
... in the order given.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from virgo_ray.records import AnswerType, Problem
from virgo_ray.verify.answers.clean import clean, plain, strip_fonts, words
from virgo_ray.verify.answers.number import parse_number
from virgo_ray.verify.answers.sentence import read

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABEL = r"(?:\(\s?([A-Za-z])\s?\)|\[\s?([A-Za-z])\s?\]|([A-Za-z]))"
_ONLY_LETTER = re.compile(rf"(?:(?:option|choice|answer)\s)?\s?{_LABEL}\s?[.):,]?", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(
    r"(?:option\s|choice\s)?(?:\(\s?([A-Za-z])\s?\)|([A-Za-z])\s?[.):]|([A-Z])(?=\s(?:is|-)\s))\s?(.+)",
    re.IGNORECASE | re.DOTALL,
)
_LETTER_AND_CONTENT = re.compile(
    r"(?:(?:option|choice|answer)\s)?[(\[]?(?P<letter>[A-Za-z])[)\]]?"
    r"(?:\s?\((?P<inside>[^()]{1,200})\)|\s?[,\u2013\u2014=-]\s?(?P<content>.{1,300}))",
    re.IGNORECASE | re.DOTALL,
)
_NAME = re.compile(r"\s*(?:\\[a-z]{2,8}|[A-Za-z])(?:_\{?\w{1,5}\}?|\([a-z]\))?\s*")
_FRAC = re.compile(
    r"\\frac\{((?:[^{}]|\{[^{}]{0,40}\}){1,80})\}\{((?:[^{}]|\{[^{}]{0,40}\}){1,80})\}"
)
MAX_VALUE_CHARS = 200
_COMMON = frozenset(
    {"is", "it", "the", "to", "of", "in", "on", "no", "yes", "so", "as", "at", "an"}
)
_SAID_BEFORE = re.compile(
    r"(?:\b(?:is|are|was|were|be|being|called|named|choose|chose|pick|select|answer|but)|'s|[:=\u2192])\s"
    r"(?:(?:most likely|clearly|definitely|indeed|therefore|thus|simply|just|obviously|option"
    r"|choice"
    r"|the|a|an|to|called|\(?[a-z]\)|[a-z][.:])\s){0,4}[\"'(]?$"
)
_STARTS_SENTENCE = re.compile(
    r"\s*(?:(?:so|therefore|thus|hence|finally|in conclusion),?\s)?(?:(?:the|a|an)\s)?[\"']?"
)
_SAID_AFTER = re.compile(
    r"[\"']?\s(?:is|are|was|were|would|will|has|have|had|must)\s(?!(?:to the|next|beside|near"
    r"|behind)\b)"
)
# A letter that stands alone in a sentence; "A" and "I" are also words (a capital "A" inside
# a sentence is the article nowhere behind a conjunction or before a verb), "E*2" and "f(A)" are not
# answers.
_STANDALONE = re.compile(
    r"(?<![A-Za-z0-9'\\*+/^_(])(?:\(([A-Z])\)|([B-HJ-Z])|(A)(?=[.,;:)]|\s?$|\s(?:or|and|nor|vs)\b"
    r"|[\u3002\uff0c\u3001\uff1b\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af])|(?<![A-Za-z]\s)(A)(?=\s(?:is|are|was|were"
    r"|isn|aren|seems?|looks?|fits?|works?|can|cannot|could|would|must|may|might|both|here"
    r"|because|since|as|but|not)\b)"
    r"|(?:(?<=\bor )|(?<=\band )|(?<=\bnor )|(?<=\bnot )|(?<=\bis )|(?<=\bbe )|(?<=\bvs )"
    r"|(?<=, )|(?<=& )|(?<=ption )|(?<=ptions )"
    r"|(?<=hoice )|(?<=hoices )|(?<=nswer )|(?<=etter )|(?<=pick )|(?<=hoose )|(?<=elect )"
    r"|(?<=either )|(?<=both )|(?<=Both )"
    r"|(?<=[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]))(A))(?![A-Za-z0-9'(*+/^_=])"
)


# A letter behind these is part of a name.
_NAMED_BEFORE = re.compile(
    r"(?<![A-Za-z])(?:plan|vitamin|hepatitis|language|exhibit|appendix|series|model|team|gate|platform"
    r"|grade|class|section|player|room|building|terminal|programming|in|with|write[sn]?)\s$",
    re.IGNORECASE,
)


def letter_of(text: str) -> str | None:
    r"""The letter of a bare choice such as "B", "(b)", "B.", "\text{(C)}", "option D".

    >>> letter_of(r"\text{(C)}"), letter_of("C. x = 42"), letter_of("Cat")
    ('C', None, None)
    """
    match = _ONLY_LETTER.fullmatch(plain(text))
    return next(g for g in match.groups() if g).upper() if match else None


def same_option(text: str, option: str) -> bool:
    """Whether a text is the text of an option: equal words or the same number."""
    if words(text) and words(text) == words(option):
        return True
    number, of_option = parse_number(text), parse_number(option)
    if number is None or of_option is None:
        return _squeezed(text) == _squeezed(option) != ""
    return number.value == of_option.value and (
        number.is_percent == of_option.is_percent or not number.is_percent
    )


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", plain(text))


def chosen(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer means.

    None where it names none, an option that does not exist, or contradicts itself. An empty option
    is a letter that is not offered.

    >>> chosen("B. 12", ["10", "12"]), chosen("12", ["10", "12"]), chosen("A. 12", ["10", "12"])
    ('B', 'B', None)
    """
    letter = letter_of(text)
    if letter is not None and (not options or letter in offered(options)):
        return letter
    by_text = [LETTERS[i] for i, option in enumerate(options) if same_option(text, option)]
    if len(by_text) == 1:
        return by_text[0]
    if by_text:
        return None
    return _letter_with_text(plain(text), options) or _by_value(text, options)


def offered(options: Sequence[str]) -> list[str]:
    """The letters that stand before an option.

    >>> offered(["", "egg", "larva"])
    ['B', 'C']
    """
    return [letter for letter, option in zip(LETTERS, options, strict=False) if option]


def _letter_with_text(text: str, options: Sequence[str]) -> str | None:
    """The letter of "B. 12", "B is right", "B (12)", "option B, 12"."""
    match = _LETTER_AND_TEXT.fullmatch(text)
    if match:
        letter = next(g for g in match.groups()[:3] if g).upper()
        content = re.sub(r"^(?:(?:it )?is|-)\s", "", match[4].strip(), flags=re.IGNORECASE)
        return letter if _is_meant(text, letter) and _agrees(letter, content, options) else None
    match = _LETTER_AND_CONTENT.fullmatch(text)
    if match is None:
        return None
    letter = match["letter"].upper()
    content = match["content"] or match["inside"]
    if not options:
        is_content = match["inside"] and len(content) > 1 and not _standing(content)
        return letter if is_content and _is_meant(text, letter) else None
    is_option = LETTERS.index(letter) < len(options)
    return letter if is_option and same_option(content, _unlabelled(options, letter)) else None


def _unlabelled(options: Sequence[str], letter: str) -> str:
    return without_labels(options)[LETTERS.index(letter)]


def _is_meant(text: str, letter: str) -> bool:
    """Whether what follows a letter neither denies it nor names another one."""
    if not read(text).asserted.lstrip(" ([").upper().startswith(letter):
        return False
    return not re.match(rf"[(\[]?{letter}[)\].:,]{{0,2}}\s?(?:or|and|/|vs)\s", text, re.IGNORECASE)


def _by_value(text: str, options: Sequence[str]) -> str | None:
    r"""The option with the value of `x = 12` or of `3\sqrt{5} / 2`, where exactly one has it."""
    if not options or len(text) > MAX_VALUE_CHARS:
        return None
    value, bare = text, plain(text)
    if "=" in bare and not any("=" in option for option in options):
        name, _, value = bare.rpartition("=")
        if name.strip() in LETTERS[: len(options)] or "=" in name or not _NAME.fullmatch(name):
            return None
    form = _fraction_form(value)
    equals = [
        LETTERS[i]
        for i, option in enumerate(without_labels(options))
        if same_option(value, option) or (form and form == _fraction_form(option))
    ]
    return equals[0] if len(equals) == 1 else None


def _fraction_form(text: str) -> str:
    r"""`\frac{3\sqrt{5}}{2}` and `3\sqrt5 / 2` alike; empty without root and fraction."""
    text = re.sub(r"\s+", "", strip_fonts(clean(text)))
    text = re.sub(r"\\sqrt([0-9a-z])(?![0-9])", r"\\sqrt{\1}", text)
    for _ in range(3):
        text = _FRAC.sub(r"(\1)/(\2)", text)
    text = re.sub(r"\(([0-9a-z]{1,20}|(?:[0-9]{0,9}\\sqrt\{[0-9a-z]{1,20}\}))\)", r"\1", text)
    return text if "/" in text or "sqrt" in text else ""


def _agrees(letter: str, text: str, options: Sequence[str]) -> bool:
    """Whether the text after a letter does not name another option."""
    if not options:
        return True
    named = [LETTERS[i] for i, option in enumerate(options) if same_option(text, option)]
    return LETTERS.index(letter) < len(options) and (not named or letter in named)


def mentioned(text: str, num_options: int) -> str | None:
    """The one option letter that a sentence asserts; None where it asserts none or several.

    >>> mentioned("B is wrong, so it is C", 4), mentioned("Not B", 4), mentioned("B or C", 4)
    ('C', None, None)
    """
    reading = read(plain(text))
    allowed = set(LETTERS[: num_options or 8])
    found = _standing(reading.asserted) & allowed
    if len(found) != 1 or found & _standing(reading.denied):
        return None
    return found.pop()


def _standing(text: str) -> set[str]:
    found = (m for m in _STANDALONE.finditer(text) if not _NAMED_BEFORE.search(text[: m.start()]))
    return {next(g for g in m.groups() if g) for m in found}


def contradicts(text: str, letter: str, options: Sequence[str]) -> bool:
    """Whether a text puts the content of another option behind a letter: "so it is B (15)".

    >>> contradicts("so it is B (15)", "B", ["12", "18", "15"]), contradicts("A: 12", "A", ["12"])
    (True, False)
    """
    pattern = rf"(?<![A-Za-z]){letter}(?:\)\s?|\)?\s?[(:,.=-]\s?|\sis\s)([^()]{{1,200}})"
    for match in re.finditer(pattern, plain(text)):
        said = [i for i, option in enumerate(options) if same_option(match[1].strip(), option)]
        if said and LETTERS.index(letter) not in said:
            return True
    return False


def letters_of(text: str, is_compact: bool = False) -> frozenset[str]:
    """The letters of an answer of several options, such as "A, C", "A/C", "(A) and (C)".

    `is_compact` also reads "AC". Empty for anything else.

    >>> sorted(letters_of("(A) and (C)")), sorted(letters_of("A or C")), sorted(letters_of("AC"))
    (['A', 'C'], [], [])
    """
    bare = plain(text).strip(" .")
    if is_compact and re.fullmatch("[A-J]{2,10}", bare):
        found = list(bare)
    elif re.fullmatch(r"\(?[A-J]\)?(?:(?:\s?[,;/&+]\s?(?:and\s)?|\sand\s)\(?[A-J]\)?){1,9}", bare):
        found = re.findall("[A-J]", bare)
    else:
        return frozenset()
    return frozenset(found) if len(set(found)) == len(found) else frozenset()


def named(text: str, options: Sequence[str]) -> str | None:
    """The one option that a sentence names by its content, as its subject or after "is".

    >>> named("The last to leave would be the owl.", ["owl", "mouse"])
    'A'
    >>> named("It is next to the owl.", ["owl", "mouse"]) is None
    True
    """
    reading = read(plain(text))
    asserted, denied = (f" {part.casefold()} " for part in (reading.asserted, reading.denied))
    spans, denied_ones = [], set()
    for letter, option in zip(LETTERS, without_labels(options), strict=False):
        name = words(option)
        if len(name) < 2 or not re.search("[a-z]", name) or name in _COMMON or len(name) > 200:
            continue
        pattern = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
        if pattern.search(denied):
            denied_ones.add(letter)
        spans += [(m.start(), m.end(), letter) for m in pattern.finditer(asserted)]
    longest = [s for s in spans if not any(o[0] <= s[0] and s[1] <= o[1] and o != s for o in spans)]
    if len({letter for _, _, letter in longest}) != 1 or longest[-1][2] in denied_ones:
        return None
    at, end, letter = longest[-1]
    if _standing(reading.asserted) & set(LETTERS[: len(options)]) - {letter}:
        return None
    is_said = _SAID_BEFORE.search(asserted[:at]) or (
        _STARTS_SENTENCE.fullmatch(asserted[:at]) and _SAID_AFTER.match(asserted[end:])
    )
    return letter if is_said else None


def permuted(problem: Problem, seed: int) -> Problem:
    """The same choice problem with its options in another order and its gold letter moved along.

    Asking again under other orders tells a solver from a guesser that likes one letter. The id gets
    the suffix `~p<seed>`, so that both forms can live in one buffer; labels in the options go. What
    is no choice, or does not offer every letter, comes back as it is.

    >>> again = permuted(Problem("p", "?", "A", options=("3", "5", "8")), seed=1)
    >>> again.options["ABC".index(again.answer)]
    '3'
    """
    is_choice = problem.answer_type in (AnswerType.AUTO, AnswerType.CHOICE)
    right = chosen(problem.answer, problem.options) if is_choice else None
    if right is None or len(set(problem.options)) < 2 or not all(problem.options):
        return problem
    rng, options = random.Random(f"{problem.id}/{seed}"), without_labels(problem.options)
    order = list(range(len(options)))
    while order == sorted(order):
        rng.shuffle(order)
    return replace(
        problem,
        id=f"{problem.id}~p{seed}",
        options=tuple(options[i] for i in order),
        answer=LETTERS[order.index(LETTERS.index(right))],
    )


def chosen_option(text: str, options: Sequence[str]) -> str | None:
    """The text of the option that an answer means, whatever its letter: comparable between orders.

    >>> chosen_option("(B)", ["A. 3", "B. 5"]), chosen_option("A", ["5", "3"])
    ('5', '5')
    """
    letter = chosen(text, options) if options else None
    return without_labels(options)[LETTERS.index(letter)] if letter else None


def without_labels(options: Sequence[str]) -> list[str]:
    """Options without the labels "A.", "(B)" ... that they may carry, if all do.

    >>> without_labels(["A. red", "B. blue"]), without_labels(["A. red", "blue"])
    (['red', 'blue'], ['A. red', 'blue'])
    """
    labels = [re.compile(rf"\s*\(?{letter}\s*[).:]\s*(?=\S)") for letter in LETTERS]
    pairs = list(zip(labels, options, strict=False))
    if not all(label.match(option) for label, option in pairs):
        return list(options)
    return [label.sub("", option, count=1) for label, option in pairs]
