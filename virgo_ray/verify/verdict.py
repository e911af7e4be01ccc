"""(Problem, Rollout) -> Verdict: what came back, from which part of the text, and whether it is
right.

Guarantees: the same input gives the same status; TRUNCATED, REPETITIVE and NO_ANSWER are never
WRONG, and what could not be judged is ERROR with its reason. No deadline of its own: `killable.py`
holds the deadline.
"""

from __future__ import annotations

import time
from dataclasses import replace

from virgo_ray.config import VerifyConfig
from virgo_ray.records import AnswerType, Problem, Rollout, Status, Verdict
from virgo_ray.verify.answers.clean import words
from virgo_ray.verify.answers.equal import equal
from virgo_ray.verify.answers.extract import Extraction, extract, solution_part
from virgo_ray.verify.answers.gold import gold_answer
from virgo_ray.verify.answers.infer import infer_type
from virgo_ray.verify.answers.mathcheck import RefusedError
from virgo_ray.verify.answers.narrow import narrow
from virgo_ray.verify.answers.number import parse_number
from virgo_ray.verify.answers.prose import is_prose
from virgo_ray.verify.custom import resolve
from virgo_ray.verify.item import VERIFIER_VERSION, Item

# Longer answers equal no gold answer: they are prose, loops or attacks.
MAX_ANSWER_CHARS = 4000
DEFAULTS = VerifyConfig()
MATHEMATICAL = frozenset(
    {
        AnswerType.NUMBER,
        AnswerType.EXPRESSION,
        AnswerType.EQUATION,
        AnswerType.INTERVAL,
        AnswerType.SET,
        AnswerType.TUPLE,
        AnswerType.MATRIX,
    }
)


def judge(problem: Problem, rollout: Rollout, cfg: VerifyConfig) -> Verdict:
    """Judge one rollout in this process, without deadline and second opinions."""
    return judge_item(Item.of(problem, rollout), cfg)


def judge_item(item: Item, cfg: VerifyConfig = DEFAULTS) -> Verdict:
    """Judge one item.

    `cfg.custom` replaces the comparison with the gold answer, not the extraction.
    """
    started = time.perf_counter()
    item = replace(item, gold=gold_answer(item.gold))
    answer_type = AnswerType(item.answer_type)
    if answer_type is AnswerType.AUTO:
        answer_type = infer_type(item.gold, item.options)
    status, found, reason = _decide(item, answer_type, cfg)
    return Verdict(
        status=status,
        answer=found.answer[:MAX_ANSWER_CHARS],
        rule=found.rule,
        answer_type=answer_type,
        verifier_version=VERIFIER_VERSION,
        milliseconds=1000 * (time.perf_counter() - started),
        reason=reason,
        guess_chance=guess_chance(answer_type, item.options),
    )


def _decide(
    item: Item, answer_type: AnswerType, cfg: VerifyConfig
) -> tuple[Status, Extraction, str]:
    nothing = Extraction()
    if item.finish_reason == "length":
        return Status.TRUNCATED, nothing, "stopped at the token limit"
    if item.finish_reason == "repetition":
        return Status.REPETITIVE, nothing, "stopped because it repeated itself"
    part = solution_part(item.text, cfg.require_end_tag, cfg.formats)
    if part.is_truncated:
        return Status.TRUNCATED, nothing, part.reason
    said = extract(part.text)
    found = narrow(said, answer_type, item.options)
    if cfg.custom and not found.answer:
        found = said  # a verifier of the user's own reads sentences as it likes
    if not found.answer:
        return Status.NO_ANSWER, found, "no rule found an answer"
    if len(found.answer) > MAX_ANSWER_CHARS:
        return Status.WRONG, found, f"{len(found.answer)} characters, longer than any answer"
    custom = resolve(cfg.custom) if cfg.custom else None
    if custom is None and _is_sentence(item, found, answer_type):
        return Status.NO_ANSWER, found, f"a sentence, expected an answer of type {answer_type}"
    try:
        right = custom(item, found.answer) if custom else _is_right(item, found, answer_type)
    except RefusedError as refused:
        return Status.ERROR, found, f"refused: {refused}"
    return (Status.CORRECT if right else Status.WRONG), found, found.note


def _is_sentence(item: Item, found: Extraction, answer_type: AnswerType) -> bool:
    """Prose where mathematics is expected: no parser of formulas should meet it."""
    is_prose_here = answer_type in MATHEMATICAL and is_prose(found.answer)
    if not is_prose_here or words(found.answer) == words(item.gold):
        return False
    return parse_number(found.answer) is None  # "one hundred and five" is a number


def _is_right(item: Item, found: Extraction, answer_type: AnswerType) -> bool:
    if equal(item.gold, found.answer, answer_type, item.options):
        return True
    return _all_boxes_equal(item, found, answer_type)


def _all_boxes_equal(item: Item, found: Extraction, answer_type: AnswerType) -> bool:
    """Several boxes that all say the gold answer in other words: 1/2 in one, 0.5 in the next."""
    if found.rule != "boxed_list" or len(found.boxes) > 10:
        return False
    return all(equal(item.gold, box, answer_type, item.options) for box in found.boxes)


def guess_chance(answer_type: AnswerType, options: tuple[str, ...] = ()) -> float:
    """The chance that a blind guess is right: 1/n for a choice among n, 1/2 for yes/no, else 0."""
    if answer_type is AnswerType.CHOICE:
        return 1.0 / (sum(map(bool, options)) or 4)
    return 0.5 if answer_type is AnswerType.YES_NO else 0.0
