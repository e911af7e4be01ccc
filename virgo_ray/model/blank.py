"""Problems with their pictures blanked: whatever is still solved needed none of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from virgo_ray.files import create_once
from virgo_ray.model.images import image_size
from virgo_ray.records import Problem

BLANK = "#blank"  # ends the id of a blanked problem, and of no other


def blank_pictures(problem: Problem, directory: Path) -> Problem:
    """The same problem with white pictures of the same sizes, written once under `directory`."""
    images = tuple(_white_like(path, directory) for path in problem.images)
    return replace(problem, id=problem.id + BLANK, images=images)


def _white_like(path: str, directory: Path) -> str:
    size = image_size(path)
    white = directory / f"white_{size[0]}x{size[1]}.png"
    create_once(white, lambda draft: Image.new("RGB", size, "white").save(draft, "PNG"))
    return str(white)
