"""Visual puzzles with exact answers, each also as words, in three splits that share no content.

A picture is a small grid of cells and every cell is exactly one merged visual token of the tiny
model (16 px), so reading a picture is naming its cells in order. The text form names the same cells
in the same order. A puzzle is decided by its content (family, cells, question); which split it
belongs to is a hash of that content, so the splits are disjoint for all seeds and sizes.

This module knows nothing of models, prompts or chat formats. `draw.py` makes the picture,
`thoughts.py` the worked solution.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Split = Literal["train", "heldout", "seed"]
Level = Literal["short", "full"]
Grid = tuple[tuple[str, ...], ...]

FAMILIES: tuple[str, ...] = ("chain", "table", "shapes", "bars")
COLORS: tuple[str, ...] = ("red", "green", "blue", "yellow", "black", "gray", "teal", "brown")
CORNERS: dict[str, int] = {"circle": 0, "triangle": 3, "rectangle": 4}
# Letters that no drawn digit of this size can be mistaken for (no B/8, D/0, G/6, S/5, Z/2).
LETTERS: tuple[str, ...] = ("A", "C", "E", "F", "H", "K", "M", "T")
MAX_BAR = 7
MAX_TOTAL = 29  # running totals stay within 0..MAX_TOTAL in every family


@dataclass(frozen=True)
class Puzzle:
    """One question about one picture.

    `cells` are the picture's symbols, row by row ("7", "+", "A", "red circle", "bar 5"); `ask` is
    what the question refers to, in a form a program can use: the signed letters of a table
    question, the colour of a shapes question.
    """

    id: str
    family: str
    split: Split
    level: Level
    cells: Grid
    ask: tuple[str, ...]
    question: str
    answer: str

    @property
    def words(self) -> tuple[str, ...]:
        """What each cell shows, in reading order: ("7", "+", ...), ("red circle", ...)."""
        return tuple(symbol.removeprefix("bar ") for row in self.cells for symbol in row)

    @property
    def text(self) -> str:
        """The picture in words; it stands in the prompt where the image would stand."""
        return f"Picture: {' '.join(self.words)}."


# --- families: (rng, size) -> (cells, ask, question, answer) ------------------------------------

Content = tuple[Grid, tuple[str, ...], str, int]


def apply_sign(total: int, sign: str, value: int) -> int:
    return total + value if sign == "+" else total - value


def _sign_for(rng: random.Random, total: int, value: int) -> str:
    """A random sign that keeps the running total within 0..MAX_TOTAL."""
    allowed = [s for s in "+-" if 0 <= apply_sign(total, s, value) <= MAX_TOTAL]
    return rng.choice(allowed)


def _chain(rng: random.Random, size: int) -> Content:
    """A row of `size` digits with plus and minus between them."""
    total = rng.randint(1, 9)
    row = [str(total)]
    for _ in range(size - 1):
        value = rng.randint(1, 9)
        sign = _sign_for(rng, total, value)
        total = apply_sign(total, sign, value)
        row += [sign, str(value)]
    return (tuple(row),), (), "What is the result of the calculation?", total


def _table(rng: random.Random, size: int) -> Content:
    """Rows of a letter and its value; a formula over `size` of the letters."""
    letters = rng.sample(LETTERS, size)
    values = {letter: rng.randint(1, 9) for letter in letters}
    order = rng.sample(letters, size)
    total = values[order[0]]
    ask = [order[0]]
    for letter in order[1:]:
        sign = _sign_for(rng, total, values[letter])
        total = apply_sign(total, sign, values[letter])
        ask += [sign, letter]
    cells = tuple((letter, str(values[letter])) for letter in letters)
    return cells, tuple(ask), f"What is {' '.join(ask)}?", total


def _shapes(rng: random.Random, size: int) -> Content:
    """`size` coloured shapes in one or two rows; the corners of those of one colour."""
    color = rng.choice(COLORS)
    others = [c for c in COLORS if c != color]
    num_asked = rng.randint(max(1, size // 4), max(1, 3 * size // 4))
    colors = [color] * num_asked + [rng.choice(others) for _ in range(size - num_asked)]
    rng.shuffle(colors)
    flat = [f"{c} {rng.choice(tuple(CORNERS))}" for c in colors]
    total = sum(CORNERS[s.split()[1]] for s in flat if s.startswith(color))
    two_rows = size > 3 and size % 2 == 0
    cells = (tuple(flat[: size // 2]), tuple(flat[size // 2 :])) if two_rows else (tuple(flat),)
    return cells, (color,), f"How many corners do the {color} shapes have in all?", total


def _bars(rng: random.Random, size: int) -> Content:
    """A row of `size` bars; how far they rise in all, from left to right."""
    heights = [rng.randint(1, MAX_BAR) for _ in range(size)]
    pairs = pairwise(heights)
    total = sum(max(0, right - left) for left, right in pairs)
    cells = (tuple(f"bar {h}" for h in heights),)
    return cells, (), "How much do the bars rise in all from left to right?", total


_MAKERS: dict[str, Callable[[random.Random, int], Content]] = {
    "chain": _chain,
    "table": _table,
    "shapes": _shapes,
    "bars": _bars,
}
# Full puzzles are longer than any that the base model was taught to take in steps: that is what
# makes it guess.
FULL_SIZE = {"chain": (6, 6), "table": (5, 5), "shapes": (6, 6), "bars": (6, 6)}
MAX_EXTRA_CELLS = 3  # a table has no more than one row for each of LETTERS
SHORT_SIZE = {"chain": (2, 4), "table": (2, 4), "shapes": (2, 4), "bars": (2, 4)}


# --- sampling -----------------------------------------------------------------------------------


def content_split(family: str, cells: Grid, question: str) -> tuple[str, Split]:
    """(hash, split) of a puzzle's content: 60 % train, 20 % held out, 20 % seed."""
    content = "|".join([family, "/".join(",".join(row) for row in cells), question])
    digest = hashlib.sha256(content.encode()).hexdigest()
    bucket = int(digest[:8], 16) % 10
    split: Split = "train" if bucket < 6 else "heldout" if bucket < 8 else "seed"
    return digest[:12], split


def sample_puzzle(
    family: str, rng: random.Random, level: Level = "full", size: int | None = None
) -> Puzzle:
    """One puzzle of whatever split its content falls into."""
    low, high = (FULL_SIZE if level == "full" else SHORT_SIZE)[family]
    cells, ask, question, answer = _MAKERS[family](rng, size or rng.randint(low, high))
    digest, split = content_split(family, cells, question)
    return Puzzle(f"{family}-{digest}", family, split, level, cells, ask, question, str(answer))


def make_puzzles(split: Split, num: int, seed: int, extra_cells: int = 0) -> list[Puzzle]:
    """`num` different puzzles of a split, families in turn: of full length, or longer than that.

    The same (split, seed, extra_cells) gives the same list, and a larger `num` only extends it.
    `extra_cells` is at most MAX_EXTRA_CELLS.

    >>> [p.family for p in make_puzzles("train", 5, seed=0)]
    ['chain', 'table', 'shapes', 'bars', 'chain']
    """
    if split not in ("train", "heldout", "seed"):
        raise ValueError(f"split is {split!r}; expected 'train', 'heldout' or 'seed'")
    rng = random.Random(f"{split}/{seed}")
    puzzles: dict[str, Puzzle] = {}
    while len(puzzles) < num:
        family = FAMILIES[len(puzzles) % len(FAMILIES)]
        size = FULL_SIZE[family][0] + extra_cells if extra_cells else None
        puzzle = sample_puzzle(family, rng, size=size)
        if puzzle.split == split and puzzle.id not in puzzles:
            puzzles[puzzle.id] = puzzle
    return list(puzzles.values())
