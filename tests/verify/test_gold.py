"""Gold answers are checked when problems are loaded; guesses are priced; options are permuted."""

from __future__ import annotations

import pytest

from virgo_ray.records import AnswerType, Problem
from virgo_ray.verify.answers.choice import chosen, chosen_option, permuted
from virgo_ray.verify.answers.gold import gold_answer, gold_fault
from virgo_ray.verify.answers.infer import infer_type
from virgo_ray.verify.verdict import guess_chance


@pytest.mark.parametrize(
    ("gold", "answer_type"),
    [
        ("12", AnswerType.NUMBER),
        ("-3,000.5 kg", AnswerType.NUMBER),
        ("1.2 \\times 10^{-3}", AnswerType.NUMBER),
        ("12:30", AnswerType.EXPRESSION),
        ("\\frac{x+1}{2}", AnswerType.EXPRESSION),
        ("y = 2x + 1", AnswerType.EQUATION),
        ("x \\geq 3", AnswerType.EQUATION),
        ("[0, 1)", AnswerType.INTERVAL),
        ("x \\in (-\\infty, 2] \\cup (3, 4)", AnswerType.INTERVAL),
        ("\\{1, 2\\}", AnswerType.SET),
        ("1, 2", AnswerType.SET),
        ("(1, 2, 3)", AnswerType.TUPLE),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", AnswerType.MATRIX),
        ("(C)", AnswerType.CHOICE),
        ("no", AnswerType.YES_NO),
        ("left side", AnswerType.TEXT),
        ("(a) 3 (b) yes", AnswerType.PARTS),
        ("three", AnswerType.NUMBER),
    ],
)
def test_type_is_inferred_and_the_gold_answer_accepted(gold: str, answer_type: AnswerType) -> None:
    assert infer_type(gold) is answer_type
    assert gold_fault(gold, AnswerType.AUTO) == ""


@pytest.mark.parametrize(
    ("gold", "answer_type", "options", "message"),
    [
        ("", AnswerType.AUTO, (), "is empty"),
        ("  $ $ ", AnswerType.AUTO, (), "is empty"),
        ("many", AnswerType.NUMBER, (), "is not a number"),
        ("maybe", AnswerType.YES_NO, (), "is neither yes nor no"),
        ("E", AnswerType.CHOICE, ("1", "2"), "names none of its options"),
        ("A. 2", AnswerType.CHOICE, ("1", "2"), "names none of its options"),
        ("12", AnswerType.SET, (), "is not a set"),
        ("(1,2)", AnswerType.MATRIX, (), "is not a matrix"),
        ("7", AnswerType.PARTS, (), "has no parts"),
        ("9^{9^{9^9}}", AnswerType.AUTO, (), "cannot be judged"),
        ("x" * 5000, AnswerType.EXPRESSION, (), "cannot be judged"),
    ],
)
def test_what_is_wrong_with_a_gold_answer_is_said(
    gold: str, answer_type: AnswerType, options: tuple[str, ...], message: str
) -> None:
    assert message in gold_fault(gold, answer_type, options)


def test_the_answer_of_a_worked_solution_is_extracted() -> None:
    assert gold_answer("We add 5 and 7.\n#### 12") == "12"
    assert gold_answer(r"so $\boxed{\frac12}$") == r"\frac12"
    assert gold_answer("NYC | New York City") == "NYC | New York City"


def test_the_chance_of_a_blind_guess() -> None:
    assert guess_chance(AnswerType.CHOICE, ("a", "b", "c", "d", "e")) == 0.2
    assert guess_chance(AnswerType.YES_NO) == 0.5
    assert guess_chance(AnswerType.NUMBER) == 0.0


def test_permuted_options_keep_their_right_answer() -> None:
    problem = Problem("p", "?", "C", options=("3", "5", "7", "9"))
    orders = set()
    for seed in range(20):
        again = permuted(problem, seed)
        assert again.options["ABCD".index(again.answer)] == "7"
        assert chosen("7", again.options) == again.answer
        orders.add(again.options)
    assert len(orders) > 5 and permuted(problem, 3) == permuted(problem, 3)
    assert problem.options not in orders


def test_permuted_options_lose_their_labels_and_what_is_no_choice_stays() -> None:
    labelled = Problem("p", "?", "(B)", options=("A. red", "B. blue"))
    assert permuted(labelled, 0).options == ("blue", "red") and permuted(labelled, 0).answer == "A"
    for other in (
        Problem("p", "?", "12"),
        Problem("p", "?", "A", options=("5",)),
        Problem("p", "?", "5", options=("5", "6"), answer_type=AnswerType.NUMBER),
    ):
        assert permuted(other, 0) is other


@pytest.mark.parametrize(
    ("answer", "option"),
    [("B", "5"), (r"\text{(B)}", "5"), ("5", "5"), ("B. 5", "5"), ("A. 5", None), ("D", None)],
)
def test_an_answer_is_the_text_of_an_option(answer: str, option: str | None) -> None:
    assert chosen_option(answer, ("3", "5", "8")) == option
    assert chosen_option(answer, ()) is None
