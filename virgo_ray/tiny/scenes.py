"""One shape on a plain ground, and a short question about what is seen: no reckoning, only looking.

The tiny base learns to answer these at once, which makes them its perception probe: a model that
has learnt to think and forgotten how to look gets them wrong. Pictures are 4 x 4 cells with the
shape anywhere; each data set draws its own, the same for the same split and seed.
"""

from __future__ import annotations

import hashlib
import random
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from virgo_ray.tiny.draw import (
    CELL,
    PAINT,
    add_noise,
    draw_shape,
    jitter_color,
    light_color,
    write_png,
)
from virgo_ray.tiny.puzzles import COLORS, CORNERS, Split

if TYPE_CHECKING:
    from datasets import Dataset

SIDE = 4 * CELL  # pixels

Box = tuple[int, int, int, int]


def scene_question(color: str, shape: str, rng: random.Random) -> tuple[str, str]:
    """(question, answer)."""
    kind = rng.randrange(4)
    if kind == 0:
        return "Name the color.", color
    if kind == 1:
        return "Name the shape.", shape
    right = rng.random() < 0.5
    if kind == 2:
        said = color if right else rng.choice([c for c in COLORS if c != color])
        return f"Do you see anything {said}?", "yes" if right else "no"
    said = shape if right else rng.choice([s for s in CORNERS if s != shape])
    return f"Do you see any {said}?", "yes" if right else "no"


def draw_scene(color: str, shape: str, rng: random.Random) -> tuple[Image.Image, Box]:
    """(RGB picture of SIDE x SIDE pixels, where the shape lies)."""
    width = rng.randint(12, 32)
    height = rng.randint(9, 32) if shape == "rectangle" else width
    x, y = rng.randint(0, SIDE - width - 1), rng.randint(0, SIDE - height - 1)
    box = (x, y, x + width, y + height)
    image = Image.new("RGB", (SIDE, SIDE), light_color(rng))
    spread = rng.choice((0, 14))
    draw_shape(ImageDraw.Draw(image), shape, box, jitter_color(PAINT[color], rng, spread))
    return (add_noise(image, rng) if rng.random() < 0.5 else image), box


def _picture(color: str, shape: str, rng: random.Random) -> Image.Image:
    return draw_scene(color, shape, rng)[0]


def scenes_dataset(split: Split, num: int, seed: int, image_dir: str | Path) -> Dataset:
    """Problems with one picture each: id, question, images, answer, source, answer_type.

    A larger `num` only extends the list; pictures that are there already are not written again.
    """
    from datasets import Dataset

    rows: list[dict[str, Any]] = []
    for number in range(num):
        name = f"scene/{split}/{seed}/{number}"
        rng = random.Random(name)
        color, shape = rng.choice(COLORS), rng.choice(tuple(CORNERS))
        question, answer = scene_question(color, shape, rng)
        id = f"scene-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        path = write_png(partial(_picture, color, shape, rng), Path(image_dir) / f"{id}.png")
        rows.append(
            {
                "id": id,
                "question": question,
                "images": [str(path)],
                "answer": answer,
                "source": "tiny/scene",
                "answer_type": "yes_no" if answer in ("yes", "no") else "text",
            }
        )
    return Dataset.from_list(rows)
