"""The bundled puzzles: disjoint, deterministic, rightly answered, and drawn the same every time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from virgo_ray.tiny.datasets import problems_dataset, seed_thoughts_dataset, words_dataset
from virgo_ray.tiny.draw import CELL, PAINT, draw
from virgo_ray.tiny.puzzles import (
    FAMILIES,
    MAX_EXTRA_CELLS,
    Puzzle,
    make_puzzles,
)
from virgo_ray.tiny.scenes import scenes_dataset
from virgo_ray.tiny.thoughts import fast_answer, long_thought, short_steps

SPLITS = ("train", "heldout", "seed")
LONG_FORMAT = re.compile(
    r"<\|begin_of_thought\|>\n\n(?P<thought>.+)\n\n<\|end_of_thought\|>\n\n"
    r"<\|begin_of_solution\|>\n\n(?P<solution>.*\\boxed\{(?P<answer>[^{}]+)\}.*)\n\n<\|end_of_solution\|>",
    re.DOTALL,
)
SUM = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)\.")


def content(puzzle: Puzzle) -> tuple[object, ...]:
    return puzzle.family, puzzle.cells, puzzle.question


def recompute(puzzle: Puzzle) -> int:
    """The answer from the cells and the question's words alone, by another way than the puzzles'
    own.
    """
    flat = [symbol for row in puzzle.cells for symbol in row]
    if puzzle.family == "chain":
        return int(eval("".join(flat)))
    if puzzle.family == "table":
        formula = puzzle.question.removeprefix("What is ").removesuffix("?")
        return int(eval(formula, dict(zip(flat[::2], map(int, flat[1::2]), strict=True))))
    if puzzle.family == "shapes":
        color = re.search(r"do the (\w+) shapes", puzzle.question)
        assert color
        return sum(
            3 * (s == f"{color[1]} triangle") + 4 * (s == f"{color[1]} rectangle") for s in flat
        )
    heights = np.array([int(s.split()[1]) for s in flat])
    return int(np.clip(np.diff(heights), 0, None).sum())


def test_splits_share_no_content_whatever_the_seeds() -> None:
    seen = {
        split: {content(p) for seed in (0, 1, 2) for p in make_puzzles(split, 400, seed)}
        for split in SPLITS
    }
    assert not seen["train"] & seen["heldout"]
    assert not seen["train"] & seen["seed"]
    assert not seen["heldout"] & seen["seed"]


def test_a_split_holds_no_puzzle_twice_and_its_families_in_equal_parts() -> None:
    puzzles = make_puzzles("train", 800, seed=3)
    assert len({content(p) for p in puzzles}) == len({p.id for p in puzzles}) == 800
    assert all(sum(p.family == f for p in puzzles) == 800 // len(FAMILIES) for f in FAMILIES)


def test_the_same_seed_gives_the_same_puzzles_and_a_larger_number_only_adds() -> None:
    assert make_puzzles("seed", 50, 7) == make_puzzles("seed", 80, 7)[:50]
    assert make_puzzles("seed", 50, 7) != make_puzzles("seed", 50, 8)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="test"):
        make_puzzles("test", 1, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_right(split: str) -> None:
    for puzzle in make_puzzles(split, 400, seed=1):  # type: ignore[arg-type]
        assert int(puzzle.answer) == recompute(puzzle), puzzle


def test_harder_puzzles_have_as_many_more_cells_and_share_no_content_between_splits() -> None:
    usual, harder = (make_puzzles("train", 80, 0, extra) for extra in (0, MAX_EXTRA_CELLS))
    sizes = {p.family: (len(p.words), len(q.words)) for p, q in zip(usual, harder, strict=True)}
    assert sizes == {"chain": (11, 17), "table": (10, 16), "shapes": (6, 9), "bars": (6, 9)}
    assert all(int(p.answer) == recompute(p) for p in harder)
    heldout = {content(p) for p in make_puzzles("heldout", 80, 0, MAX_EXTRA_CELLS)}
    assert not heldout & {content(p) for p in harder}


def test_no_single_answer_is_common_enough_to_guess() -> None:
    puzzles = make_puzzles("heldout", 1000, seed=0)
    best = 0
    for family in FAMILIES:
        answers = [p.answer for p in puzzles if p.family == family]
        best += max(answers.count(a) for a in set(answers))
    assert best / len(puzzles) < 0.15


def test_long_thoughts_have_the_format_and_end_in_the_answer() -> None:
    for puzzle in make_puzzles("seed", 400, seed=2):
        match = LONG_FORMAT.fullmatch(long_thought(puzzle))
        assert match and match["answer"] == puzzle.answer
        assert (
            match["thought"].count(" ".join(puzzle.words)) >= 2
        )  # what was read, and the look back


def test_every_wrong_sum_of_a_long_thought_is_corrected_at_once() -> None:
    num_wrong = 0
    for puzzle in make_puzzles("seed", 400, seed=2):
        thought = long_thought(puzzle)
        for found in SUM.finditer(thought):
            left, sign, right, total = found.groups()
            if int(eval(left + sign + right)) != int(total):
                num_wrong += 1
                assert thought[found.end() :].startswith(f" Wait, {left} {sign} {right} = ")
    assert 20 <= num_wrong <= 120


def test_short_steps_and_fast_answers_carry_the_answer_and_no_thought() -> None:
    for puzzle in make_puzzles("train", 40, seed=0):
        assert short_steps(puzzle).endswith(fast_answer(puzzle)) and "<|" not in short_steps(puzzle)
        assert fast_answer(puzzle) == f"\\boxed{{{puzzle.answer}}}"


def test_a_picture_is_a_grid_of_cells_and_the_same_each_time() -> None:
    for puzzle in make_puzzles("train", 40, seed=0):
        picture = draw(puzzle)
        assert picture.mode == "RGB"
        assert picture.size == (CELL * len(puzzle.cells[0]), CELL * len(puzzle.cells))
        assert np.array_equal(np.asarray(picture), np.asarray(draw(puzzle)))


def test_pictures_differ_between_puzzles_and_show_more_than_noise() -> None:
    pictures = [np.asarray(draw(p), dtype=float) for p in make_puzzles("train", 40, seed=0)]
    assert all(picture.std() > 15 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 40


def test_problems_name_one_picture_each_and_do_not_write_it_again(tmp_path: Path) -> None:
    rows = problems_dataset("heldout", 8, 0, tmp_path)
    assert rows.column_names == ["id", "question", "images", "answer", "source", "answer_type"]
    times = [Path(row["images"][0]).stat().st_mtime_ns for row in rows]
    again = problems_dataset("heldout", 8, 0, tmp_path)
    assert times == [Path(row["images"][0]).stat().st_mtime_ns for row in again]
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.parametrize("style", ["long", "short"])
def test_seed_thoughts_are_text_of_the_seed_split(style: str) -> None:
    rows = seed_thoughts_dataset(12, 0, style)  # type: ignore[arg-type]
    assert rows.column_names == ["id", "context", "question", "thought", "answer", "source"]
    assert [row["id"] for row in rows] == [p.id for p in make_puzzles("seed", 12, 0)]
    for row in rows:
        assert row["context"].startswith("Picture: ")
        assert bool(LONG_FORMAT.fullmatch(row["thought"])) == (style == "long")


def test_scenes_are_answered_by_what_is_drawn_and_the_same_every_time(tmp_path: Path) -> None:
    rows = list(scenes_dataset("heldout", 40, 0, tmp_path))
    assert rows == list(scenes_dataset("heldout", 40, 0, tmp_path))
    assert list(scenes_dataset("heldout", 10, 0, tmp_path)) == rows[:10]
    others = {row["id"] for row in scenes_dataset("train", 40, 0, tmp_path)}
    assert not others & {row["id"] for row in rows}
    kinds = {row["question"].split()[-1].rstrip("?.") for row in rows}
    assert {"color", "shape"} <= kinds and {"yes", "no"} <= {row["answer"] for row in rows}
    for row in rows:
        if row["question"] == "Name the color.":
            pixels = np.asarray(Image.open(row["images"][0]), dtype=float).reshape(-1, 3)
            distance = np.abs(pixels - np.array(PAINT[row["answer"]])).sum(axis=1)
            assert np.mean(distance < 90) > 0.01


def test_puzzles_in_words_are_those_in_pictures(tmp_path: Path) -> None:
    words = list(words_dataset("heldout", 8, 0))
    pictures = list(problems_dataset("heldout", 8, 0, tmp_path))
    for word, picture in zip(words, pictures, strict=True):
        assert (word["question"], word["answer"]) == (picture["question"], picture["answer"])
        assert word["context"].startswith("Picture: ") and "images" not in word
