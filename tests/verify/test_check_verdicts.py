"""The drawn verdict cases, and scripts/check_verdicts.py with judges that are right and wrong."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import check_verdicts
import verdict_kinds

from virgo_ray.config import VerifyConfig
from virgo_ray.records import Status
from virgo_ray.verify.process.killable import KillableJudge

ROWS = verdict_kinds.rows(seed=3, num=60)


class FakeJudge:
    """Knows the right verdicts; `others` gives another status at some places."""

    def __init__(self, rows, others=None):
        self.statuses = [Status.CORRECT if row["expected"] else Status.WRONG for row in rows]
        for place, status in (others or {}).items():
            self.statuses[place] = status

    def judge(self, items):
        for place in range(len(items)):
            yield place, SimpleNamespace(status=self.statuses[place], answer="", reason="")


def place_of(expected):
    return next(place for place, row in enumerate(ROWS) if row["expected"] is expected)


def test_the_same_seed_draws_the_same_rows_and_another_seed_others() -> None:
    assert verdict_kinds.rows(seed=3, num=60) == ROWS
    assert verdict_kinds.rows(seed=4, num=60) != ROWS


def test_every_kind_has_as_many_different_rows_as_asked_for_and_both_outcomes() -> None:
    num = Counter(row["kind"] for row in ROWS)
    assert set(num.values()) == {60}
    assert len(num) >= 20
    right = Counter(row["kind"] for row in ROWS if row["expected"])
    assert all(15 <= right[kind] <= 45 for kind in num)


def test_no_place_of_a_template_is_left_unfilled() -> None:
    texts = [row["prediction"] + row["gold"] for row in ROWS]
    assert [text for text in texts if set(text) & set("«»⇒⏎@")] == []
    assert all(len(set(row["choices"])) == 4 for row in ROWS if "choices" in row)


def test_too_few_different_rows_are_an_error() -> None:
    template = verdict_kinds.Template("one", True, True, "yes", "yes", "")
    with pytest.raises(ValueError, match="only 1 different rows, expected 2"):
        list(verdict_kinds.rows_of([template], 2, random.Random(0)))


def test_a_judge_that_is_right_passes() -> None:
    assert check_verdicts.check(ROWS, FakeJudge(ROWS)) == 0


def test_one_false_correct_is_counted_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    others = {place_of(False): Status.CORRECT}
    assert check_verdicts.check(ROWS, FakeJudge(ROWS, others)) == 1
    assert capsys.readouterr().out.splitlines()[0].startswith("false CORRECT")


def test_no_answer_to_one_right_answer_passes_and_to_a_tenth_of_a_kind_fails() -> None:
    right = [place for place, row in enumerate(ROWS[:60]) if row["expected"]]
    one, six = (dict.fromkeys(right[:num], Status.NO_ANSWER) for num in (1, 6))
    assert check_verdicts.check(ROWS, FakeJudge(ROWS, one)) == 0
    assert check_verdicts.check(ROWS, FakeJudge(ROWS, six)) == 1


def test_a_timeout_is_never_as_expected() -> None:
    for expected in (True, False):
        assert check_verdicts.fault(expected, Status.TIMEOUT) == "TIMEOUT"


def test_prose_called_correct_fails() -> None:
    rows = check_verdicts.prose_rows(5, seed=1)
    assert check_verdicts.check_prose(5, 1, FakeJudge(rows)) == 0
    assert check_verdicts.check_prose(5, 1, FakeJudge(rows, {2: Status.CORRECT})) == 1


def test_rows_of_every_kind_are_judged_as_a_person_would() -> None:
    rows = verdict_kinds.rows(seed=11, num=30)
    judge = KillableJudge(VerifyConfig())
    try:
        counts = check_verdicts.count_faults(rows, check_verdicts.judge_rows(rows, judge))
    finally:
        judge.close()
    assert check_verdicts.is_good(counts), counts
