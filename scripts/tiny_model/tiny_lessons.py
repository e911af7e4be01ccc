"""What the tiny base model is taught: to be capable, but fast-thinking.

It learns to name what a picture shows, to take short steps on short puzzles, and to answer longer
puzzles at once, each in text and in pictures with the same layout. It never sees a long thought, a
held-out puzzle, or a picture that this package did not draw. Which mixtures let text-only thoughts
carry over to pictures, and which do not, was tried: a base that only reads and answers at once does
not transfer, one that also takes short steps does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from virgo_ray.tiny.draw import (
    CELL,
    draw_cells,
    draw_shape,
)
from virgo_ray.tiny.puzzles import (
    COLORS,
    CORNERS,
    FAMILIES,
    FULL_SIZE,
    LETTERS,
    MAX_BAR,
    MAX_TOTAL,
    Grid,
    Puzzle,
    apply_sign,
    sample_puzzle,
)
from virgo_ray.tiny.scenes import draw_scene, scene_question
from virgo_ray.tiny.thoughts import (
    AGREED,
    LOOK_BACKS,
    OPENERS,
    THOUGHT_TAGS,
    fast_answer,
    short_steps,
)

CAPTION_QUESTIONS = ("What is in the picture?", "What do you see?", "Describe the picture.")
BLANK = "blank"
READABLE = (*"0123456789", "+", "-", *LETTERS, *COLORS, *CORNERS, BLANK)


@dataclass(frozen=True)
class Lesson:
    """One training item: a picture (pixels and the words of each cell) or its text form, a
    question, a response.
    """

    pixels: np.ndarray | None  # (rows * 16, columns * 16, 3) uint8
    cell_words: tuple[tuple[str, ...], ...]  # of the picture's cells, for the reading loss
    context: str  # the picture in words; "" if there are pixels
    question: str
    response: str


# --- lessons ------------------------------------------------------------------------------------


def words_of(symbol: str) -> tuple[str, ...]:
    return tuple(symbol.removeprefix("bar ").split()) or (BLANK,)


def lesson(
    cells: Grid, text: str, question: str, response: str, rng: random.Random, visual: bool
) -> Lesson:
    if not visual:
        return Lesson(None, (), text, question, response)
    pixels = np.asarray(draw_cells(cells, rng))
    return Lesson(pixels, tuple(words_of(s) for row in cells for s in row), "", question, response)


def teachable(family: str, rng: random.Random, level: str, size: int | None = None) -> Puzzle:
    """A puzzle that is in no held-out set."""
    while True:
        puzzle = sample_puzzle(family, rng, level, size)  # type: ignore[arg-type]
        if puzzle.split != "heldout":
            return puzzle


def caption(rng: random.Random, visual: bool) -> Lesson:
    """Reading, at once or after a few words, sometimes twice.

    Reading that always starts at the same distance from the picture would be learnt by distance,
    and would break when a question is longer or a thought starts with other words.
    """
    puzzle = teachable(rng.choice(FAMILIES), rng, rng.choice(("short", "full", "full")))
    said = describe(" ".join(puzzle.words), rng)
    question = rng.choice(CAPTION_QUESTIONS)
    if rng.random() < 0.5:
        question = f"{puzzle.question} {question}"
    return lesson(puzzle.cells, puzzle.text, question, said, rng, visual)


def describe(words: str, rng: random.Random) -> str:
    opening = rng.sample(OPENERS, rng.choice((0, 0, 1, 1, 2, 3)))
    twice = f" {rng.choice(LOOK_BACKS)} {words}. {rng.choice(AGREED)}" if rng.random() < 0.3 else ""
    return " ".join([*opening, f"I see {words}.{twice}"])


def steps(rng: random.Random, visual: bool) -> Lesson:
    family = rng.choices(FAMILIES, STEPS_WEIGHTS)[0]
    puzzle = teachable(family, rng, "short")
    return lesson(puzzle.cells, puzzle.text, puzzle.question, short_steps(puzzle, rng), rng, visual)


def longer_steps(rng: random.Random, visual: bool) -> Lesson:
    """On puzzles of up to one cell less than the full ones: one more step is easily carried over,
    two more were in some bases and not in others.
    """
    family = rng.choices(FAMILIES, STEPS_WEIGHTS)[0]
    puzzle = teachable(family, rng, "short", rng.randint(2, FULL_SIZE[family][0] - 1))
    return lesson(puzzle.cells, puzzle.text, puzzle.question, short_steps(puzzle, rng), rng, visual)


def at_once(rng: random.Random, visual: bool) -> Lesson:
    puzzle = teachable(rng.choice(FAMILIES), rng, "full")
    return lesson(puzzle.cells, puzzle.text, puzzle.question, fast_answer(puzzle), rng, visual)


def scene(rng: random.Random, visual: bool) -> Lesson:
    """One larger shape anywhere on 4 x 4 cells."""
    color, shape = rng.choice(COLORS), rng.choice(tuple(CORNERS))
    question, answer = scene_question(color, shape, rng)
    response = (
        f"I see {color} {shape}. \\boxed{{{answer}}}"
        if rng.random() < 0.5
        else f"\\boxed{{{answer}}}"
    )
    if rng.random() < 0.3:
        question, response = rng.choice(CAPTION_QUESTIONS), f"I see {color} {shape}."
    if not visual:
        return Lesson(None, (), f"Picture: {color} {shape}.", question, response)
    pixels, cell_words = scene_picture(color, shape, rng)
    return Lesson(pixels, cell_words, "", question, response)


def scene_picture(
    color: str, shape: str, rng: random.Random
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
    """(pixels of 4 x 4 cells, words of each cell): a cell says what covers a good part of it."""
    image, box = draw_scene(color, shape, rng)
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rectangle(box, fill=1) if shape == "rectangle" else _mask(mask, shape, box)
    cover = np.asarray(mask).reshape(4, CELL, 4, CELL).sum(axis=(1, 3)).reshape(-1)
    cell_words = tuple((color, shape) if c > 0.12 * CELL * CELL else (BLANK,) for c in cover)
    return np.asarray(image), cell_words


def _mask(mask: Image.Image, shape: str, box: tuple[float, float, float, float]) -> None:
    pen = ImageDraw.Draw(mask)
    draw_shape(pen, shape, box, 1)  # type: ignore[arg-type]


def jumble(rng: random.Random, visual: bool) -> Lesson:
    """Any symbols in any grid of up to 12 cells, to be read out."""
    rows, columns = rng.choice(
        [(r, c) for r in range(1, 7) for c in range(1, 12) if 2 <= r * c <= 12]
    )
    one_kind = rng.random() < 0.5
    kinds = [rng.randrange(4)] if one_kind else [0, 1, 2, 3]
    cells = tuple(
        tuple(_symbol(rng, rng.choice(kinds)) for _ in range(columns)) for _ in range(rows)
    )
    text = " ".join(" ".join(words_of(s)) for row in cells for s in row)
    return lesson(
        cells, f"Picture: {text}.", rng.choice(CAPTION_QUESTIONS), f"I see {text}.", rng, visual
    )


def _symbol(rng: random.Random, kind: int) -> str:
    if kind == 0:
        return rng.choice("123456789+-")
    if kind == 1:
        return rng.choice(LETTERS)
    if kind == 2:
        return f"{rng.choice(COLORS)} {rng.choice(tuple(CORNERS))}"
    return f"bar {rng.randint(1, MAX_BAR)}"


def drill(rng: random.Random, visual: bool) -> Lesson:
    """Sums without a picture, in the form in which steps say them."""
    del visual  # there is nothing to see
    asked, worked = [], []
    for _ in range(rng.randint(3, 6)):
        left, right = rng.randint(0, MAX_TOTAL), rng.randint(0, 9)
        sign = rng.choice([s for s in "+-" if 0 <= apply_sign(left, s, right) <= MAX_TOTAL])
        asked.append(f"{left} {sign} {right}")
        worked.append(f"{asked[-1]} = {apply_sign(left, sign, right)}.")
    return Lesson(None, (), "", f"Work out {', '.join(asked)}.", " ".join(worked))


def lookup(rng: random.Random, visual: bool) -> Lesson:
    """Many look-ups in one picture: values of letters, or which shapes have a colour."""
    if rng.random() < 0.5:
        puzzle = teachable("table", rng, "full", rng.randint(3, 6))
        asked = rng.sample([letter for letter, _ in puzzle.cells], len(puzzle.cells))
        value = dict(puzzle.cells)  # type: ignore[arg-type]
        question = f"Look up {', '.join(asked)}."
        said = " ".join(f"{letter} is {value[letter]}." for letter in asked)
    else:
        puzzle = teachable("shapes", rng, "full", rng.randint(3, 6))
        question = f"Which shapes are {puzzle.ask[0]}?"
        hits = [(word, word.split()[0] == puzzle.ask[0]) for word in puzzle.words]
        said = " ".join(f"{word} {'yes' if hit else 'no'}." for word, hit in hits)
    return lesson(puzzle.cells, puzzle.text, question, said, rng, visual)


def repeat(rng: random.Random, visual: bool) -> Lesson:
    """The thought tags in any order, to be said again.

    Without it their rows are never trained and no short fine-tuning can make the model write them.
    """
    del visual  # there is nothing to see
    said = "\n\n".join(rng.choice(THOUGHT_TAGS) for _ in range(rng.randint(1, 3)))
    return Lesson(None, (), "", f"Say this again: {said}", said)


Lessons = tuple[tuple[Callable[[random.Random, bool], Lesson], float], ...]
LESSONS: Lessons = (
    (caption, 0.22), (steps, 0.38), (lookup, 0.20), (at_once, 0.06), (scene, 0.06), (jumble, 0.04),
    (drill, 0.02), (repeat, 0.02),
)  # fmt: skip
# Of the stage after redraw_tags, and of the next one.
MORE_TAGS: Lessons = (
    *((make, share) for make, share in LESSONS if make is not repeat),
    (repeat, 0.08),
)
MORE_SUMS: Lessons = (
    (caption, 0.22), (steps, 0.36), (lookup, 0.16), (at_once, 0.05), (scene, 0.05), (jumble, 0.02),
    (drill, 0.08), (repeat, 0.06),
)  # fmt: skip
# Of the last stages.
LONGER_STEPS: Lessons = tuple(
    (longer_steps if make is steps else make, share) for make, share in MORE_SUMS
)
# Looking up a letter and passing over shapes take longest to learn.
STEPS_WEIGHTS = [{"table": 0.35, "shapes": 0.35, "chain": 0.15, "bars": 0.15}[f] for f in FAMILIES]
VISUAL_SHARE = 0.6


def make_lessons(num: int, rng: random.Random, lessons: Lessons = LESSONS) -> list[Lesson]:
    makers, weights = zip(*lessons, strict=True)
    chosen = rng.choices(makers, weights, k=num)
    return [make(rng, rng.random() < VISUAL_SHARE) for make in chosen]
