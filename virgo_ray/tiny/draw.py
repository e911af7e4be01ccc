"""Pictures of puzzles: a grid of 16-pixel cells, one symbol each, with varied fonts, colours,
positions and noise.

The same puzzle always gives the same pixels: everything random comes from the puzzle's id, and only
fonts carried by Pillow itself are used (a machine's own fonts differ).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from virgo_ray.files import create_once
from virgo_ray.tiny.puzzles import Grid, Puzzle

CELL = 16  # pixels; one merged visual token of the tiny model (patch 8, merged 2 x 2)
BAR_STEP = 2  # pixels of height per unit of a bar
NOISE = 5.0  # standard deviation of the pixel noise, of 255
INK = ((20, 20, 20), (150, 20, 30), (20, 40, 150), (10, 100, 40), (110, 20, 120), (120, 70, 10))
PAINT = {
    "red": (225, 25, 25),
    "green": (25, 200, 40),
    "blue": (30, 45, 225),
    "yellow": (240, 225, 25),
    "black": (12, 12, 12),
    "gray": (128, 128, 128),
    "teal": (15, 130, 130),
    "brown": (150, 60, 40),
}
FACES = ("thin", "medium", "bold", "pixel")
Color = tuple[int, int, int]
Box = tuple[float, float, float, float]


def draw(puzzle: Puzzle) -> Image.Image:
    """The puzzle's picture, RGB, (16 * columns) x (16 * rows) pixels."""
    return draw_cells(puzzle.cells, random.Random(f"draw/{puzzle.id}"))


def draw_cells(cells: Grid, rng: random.Random) -> Image.Image:
    """The picture of any grid of symbols; looks are drawn from `rng`."""
    size = (CELL * max(len(row) for row in cells), CELL * len(cells))
    image = Image.new("RGB", size, light_color(rng))
    pen = ImageDraw.Draw(image)
    style = (rng.choice(FACES), rng.choice((12, 13, 14, 15)), rng.choice(INK))
    for y, row in enumerate(cells):
        for x, symbol in enumerate(row):
            _draw_symbol(pen, symbol, (x * CELL, y * CELL), style, rng)
    return add_noise(image, rng)


def write_picture(puzzle: Puzzle, folder: Path) -> Path:
    """Path of the puzzle's PNG in `folder`, written if it is not there yet (atomically: runs share
    folders).
    """
    return write_png(lambda: draw(puzzle), folder / f"{puzzle.id}.png")


def write_png(make: Callable[[], Image.Image], path: Path) -> Path:
    """Make and write a picture that is not there yet, whole or not at all."""
    create_once(path, lambda draft: make().save(draft, "PNG"))
    return path


def light_color(rng: random.Random) -> Color:
    return rng.randint(228, 255), rng.randint(228, 255), rng.randint(228, 255)


def jitter_color(color: Color, rng: random.Random, spread: int = 14) -> Color:
    red, green, blue = (min(255, max(0, c + rng.randint(-spread, spread))) for c in color)
    return red, green, blue


def add_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).normal(
        0.0, NOISE, (image.height, image.width, 3)
    )
    pixels = np.asarray(image, dtype=np.float64) + noise
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _draw_symbol(
    pen: ImageDraw.ImageDraw,
    symbol: str,
    corner: tuple[int, int],
    style: tuple[str, int, Color],
    rng: random.Random,
) -> None:
    kind, _, value = symbol.partition(" ")
    if kind == "bar":
        _draw_bar(pen, int(value), corner, rng)
    elif kind in PAINT:
        _draw_shape_cell(pen, kind, value, corner, rng)
    elif symbol:
        _draw_glyph(pen, symbol, corner, style, rng)


def _draw_bar(
    pen: ImageDraw.ImageDraw, height: int, corner: tuple[int, int], rng: random.Random
) -> None:
    x, y = corner
    width = rng.randint(7, 11)
    left = x + rng.randint(2, CELL - width - 2)
    base = y + CELL - 1
    fill = jitter_color(PAINT[rng.choice(tuple(PAINT))], rng)
    pen.rectangle((left, base - BAR_STEP * height, left + width - 1, base), fill=fill)


def _draw_shape_cell(
    pen: ImageDraw.ImageDraw, color: str, shape: str, corner: tuple[int, int], rng: random.Random
) -> None:
    width = rng.randint(10, 13)
    height = rng.randint(8, 13) if shape == "rectangle" else width
    x = corner[0] + rng.randint(1, CELL - width - 1)
    y = corner[1] + rng.randint(1, CELL - height - 1)
    draw_shape(pen, shape, (x, y, x + width, y + height), jitter_color(PAINT[color], rng))


def draw_shape(pen: ImageDraw.ImageDraw, shape: str, box: Box, fill: Color) -> None:
    left, top, right, bottom = box
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "triangle":
        pen.polygon([((left + right) / 2, top), (left, bottom), (right, bottom)], fill=fill)
    elif shape == "rectangle":
        pen.rectangle(box, fill=fill)
    else:
        raise ValueError(f"shape is {shape!r}; expected 'circle', 'triangle' or 'rectangle'")


def _draw_glyph(
    pen: ImageDraw.ImageDraw,
    glyph: str,
    corner: tuple[int, int],
    style: tuple[str, int, Color],
    rng: random.Random,
) -> None:
    face, size, ink = style
    font = _font(0 if face == "pixel" else size)
    left, top, right, bottom = pen.textbbox((0, 0), glyph, font=font)
    # Whole pixels: between them Pillow cuts the edge of a glyph, and a thin minus is all edge.
    x = round(corner[0] + (CELL - (right - left)) / 2 - left + rng.uniform(-2, 2))
    y = round(corner[1] + (CELL - (bottom - top)) / 2 - top + rng.uniform(-1.5, 1.5))
    width = 0.4 * FACES.index(face) if face != "pixel" else 0
    pen.text((x, y), glyph, font=font, fill=jitter_color(ink, rng, 20), stroke_width=width)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own outline font, or with size 0 its bitmap font."""
    if size == 0:
        return ImageFont.load_default_imagefont()
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError(
            "Pillow was built without FreeType (no outline font); install Pillow's own wheel"
        )
    return font
