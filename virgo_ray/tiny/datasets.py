"""The synthetic puzzles as data sets: with pictures, in words, and as textual long thoughts.

`datasets` is loaded on first use. Knows no readers: rows have the columns that `data` expects.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from virgo_ray.tiny.draw import write_picture
from virgo_ray.tiny.puzzles import Split, make_puzzles
from virgo_ray.tiny.thoughts import fast_answer, long_thought

if TYPE_CHECKING:
    from datasets import Dataset


def problems_dataset(
    split: Split, num: int, seed: int, image_dir: str | Path, extra_cells: int = 0
) -> Dataset:
    """Visual problems: id, question, images (one PNG path), answer, source, answer_type.

    Pictures are written to `image_dir` under a name made of their content; one that is there
    already is not written again, so several runs may share the folder.
    """
    from datasets import Dataset

    rows: list[dict[str, Any]] = []
    for puzzle in make_puzzles(split, num, seed, extra_cells):
        rows.append(
            {
                "id": puzzle.id,
                "question": puzzle.question,
                "images": [str(write_picture(puzzle, Path(image_dir)))],
                "answer": puzzle.answer,
                "source": f"tiny/{puzzle.family}",
                "answer_type": "number",
            }
        )
    return Dataset.from_list(rows)


def words_dataset(split: Split, num: int, seed: int, extra_cells: int = 0) -> Dataset:
    """The same problems without pictures: `context` says in words what the picture would show."""
    from datasets import Dataset

    rows: list[dict[str, Any]] = []
    for puzzle in make_puzzles(split, num, seed, extra_cells):
        rows.append(
            {
                "id": f"{puzzle.id}-words",
                "context": puzzle.text,
                "question": puzzle.question,
                "answer": puzzle.answer,
                "source": f"tiny/{puzzle.family}",
                "answer_type": "number",
            }
        )
    return Dataset.from_list(rows)


def seed_thoughts_dataset(num: int, seed: int, style: Literal["long", "short"] = "long") -> Dataset:
    """Textual seed thoughts: id, context (the picture in words), question, thought, answer, source.

    `context` goes in front of the instruction, where an image would stand. `style="short"` gives
    the bare answer in place of a thought: what the control run is trained on.
    """
    from datasets import Dataset

    if style not in ("long", "short"):
        raise ValueError(f"style is {style!r}; expected 'long' or 'short'")
    write = long_thought if style == "long" else fast_answer
    rows: list[dict[str, Any]] = []
    for puzzle in make_puzzles("seed", num, seed):
        rows.append(
            {
                "id": puzzle.id,
                "context": puzzle.text,
                "question": puzzle.question,
                "thought": write(puzzle),
                "answer": puzzle.answer,
                "source": f"tiny/{puzzle.family}",
            }
        )
    return Dataset.from_list(rows)
