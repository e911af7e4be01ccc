"""Sentences are not their numbers: what is denied, doubted, asked or taken back is no answer.

`sentences.jsonl` holds sentences, boxes and options in pairs that differ in a word or two: one says
the gold answer, the other does not.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from virgo_ray.records import Status
from virgo_ray.verify.answers.extract import extract
from virgo_ray.verify.answers.infer import infer_type
from virgo_ray.verify.answers.sentence import read
from virgo_ray.verify.answers.truth import truth_of
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

FILE = Path(__file__).parent / "sentences.jsonl"


def test_sentences_are_judged_by_what_they_assert() -> None:
    rows = [json.loads(line) for line in FILE.read_text().splitlines()]
    assert len(rows) > 700
    wrongly = []
    for row in rows:
        item = Item(row["gold"], row["prediction"], options=tuple(row.get("options", ())))
        if judge_item(item).is_correct != row["expected"]:
            wrongly.append((row["prediction"], row["gold"]))
    assert wrongly == []


@pytest.mark.parametrize(
    "text",
    ["The answer is not 7.", "Could it be 7?", r"It isn't \boxed{7}.", "The answer is 7 or 8."],
)
def test_an_answer_that_is_not_asserted_is_no_answer(text: str) -> None:
    assert judge_item(Item("7", text)).status is Status.NO_ANSWER


def test_a_reading_is_as_long_as_its_text() -> None:
    text = "It is not 7 but 8, since 7 is odd. Is it 9?"
    reading = read(text)
    assert len(reading.asserted) == len(reading.denied) == len(text)
    assert "8" in reading.asserted and "7" not in reading.asserted and "9" in reading.denied


def test_the_side_right_is_no_yes() -> None:
    assert infer_type("right").value == "text"
    assert truth_of("That is right.") is True and truth_of("The triangle is right.") is None


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        ('{"steps": "3 + 4", "answer": "7"}', "7", "json"),
        ('{"answer": "7", "result": "8"}', '{"answer": "7", "result": "8"}', "last_line"),
        ("[" * 5000 + '"answer"' + "}" * 5000, "", ""),
        ("The answer is 7.\n\nHope this helps! Let me know if 8 is clear.", "7", "stated"),
        (r"Use \boxed{}. The answer is 7.", "7", "stated"),
        (r"\boxed{6} is wrong, \boxed{7} is right.", "7", "boxed"),
    ],
)
def test_where_the_answer_stands(text: str, answer: str, rule: str) -> None:
    found = extract(text)
    assert (found.answer, found.rule) == (answer, rule)
