"""The textual scenes: every answer follows from the words, and what is asked is evenly spread."""

from __future__ import annotations

from collections import Counter

import pytest

from virgo_ray.tiny.puzzles import COLORS, CORNERS
from virgo_ray.tiny.scene_thoughts import all_scenes, scene_thoughts_dataset
from virgo_ray.verify.extract import extract


def test_answers_follow_from_the_words_shown() -> None:
    for scene in all_scenes():
        words = scene.question.removesuffix("?").split()
        shown = set(scene.shape.split())
        if scene.kind in ("color", "shape"):
            assert scene.answer in shown & set(COLORS if scene.kind == "color" else CORNERS)
            continue
        asked = [word for word in words if word in (*COLORS, *CORNERS)]
        says_not = "not" in words or "no" in words
        assert len(asked) == 1 and says_not == (scene.kind == "absence")
        assert scene.answer == ("yes" if (asked[0] in shown) != says_not else "no"), scene


def test_kinds_and_answers_come_in_turn_and_nothing_twice() -> None:
    rows = scene_thoughts_dataset(240, seed=0).to_list()
    assert len({row["id"] for row in rows}) == 240
    kinds = Counter(
        (r["source"], r["answer"] if r["answer"] in ("yes", "no") else "") for r in rows
    )
    assert set(kinds.values()) == {40} and len(kinds) == 6
    assert rows == scene_thoughts_dataset(300, seed=0).to_list()[:240]
    assert rows != scene_thoughts_dataset(240, seed=1).to_list()


def test_the_answer_stands_in_the_solution() -> None:
    for row in scene_thoughts_dataset(60, seed=0):
        assert extract(row["thought"]).answer == row["answer"]


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most"):
        scene_thoughts_dataset(100_000, seed=0)
