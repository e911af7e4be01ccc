"""The killable judge: deadlines, deaths, memory, and that the others never notice."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.verify.hanging import HANGING
from virgo_ray.config import Format, VerifyConfig
from virgo_ray.records import Opinion, SecondOpinion, Status, Verdict
from virgo_ray.verify.item import Item
from virgo_ray.verify.process.killable import (
    MAX_SLOW,
    WALL_FACTOR,
    KillableJudge,
    _Judge,
    longest_batch_s,
)

ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[KillableJudge]:
    monkeypatch.setenv("PYTHONPATH", ROOT)
    judge = KillableJudge(VerifyConfig(deadline_s=1.0, custom="tests.verify.hanging:grade"))
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[KillableJudge]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ROOT)
        judge = KillableJudge(VerifyConfig(deadline_s=1.0, custom="tests.verify.hanging:grade"))
        yield judge
        judge.close()


@pytest.fixture
def judge(shared: KillableJudge) -> KillableJudge:
    """One that other tests have used: a fresh one takes a second or more to start."""
    assert shared.num_unfinished == 0
    shared.num_killed = shared.num_died = shared.num_asked_again = 0
    return shared


def items(*answers: str) -> list[Item]:
    return [Item(gold="12", text=rf"\boxed{{{answer}}}") for answer in answers]


def statuses(judge: KillableJudge, *answers: str) -> list[str]:
    verdicts = dict(judge.judge(items(*answers)))
    return [verdicts[i].status.value for i in range(len(answers))]


def test_only_the_item_that_hangs_or_dies_is_lost(judge: KillableJudge) -> None:
    answers = ("12", "hang", "12", "die", "sleep", "13", "eat", "raise", "12")
    expected = [
        "correct",
        "timeout",
        "correct",
        "error",
        "timeout",
        "wrong",
        "error",
        "error",
        "correct",
    ]
    assert statuses(judge, *answers) == expected
    assert (judge.num_killed, judge.num_died) == (2, 1)
    assert statuses(judge, "12", "13") == ["correct", "wrong"]


def test_a_slow_item_within_the_deadline_gets_its_verdict(judge: KillableJudge) -> None:
    assert statuses(judge, "slow", "12", "slow", "12") == ["correct"] * 4
    assert judge.num_killed == judge.num_died == 0


def test_items_that_work_a_little_share_one_process(fresh: KillableJudge) -> None:
    """What counts is the CPU time of the item, not of all that its process judged before."""
    fresh._aside_s = 60.0  # a machine that is busy makes an item wait, and that does not count here
    fresh.submit(dict(enumerate(items(*["work"] * 12))))
    processes = set()
    while fresh.num_unfinished:
        fresh.step()
        processes |= {j.pid for j in fresh._busy()}
    assert len(processes) == 1


def test_reasons_say_what_happened(judge: KillableJudge) -> None:
    reasons = {i: v.reason for i, v in judge.judge(items("die", "eat", "raise", "sleep"))}
    assert reasons[0] == "the judging process died (exit code 3)"
    assert reasons[1] == "out of memory"
    assert reasons[2] == "ValueError: cannot grade this"
    assert reasons[3] == "not judged within 1 s"


def test_more_hanging_items_than_there_are_places_for_slow_ones() -> None:
    hanging = [Item(gold, rf"\boxed{{{answer}}}") for gold, answer in HANGING * 5]
    mixed = [item for pair in zip(hanging, items(*["12"] * 10), strict=True) for item in pair]
    judge = KillableJudge(VerifyConfig(deadline_s=0.3))
    try:
        verdicts = dict(judge.judge(mixed))
    finally:
        judge.close()
    assert [verdicts[i].status.value for i in range(20)] == ["timeout", "correct"] * 10
    assert all("not judged within" in verdicts[i].reason for i in range(0, 20, 2))


def test_a_consumer_that_takes_its_time_makes_nobody_late(judge: KillableJudge) -> None:
    stream = judge.judge(items(*["12"] * 5))
    first = next(stream)
    time.sleep(1.5)  # longer than the deadline
    verdicts = dict([first, *stream])
    assert [verdicts[i].status for i in range(5)] == [Status.CORRECT] * 5
    assert judge.num_killed == 0


def test_a_consumer_that_leaves_early_leaves_no_work_behind(judge: KillableJudge) -> None:
    stream = judge.judge(items("12", "sleep", "12"))
    next(stream)
    stream.close()
    assert statuses(judge, "12", "13") == ["correct", "wrong"]


def test_the_death_of_the_process_that_makes_judges_is_survived(judge: KillableJudge) -> None:
    assert statuses(judge, "12") == ["correct"]
    assert judge._maker._process is not None
    os.kill(judge._maker._process.pid, signal.SIGKILL)
    judge._maker._process.wait()
    assert statuses(judge, "12", "13", "12") == ["correct", "wrong", "correct"]


def test_an_item_that_is_stopped_is_asked_again_after_the_wall_limit() -> None:
    judge = KillableJudge(VerifyConfig(deadline_s=0.2))
    try:
        assert statuses(judge, "13") == ["wrong"]
        assert judge._fast is not None
        os.kill(judge._fast.pid, signal.SIGSTOP)
        started = time.monotonic()
        assert statuses(judge, "12", "13") == ["correct", "wrong"]
        assert time.monotonic() - started >= WALL_FACTOR * 0.2
        assert (judge.num_killed, judge.num_asked_again) == (1, 1)
    finally:
        judge.close()


def test_an_item_that_is_stopped_twice_is_a_timeout_that_says_so() -> None:
    judge = KillableJudge(VerifyConfig(deadline_s=0.2))
    try:
        judge.submit(dict(enumerate(items("12"))))
        verdicts: dict[int, Verdict] = {}
        while not verdicts:
            for busy in judge._busy():
                os.kill(busy.pid, signal.SIGSTOP)
            if judge._fast is None and judge._rest:  # the next one is stopped before it is asked
                judge._fast = _Judge(*judge._maker.new_judge())
                os.kill(judge._fast.pid, signal.SIGSTOP)
            verdicts.update(judge.step())
    finally:
        judge.close()
    assert verdicts[0].status is Status.TIMEOUT
    said = r"not judged within 2 s, of which it computed 0\.[0-9] s, for the second time"
    assert re.fullmatch(said, verdicts[0].reason), verdicts[0].reason


@pytest.mark.parametrize(("name", "expected"), [("SIGKILL", "correct"), ("SIGSEGV", "error")])
def test_only_an_item_whose_process_was_killed_from_outside_is_asked_again(
    fresh: KillableJudge, name: str, expected: str
) -> None:
    fresh.submit(dict(enumerate(items("slow", "13"))))
    fresh.step()
    os.kill(fresh._busy()[0].pid, getattr(signal, name))
    verdicts: dict[int, Verdict] = {}
    while fresh.num_unfinished:
        verdicts.update(fresh.step())
    assert [verdicts[i].status.value for i in range(2)] == [expected, "wrong"]
    assert fresh.num_asked_again == (expected == "correct")
    if expected == "error":
        assert verdicts[0].reason == f"the judging process died (signal {name})"


def test_the_wall_clock_is_the_deadline_of_a_custom_verifier(judge: KillableJudge) -> None:
    """It may wait for an endpoint without computing."""
    started = time.monotonic()
    assert statuses(judge, "sleep") == ["timeout"]
    assert time.monotonic() - started < WALL_FACTOR * 1.0
    assert (judge.num_killed, judge.num_asked_again) == (1, 0)


def test_a_batch_may_take_as_long_as_its_items() -> None:
    assert longest_batch_s(VerifyConfig(deadline_s=5.0), 0) == 2 * WALL_FACTOR * 5.0
    custom = VerifyConfig(deadline_s=5.0, custom="tests.verify.hanging:grade")
    assert longest_batch_s(custom, 2 * MAX_SLOW) == 3 * 5.0 + 2 * MAX_SLOW


def test_second_opinions_come_with_the_verdict_and_never_cost_it() -> None:
    cfg = VerifyConfig(
        deadline_s=1.0, second_opinions=("steps", "consistency"), formats=(Format("<t>", "</t>"),)
    )
    endless = "".join(  # hidden zeros, half a minute of arithmetic
        f"1/(sqrt({a * a + 2} + {2 * a} * sqrt(2)) - {a} - sqrt(2)) = 3. " for a in range(1, 2000)
    )
    texts = [
        r"<t>7 + 5 = 13, the answer is 12.</t> \boxed{12}",
        r"<t>The answer is 13.</t> \boxed{12}",
        rf"<t>{endless} The answer is 13.</t> \boxed{{12}}",
        r"<t>7 + 5 = 12</t> \boxed{13}",
        r"<t>7 + 5 = 12",
    ]
    judge = KillableJudge(cfg)
    try:
        verdicts = dict(judge.judge([Item(gold="12", text=text) for text in texts]))
    finally:
        judge.close()
    statuses = [verdicts[i].status.value for i in range(5)]
    assert statuses == ["correct", "correct", "correct", "wrong", "truncated"]
    assert [verdicts[i].opinions for i in range(5)] == [
        {
            "steps": SecondOpinion(Opinion.DOUBTS, "7 + 5 = 13, but it is 12"),
            "consistency": SecondOpinion(Opinion.AGREES, "12"),
        },
        {
            "steps": SecondOpinion(Opinion.UNKNOWN, "no arithmetic was found"),
            "consistency": SecondOpinion(Opinion.DOUBTS, "the thought concludes '13'"),
        },
        dict.fromkeys(
            ("steps", "consistency"),
            SecondOpinion(Opinion.UNKNOWN, "not judged within 1 s of CPU time"),
        ),
        {},
        {},
    ]
    assert (judge.num_killed, judge.num_died) == (1, 0)


def test_close_ends_every_process(judge: KillableJudge) -> None:
    stream = judge.judge(items("12", "hang"))
    next(stream)
    assert judge._maker._process is not None
    maker = psutil.Process(judge._maker._process.pid)  # others' children are none of our business
    children = [maker, *maker.children(recursive=True)]
    assert len(children) >= 2
    judge.close()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_hostile_bytes_travel_unharmed(judge: KillableJudge) -> None:
    text = "\x00\ud800 \\boxed{\x00" + "9" * 100_000 + "}"
    assert [v.status for _, v in judge.judge([Item(gold="12", text=text)])] == [Status.WRONG]
