"""The textual scenes: every answer follows from the words, and what is asked is evenly spread."""

from __future__ import annotations

from collections import Counter

import pytest

from virgo_ray.tiny.puzzles import COLORS, CORNERS
from virgo_ray.tiny.scene_thoughts import all_scenes, scene_thoughts_dataset
from virgo_ray.verify.extract import extract


def test_answers_follow_from_the_words_shown() -> None:
    for scene in all_scenes():
        words = COLORS if scene.kind == "color" else CORNERS
        assert set(scene.shape.split()) & set(words) == {scene.answer}
        assert scene.kind in scene.step and scene.answer in scene.step


def test_kinds_come_in_turn_and_nothing_twice() -> None:
    rows = scene_thoughts_dataset(100, seed=0).to_list()
    assert len({row["id"] for row in rows}) == 100
    kinds = Counter(row["source"] for row in rows)
    assert kinds == {"tiny/scene-color": 50, "tiny/scene-shape": 50}
    assert rows == scene_thoughts_dataset(150, seed=0).to_list()[:100]
    assert rows != scene_thoughts_dataset(100, seed=1).to_list()


def test_the_answer_stands_in_the_solution() -> None:
    for row in scene_thoughts_dataset(60, seed=0):
        assert extract(row["thought"]).answer == row["answer"]


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most"):
        scene_thoughts_dataset(100_000, seed=0)
