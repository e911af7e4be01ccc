"""Sentences where mathematics is expected are told at once; formulas with words are none."""

from __future__ import annotations

import itertools

import pytest

from virgo_ray.records import Status
from virgo_ray.verify.answers import mathcheck
from virgo_ray.verify.answers.prose import is_prose
from virgo_ray.verify.answers.terms import have_same_terms
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

PROSE = (
    "I hope this helps, let me know if anything is unclear",
    "We have looked at both pictures and found nothing useful",
    "the question cannot be answered because the figure lacks a scale",
    "Please tell me more about your homework so that I may help",
    r"\text{Please tell me more about your homework so that I may help}",
    "Я надеюсь, что это решение поможет вам понять задачу",
    "希望这个解答对你有所帮助。如果还有问题请告诉我",
    "total_length_measured_along_upper_border_line",
)
MATHEMATICS = (
    "12",
    "all real numbers except x = 2",
    "x = 1 or x = 2 where n is any integer",
    r"x = 3 \text{ because the other root would make the length negative, which cannot be}",
    r"\frac{distance}{time}",
    "speed = distance / time",
    "distance times speed",
    "12 red balls",
    "mass * acceleration + weight * height / length = force",
    r"\sin \alpha \cos \beta + \cos \alpha \sin \beta",
    "a b c d e f g h",
    r"v_{max} + v_{min} + v_{mean} + k_{one} + k_{two} + k_{three}",
    "",
)


@pytest.mark.parametrize("text", PROSE)
def test_sentences_are_prose(text: str) -> None:
    assert is_prose(text)


@pytest.mark.parametrize("text", MATHEMATICS)
def test_mathematics_with_words_is_no_prose(text: str) -> None:
    assert not is_prose(text)


def test_prose_never_reaches_the_parser_of_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("prose was parsed")

    monkeypatch.setattr(mathcheck, "latex2sympy", refuse)
    golds = (r"\frac{3}{8}", "12", "y=2x+1", "[0, 1)", r"\{1, 2\}", "(1, 2)", "x+z")
    for gold, text in itertools.product(golds, PROSE[:5]):
        verdict = judge_item(Item(gold, rf"\boxed{{{text}}}"))
        assert verdict.status is Status.NO_ANSWER, (gold, text)
        reasons = (
            "a sentence, expected an answer of type ",
            "the sentence does not assert",
            "no rule",
        )
        assert verdict.reason.startswith(reasons)


def test_a_sentence_is_an_answer_where_a_text_is_expected_or_the_gold_answer_says_the_same() -> (
    None
):
    gold = "the smaller circle touches both longer sides"
    for said in (gold, gold.title()):
        assert judge_item(Item(gold, rf"\boxed{{{said}}}")).is_correct
    declared = Item(gold, rf"\boxed{{{gold}}}", answer_type="expression")
    assert judge_item(declared).is_correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x^2+2x+1", "1+2x + x^{2}".replace("{2}", "2")),
        ("-a+b", "b - a"),
        (r"\frac{a+b}{2}-c\sqrt{5}", r"-c\sqrt{5} +\frac{a+b}{2}"),
        ("2(x+1)-y", "-y+2(x+1)"),
    ],
)
def test_sums_in_another_order_need_no_algebra(
    gold: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mathcheck, "latex2sympy", None)
    assert mathcheck.math_equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("a-b", "b-a"),
        ("a+b=c", "b=c+a"),
        ("1e-5+3", "1e+3-5"),
        (r"\sum a + b", r"b+\sum a"),
        ("2^-3+1", "1-3+2^"),
        ("a+b", "a+b+b"),
        ("a+", "a+"),
        ("", ""),
        ("a)+(b", "b+a)("),
        ("1 2+3", "12+3"),
        ("A+b", "a+b"),
        (r"\pi r+1", r"1+\pir"),
        (r"a \pm b + c", r"c + a \pm b"),
        ("a, b+c", "c+a, b"),
    ],
)
def test_other_sums_are_left_to_algebra(gold: str, answer: str) -> None:
    assert not have_same_terms(gold, answer)


def test_the_status_of_prose_stays_wrong_for_a_custom_verifier() -> None:
    """It decides itself what an answer is."""
    from virgo_ray.config import VerifyConfig

    cfg = VerifyConfig(custom="tests.verify.hanging:grade")
    assert judge_item(Item("12", rf"\boxed{{{PROSE[0]}}}"), cfg).status is Status.WRONG
