"""No text makes extraction or the comparison raise; only a refusal is an error."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from virgo_ray.records import AnswerType, Status
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

# Pieces that mean something to some rule; put together at random they seldom mean anything at all.
PIECES = (
    "\\boxed{", "}", "{", "$", "\\(", "\\)", "12", "1,234", "3.5", "-", "\\frac", "{1}{2}", "(",
    ")", "[", "]", ",", ";", " and ", " or ", "A", "(B)", "yes", "The answer is ", "A: ", "####",
    "\n", "%", "cm", "x", "=", "<", "\\le", "\\in", "\\pm", "\\text{", "\\begin{pmatrix}", "&",
    "\\\\", "\\end{pmatrix}", "\\cup", "<think>", "</think>", "<|begin_of_thought|>",
    "<|end_of_thought|>", "<answer>", "</answer>", "\u00b2", "\u221a", "\x00", "_", "^", "2",
    "(a) ", "|", "10^",
)  # fmt: skip
GOLDS = (
    "12", "B", "yes", "red circle", "(1,2)", "\\{1,2\\}", "x+1", "y=2x", "[0,1)", "(a) 1 (b) 2",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=60)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=TEXTS, gold=st.sampled_from(GOLDS), answer_type=st.sampled_from(AnswerType))
def test_any_text_gets_a_verdict(text: str, gold: str, answer_type: AnswerType) -> None:
    options = ("12", "7") if answer_type is AnswerType.CHOICE else ()
    verdict = judge_item(Item(gold, text, answer_type=answer_type.value, options=options))
    if verdict.status is Status.ERROR:
        assert verdict.reason.startswith("refused")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=TEXTS)
def test_any_text_gets_a_verdict_against_itself(text: str) -> None:
    judge_item(Item(text, text))
