"""From a response to a verdict: every status, every rule of extraction, the basic types."""

from __future__ import annotations

import pytest

from virgo_ray.config import Format, VerifyConfig
from virgo_ray.records import AnswerType, Problem, Rollout, Status
from virgo_ray.verify.answers.extract import extract, find_boxes
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge, judge_item

LONG = (
    "<|begin_of_thought|>\n\nI see 7. \\boxed{99}\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\nThe answer is \\boxed{12}.\n\n<|end_of_solution|>"
)

TWICE = "<|begin_of_solution|>\n\n"


def verdict(text: str, gold: str = "12", finish: str = "stop", options: tuple[str, ...] = ()):
    problem = Problem(id="p", question="?", answer=gold, options=options)
    return judge(problem, Rollout(problem, 0, text, (), finish, 0), VerifyConfig())


@pytest.mark.parametrize(
    ("text", "finish", "status"),
    [
        (LONG, "stop", Status.CORRECT),
        (r"\boxed{12}", "stop", Status.CORRECT),
        (LONG.replace("12", "13"), "stop", Status.WRONG),
        ("", "stop", Status.NO_ANSWER),
        (LONG.replace("The answer is \\boxed{12}.", ""), "stop", Status.NO_ANSWER),
        (LONG.replace("The answer is \\boxed{12}.", TWICE), "stop", Status.NO_ANSWER),
        (LONG.replace("The answer", TWICE + "The answer"), "stop", Status.CORRECT),
        (LONG, "length", Status.TRUNCATED),
        (LONG, "repetition", Status.REPETITIVE),
        (LONG[:60], "stop", Status.TRUNCATED),
        (LONG.replace("<|end_of_solution|>", ""), "stop", Status.TRUNCATED),
        ("<think>so \\boxed{12}", "stop", Status.TRUNCATED),
        ("<think>no</think>\\boxed{12}", "stop", Status.CORRECT),
        ("thinking</think><answer>12</answer>", "stop", Status.CORRECT),
        ("<think>no</think><answer>12", "stop", Status.TRUNCATED),
        (r"\boxed{9^{9^{9^{9}}}}", "stop", Status.ERROR),
    ],
)
def test_status(text: str, finish: str, status: Status) -> None:
    assert verdict(text, finish=finish).status is status


def test_a_missing_end_tag_is_forgiven_where_the_config_says_so() -> None:
    problem = Problem(id="p", question="?", answer="12")
    rollout = Rollout(problem, 0, "<think>so \\boxed{12}", (), "stop", 0)
    assert judge(problem, rollout, VerifyConfig(require_end_tag=False)).is_correct


@pytest.mark.parametrize(
    ("text", "status", "answer"),
    [
        ("<plan>The answer is 7.</plan> The answer is 12.", "correct", "12"),
        ("<plan>The answer is 12.", "truncated", ""),
        ("<plan>7</plan> [[12]] and more", "correct", "12"),
        ("<plan>7</plan> [[12", "truncated", ""),
        ("<solo>7</solo> 12", "correct", "12"),
        ("<solo>12", "truncated", ""),
        ("<think>12", "wrong", "<think>12"),
    ],
)
def test_the_tags_of_the_config_are_the_only_ones(text: str, status: str, answer: str) -> None:
    formats = (Format("<plan>", "</plan>", "[[", "]]"), Format("<solo>", "</solo>"))
    problem = Problem("p", "?", "12", answer_type=AnswerType.TEXT)
    rollout = Rollout(problem, 0, text, (), "stop", 0)
    verdict = judge(problem, rollout, VerifyConfig(formats=formats))
    assert (verdict.status.value, verdict.answer) == (status, answer)


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        (r"first \boxed{1}" + "." * 100 + r" then $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}", "boxed"),
        (r"\boxed{\text{a {nested} one}}", r"\text{a {nested} one}", "boxed"),
        (r"\boxed{1} and \boxed{2}", "1, 2", "boxed_list"),
        (r"\boxed{5}. Yes, \boxed{5}", "5", "boxed"),
        (r"$\boxed{28}$ percent", "28 percent", "boxed"),
        ("We add. The answer is 12.\nBye.", "12", "stated"),
        ("**Final Answer:** 3.5", "3.5", "stated"),
        ("5+7=12\nA: 12", "12", "stated"),
        ("5+7=12\n#### 12", "12", "stated"),
        ("First I look.\n\n12", "12", "last_line"),
        ("   \n ", "", ""),
    ],
)
def test_extraction_rule(text: str, answer: str, rule: str) -> None:
    found = extract(text)
    assert (found.answer, found.rule) == (answer, rule)


def test_text_after_the_box_that_says_otherwise_is_noted() -> None:
    found = extract(r"\boxed{12}. So the answer is 13.")
    assert found.answer == "12" and "13" in found.note


def test_an_answer_that_is_taken_back_is_replaced() -> None:
    assert extract(r"\boxed{12}. Wait, so the answer is 13.").answer == "13"


def test_finding_boxes_takes_one_pass() -> None:
    assert find_boxes(r"\boxed{" * 20_000)[0].start == 0
    assert len(find_boxes(r"\boxed{1}" * 20_000)) == 20_000


@pytest.mark.parametrize(
    ("gold", "answer", "options", "answer_type", "right"),
    [
        ("12", "12.0", (), AnswerType.NUMBER, True),
        ("12", "12 apples", (), AnswerType.NUMBER, True),
        ("12", "13", (), AnswerType.NUMBER, False),
        ("B", "(B)", ("10", "12"), AnswerType.CHOICE, True),
        ("B", "12", ("10", "12"), AnswerType.CHOICE, True),
        ("B", "A. 12", ("10", "12"), AnswerType.CHOICE, False),
        ("12", "B", ("10", "12"), AnswerType.CHOICE, True),
        ("yes", "Yes, it is.", (), AnswerType.YES_NO, True),
        ("no", "yes", (), AnswerType.YES_NO, False),
        ("red circle", "The red circle.", (), AnswerType.TEXT, True),
        ("red circle", "red", (), AnswerType.TEXT, False),
        (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac27", (), AnswerType.EXPRESSION, True),
    ],
)
def test_basic_types(
    gold: str, answer: str, options: tuple[str, ...], answer_type: AnswerType, right: bool
) -> None:
    said = verdict(rf"\boxed{{{answer}}}", gold=gold, options=options)
    assert (said.answer_type, said.is_correct) == (answer_type, right)


def test_a_verdict_carries_the_chance_of_a_blind_guess() -> None:
    assert verdict("A", "B", options=("1", "2", "3", "4")).guess_chance == 0.25
    assert verdict("yes", "no").guess_chance == 0.5
    assert verdict("1", "2").guess_chance == 0.0


@pytest.mark.parametrize(
    ("text", "gold", "options", "answer", "rule"),
    [
        ("So it weighs 12 kg in all.", "12", (), "12 kg", "last_line"),
        ("The answer is 12 because 5 + 7 = 12.", "12", (), "12", "stated"),
        ("The volume is $2\\pi$, so n is 2.", "2", (), "2", "last_line"),
        ("I think it's B", "B", ("3", "5"), "B", "last_line"),
        ("B. 5\n\nExplanation: A is wrong.", "B", ("3", "5"), "B. 5", "first_line"),
        ("A. 3\nB. 5", "B", ("3", "5"), "", ""),
        ("Both A and B", "B", ("3", "5"), "Both A and B", "last_line"),
        ("So the statement is true.", "yes", (), "true", "last_line"),
        ("The shape is red.", "red", (), "The shape is red", "last_line"),
    ],
)
def test_the_answer_is_found_inside_a_sentence(
    text: str, gold: str, options: tuple[str, ...], answer: str, rule: str
) -> None:
    said = verdict(text, gold=gold, options=options)
    assert (said.answer, said.rule) == (answer, rule)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("5", "I see 5 3. 9 -."), ("5", r"\boxed{9 -}"), (r"\{1,2\}", r"\boxed{i \le k, 3}")],
)
def test_scraps_of_an_answer_are_judged(gold: str, answer: str) -> None:
    assert judge_item(Item(gold, answer)).status in (Status.WRONG, Status.NO_ANSWER)
