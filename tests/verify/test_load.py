"""Verdicts depend on the answers alone: not on what else the machine does, nor on hostile texts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.verify.hanging import HANGING
from virgo_ray.config import VerifyConfig
from virgo_ray.records import AnswerType, Problem, Status
from virgo_ray.verify.answers.gold import gold_fault, is_plain
from virgo_ray.verify.item import Item
from virgo_ray.verify.process.golds import GoldChecker
from virgo_ray.verify.process.killable import WALL_FACTOR, KillableJudge

DATA = Path(__file__).resolve().parents[1] / "data" / "verifier"
NUM_BUSY = 3


@pytest.fixture
def busy() -> Iterator[None]:
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(NUM_BUSY)]
    yield
    for process in processes:
        process.kill()
        process.wait(timeout=60)


def ordinary(num: int) -> list[Item]:
    rows = map(json.loads, (DATA / "skythought_answer_pairs.jsonl").read_text().splitlines())
    boxed = [Item(r["gold"], rf"\boxed{{{r['prediction']}}}") for r in rows if not r.get("options")]
    return boxed[:num]


def test_ordinary_answers_beside_busy_processes_have_their_verdicts(busy: None) -> None:
    """On the wall clock, some would be late: the deadline is a few times what they compute."""
    some = ordinary(150)
    judge = KillableJudge(VerifyConfig(deadline_s=0.5))
    try:
        verdicts = dict(judge.judge(some))
    finally:
        judge.close()
    assert [v.reason for v in verdicts.values() if v.status is Status.TIMEOUT] == []
    assert len(verdicts) == len(some)


LONG = {
    "snake": "final_number_of_metal_objects_left_after_subtracting_all_rubber_things_of_the_scene",
    "commands": "\\frac" * 60,
    "digits": "9" * 4000,
    "braces": "{" * 500 + "x" + "}" * 500,
    "open_braces": "{" * 3000,
    "assigned": "x_{a}_{b}" * 30,
    "letters": "aB" * 1900,
    "sentence": "so we take the other one " * 150,
    "hanging": HANGING[0][1],
}


def test_no_answer_and_no_gold_blocks_longer_than_the_deadline() -> None:
    cfg = VerifyConfig(deadline_s=0.3)
    wrong = [pair for text in LONG.values() for pair in (("a+b", text), (text, "7"))]
    pairs = [*wrong, *((text, text) for text in LONG.values())]
    judge = KillableJudge(cfg)
    try:
        verdicts = dict(judge.judge([Item(g, rf"\boxed{{{a}}}") for g, a in pairs]))
    finally:
        judge.close()
    assert len(verdicts) == len(pairs)
    assert not any(verdicts[i].is_correct for i in range(len(wrong)))
    longest_s = WALL_FACTOR * cfg.deadline_s + 1
    assert [v.reason for v in verdicts.values() if v.milliseconds > 1000 * longest_s] == []


def test_gold_answers_that_hang_are_faults_and_the_others_are_checked() -> None:
    texts = ("12", r"\frac{1}{2}", *LONG.values(), "many", "9^{9^{9^9}}", "", r"\{1, 2\}")
    types = [AnswerType.NUMBER if text == "many" else AnswerType.AUTO for text in texts]
    problems = [
        Problem(f"p{i}", "?", text, answer_type=type)
        for i, (text, type) in enumerate(zip(texts, types, strict=True))
    ]
    with GoldChecker(VerifyConfig(deadline_s=0.3)) as golds:
        faults = dict(zip(texts, golds.find_faults(problems), strict=True))
    assert not any(faults[text] for text in ("12", r"\frac{1}{2}", r"\{1, 2\}"))
    assert "is not a number" in faults["many"] and "is empty" in faults[""]
    assert "cannot be judged (a " in faults["9^{9^{9^9}}"]
    assert "cannot be judged (" in faults[LONG["commands"]]


def test_a_gold_answer_that_is_not_judged_in_time_is_named_with_the_reason() -> None:
    """Its formula is right; reading it takes longer than the deadline."""
    long = "+".join(rf"\frac{{a_{i}}}{{b_{i}x+{i}}}" for i in range(60))
    problem = Problem("p", "?", long, answer_type=AnswerType.EXPRESSION)
    assert gold_fault(long, AnswerType.EXPRESSION) == ""
    with GoldChecker(VerifyConfig(deadline_s=0.01)) as golds:
        (fault,) = golds.find_faults([problem])
    assert "cannot be judged (not judged within 0.01 s of CPU time); expected a shorter" in fault


def test_plain_gold_answers_start_no_process() -> None:
    texts = ("12", "-3.5 kg", "(B)", "red circle", "yes", "3/4", "9.8 (tolerance 0.1)", "NYC | LA")
    assert all(map(is_plain, texts))
    with GoldChecker() as golds:
        assert golds.find_faults([Problem("p", "?", text) for text in texts]) == [""] * len(texts)
        assert golds._judge._maker._process is None


@pytest.mark.parametrize("text", ["x_1", "2^3", r"\pi", "{1}", "4!", "1\n2", "x=2", "9" * 61, "٣"])
def test_what_may_need_mathematics_is_not_plain(text: str) -> None:
    assert not is_plain(text)
    assert not is_plain("A", (text, "2"))
