"""Gold answers: what they say, and whether they can be judged against at all.

`check_gold` is called when problems are loaded, before anything expensive starts; it judges the
gold answer against itself, so a gold answer that no response could ever match is found at once.
"""

from __future__ import annotations

from virgo_ray.errors import DataError
from virgo_ray.records import AnswerType, Problem
from virgo_ray.verify.answers.choice import LETTERS, chosen
from virgo_ray.verify.answers.clean import clean, words
from virgo_ray.verify.answers.equal import equal
from virgo_ray.verify.answers.extract import extract
from virgo_ray.verify.answers.infer import infer_type
from virgo_ray.verify.answers.mathcheck import RefusedError, is_constant, parses
from virgo_ray.verify.answers.number import parse_decimal_comma, parse_number
from virgo_ray.verify.answers.shape import parse_parts, parse_shape, without_assignment
from virgo_ray.verify.answers.tolerance import split_precision
from virgo_ray.verify.answers.truth import NO, YES

# A gold answer longer than this, or with a box in it, is a worked solution: its answer is
# extracted.
MAX_CHARS = 200

_NEEDS_SHAPE = {
    AnswerType.SET: ("set", "list"),
    AnswerType.TUPLE: ("tuple", "interval", "list"),
    AnswerType.INTERVAL: ("interval", "tuple", "union"),
    AnswerType.MATRIX: ("matrix",),
    AnswerType.LIST: ("list", "tuple", "set", "interval"),
}


def gold_answer(gold: str) -> str:
    r"""The answer in a gold text, which may be a whole solution.

    >>> gold_answer(r"We add, so it is $\boxed{12}$."), gold_answer("12 cm")
    ('12', '12 cm')
    """
    has_box = "\\boxed" in gold or "\\fbox" in gold
    if has_box or len(gold) > MAX_CHARS or "\n" in gold.strip():
        return extract(gold).answer or gold
    return gold


def check_gold(problem: Problem) -> None:
    """Refuse a problem whose gold answer cannot be judged against.

    Raises:
        DataError: empty, not of the declared type, or not readable by the verifier.
    """
    gold = gold_answer(problem.answer)
    answer_type = problem.answer_type
    if not clean(gold):
        raise _error(problem, "is empty", "an answer")
    if answer_type is AnswerType.AUTO:
        answer_type = infer_type(gold, problem.options)
    try:
        _check_type(problem, gold, answer_type)
        matches_itself = equal(gold, _one_form(gold, answer_type), answer_type, problem.options)
    except RefusedError as refused:
        raise _error(
            problem, f"cannot be judged ({refused})", "a shorter or simpler form"
        ) from None
    if not matches_itself:
        raise _error(problem, "does not equal itself", "an answer the verifier can read")


def _one_form(gold: str, answer_type: AnswerType) -> str:
    """What a response would say: without aliases and declared precision."""
    if answer_type is AnswerType.TEXT:
        return gold.split("|")[0]
    if answer_type is AnswerType.NUMBER:
        return split_precision(gold, is_declared_number=True)[0]
    return gold


def _check_type(problem: Problem, gold: str, answer_type: AnswerType) -> None:
    if problem.options and len(problem.options) > len(LETTERS):
        raise _error(problem, f"has {len(problem.options)} options", f"at most {len(LETTERS)}")
    if (
        problem.options
        and answer_type is AnswerType.CHOICE
        and chosen(gold, problem.options) is None
    ):
        letters = f"A to {LETTERS[len(problem.options) - 1]}"
        raise _error(problem, "names none of its options", f"{letters} or the text of one option")
    value, _ = split_precision(gold, is_declared_number=True)
    if answer_type is AnswerType.NUMBER and not _is_number(value):
        raise _error(problem, "is not a number", "for example 12.5, 3/4 or 1.2 \\times 10^3")
    if answer_type is AnswerType.YES_NO and words(gold) not in YES | NO:
        raise _error(problem, "is neither yes nor no", "yes, no, true or false")
    if answer_type is AnswerType.PARTS and not (parse_parts(gold) or parse_shape(gold)):
        raise _error(problem, "has no parts", 'for example "(a) 3 (b) 4"')
    kinds = _NEEDS_SHAPE.get(answer_type)
    shape = parse_shape(gold) or parse_shape(without_assignment(clean(gold)))
    if kinds and (shape is None or shape.kind not in kinds):
        raise _error(problem, f"is not a {answer_type.value}", f"the form of a {answer_type.value}")
    is_formula = answer_type in (AnswerType.EXPRESSION, AnswerType.EQUATION)
    if is_formula and not parses(clean(gold)):
        raise _error(problem, "is not readable as LaTeX", "LaTeX mathematics, or answer_type: text")


def _is_number(text: str) -> bool:
    return bool(parse_number(text) or parse_decimal_comma(text)) or _is_constant(text)


def _is_constant(text: str) -> bool:
    """A declared number may be an exact expression such as 3\\sqrt{2}."""
    try:
        return is_constant(clean(text))
    except RefusedError:
        return False


def _error(problem: Problem, is_wrong: str, expected: str) -> DataError:
    answer = problem.answer[:100]
    return DataError(
        f"problem {problem.id!r}: its answer {answer!r} {is_wrong}; expected {expected}"
    )
