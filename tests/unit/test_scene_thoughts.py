"""The textual scenes: every answer follows from the words, and what is asked is evenly spread."""

from __future__ import annotations

from collections import Counter

import pytest

from virgo_ray.config import SeedThoughtsConfig
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.errors import DataError
from virgo_ray.tiny.puzzles import COLORS, CORNERS
from virgo_ray.tiny.scene_thoughts import all_scenes, scene_thoughts_dataset
from virgo_ray.verify.answers.extract import extract


def test_answers_follow_from_the_words_shown() -> None:
    for scene in all_scenes():
        shown = set(scene.shape.split())
        if scene.kind in ("color", "shape"):
            words = COLORS if scene.kind == "color" else CORNERS
            assert shown & set(words) == {scene.answer}
            assert scene.step == f"{scene.kind}: {scene.answer}."
        else:
            asked = set(scene.question.rstrip("?").split()) & {*COLORS, *CORNERS}
            is_there = asked <= shown
            assert scene.answer == ("yes" if is_there == (scene.kind == "presence") else "no")
            assert scene.step.endswith(f" {scene.answer}.")


def test_kinds_come_in_turn_and_no_id_twice() -> None:
    rows = scene_thoughts_dataset(100, seed=0).to_list()
    assert len({row["id"] for row in rows}) == 100
    kinds = Counter(row["source"] for row in rows)
    assert kinds == {f"tiny/scene-{k}": 25 for k in ("color", "shape", "presence", "absence")}
    assert rows == scene_thoughts_dataset(150, seed=0).to_list()[:100]
    assert rows != scene_thoughts_dataset(100, seed=1).to_list()


def test_half_of_the_yes_or_no_questions_are_answered_by_yes() -> None:
    answers = Counter(s.answer for s in all_scenes() if s.kind in ("presence", "absence"))
    assert answers["yes"] == answers["no"]


def test_the_thought_reads_what_the_words_show() -> None:
    for row in scene_thoughts_dataset(60, seed=0):
        shown = row["context"].removeprefix("Picture: ")
        assert row["thought"].count(shown) == 2, row["thought"]  # and looks again


def test_the_answer_stands_in_the_solution() -> None:
    for row in scene_thoughts_dataset(60, seed=0):
        assert extract(row["thought"]).answer == row["answer"]


def test_more_than_there_are_or_another_subset_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most"):
        scene_thoughts_dataset(100_000, seed=0)
    with pytest.raises(DataError, match="expected at most"):
        read_seed_thoughts(SeedThoughtsConfig(reader="tiny", subset="scenes", num=100_000), 0)
    with pytest.raises(DataError, match="expected puzzles or scenes"):
        read_seed_thoughts(SeedThoughtsConfig(reader="tiny", subset="words", num=8), 0)
