"""For random gold answers of each type: equivalent renderings are CORRECT, near misses are WRONG.

CI draws NUM_CASES judgements; `VIRGO_VERIFY_CASES=10000 pytest tests/verify/test_renderings.py` is
the full property test.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from renderings import KINDS, Case

from virgo_ray.records import AnswerType, Status
from virgo_ray.verify.answers.gold import gold_fault
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

NUM_CASES = int(os.environ.get("VIRGO_VERIFY_CASES", "3000"))


def status(case: Case, answer: str) -> Status:
    item = Item(case.gold, rf"So \boxed{{{answer}}}.", options=case.options)
    return judge_item(replace(item, answer_type=case.answer_type.value)).status


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_renderings_are_correct_and_near_misses_wrong(
    kind: Callable[[random.Random], Case],
) -> None:
    rng = random.Random(f"{kind.__name__}/{NUM_CASES}")
    num_judged = 0
    while num_judged < NUM_CASES / len(KINDS):
        case = kind(rng)
        assert gold_fault(case.gold, case.answer_type, case.options) == ""
        for answers, expected in ((case.same, Status.CORRECT), (case.other, Status.WRONG)):
            said = {answer: status(case, answer) for answer in answers}
            assert said == dict.fromkeys(answers, expected), case
            num_judged += len(answers)


def test_a_declared_type_wins_over_the_inferred_one() -> None:
    case = Case("yes", (), (), AnswerType.TEXT)
    assert status(case, "true") is Status.WRONG
    assert status(replace(case, answer_type=AnswerType.AUTO), "true") is Status.CORRECT
