"""Chooses what the parity probe asks: a few text and image items, always at least one of each.

Items come from the plan that was just trained on; where it has no image (round 0), a generated
picture is asked about. Knows prompts and files, not who computes the log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from virgo_ray.files import create_once
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Example, Problem
from virgo_ray.weights.probe import ProbeItem

NUM_EACH = 2  # text items, image items
MAX_TARGET_TOKENS = 64
ANSWER = "The answer is \\boxed{{{}}}."


def items_of_examples(
    examples: Iterable[Example], prompter: Prompter, directory: Path
) -> tuple[ProbeItem, ...]:
    """The first text-only and single-image examples, filled up from a generated picture."""
    text: list[Example] = []
    image: list[Example] = []
    for example in examples:
        kind = text if not example.images else image
        if len(example.images) <= 1 and len(kind) < NUM_EACH:
            kind.append(example)
    fallback = _fallback_examples(prompter, directory)
    text = text or [fallback[0]]
    image = image or [fallback[1]]
    return tuple(_item(example) for example in (*text, *image))


def items_of_problems(
    problems: Sequence[Problem], prompter: Prompter, directory: Path
) -> tuple[ProbeItem, ...]:
    """Each problem with its answer as the response, without its picture and with it."""
    bare = [replace(p, images=()) for p in problems[:NUM_EACH]]
    asked = [*bare, *(p for p in problems[:NUM_EACH] if len(p.images) == 1)]
    examples = [prompter.example(p.id, p, ANSWER.format(p.answer)) for p in asked]
    return items_of_examples(examples, prompter, directory)


def as_example(item: ProbeItem) -> Example:
    images = () if item.image is None else (item.image,)
    return Example("probe", item.prompt_ids, item.target_ids, images)


def _item(example: Example) -> ProbeItem:
    return ProbeItem(
        tuple(example.prompt_ids),
        tuple(example.target_ids[:MAX_TARGET_TOKENS]),
        example.images[0] if example.images else None,
    )


def _fallback_examples(prompter: Prompter, directory: Path) -> tuple[Example, Example]:
    text = Problem("probe-text", "What is 2 + 3?", "5")
    image = Problem("probe-image", "How many squares?", "3", images=(_picture(directory),))
    return (
        prompter.example(text.id, text, ANSWER.format(text.answer)),
        prompter.example(image.id, image, ANSWER.format(image.answer)),
    )


def _picture(directory: Path) -> str:
    """A fixed drawing of three squares; every rank may write it, all write the same."""
    path = directory / "picture.png"
    create_once(path, lambda draft: _three_squares().save(draft, "PNG"))
    return str(path)


def _three_squares() -> Image.Image:
    picture = Image.new("RGB", (112, 84), "white")
    draw = ImageDraw.Draw(picture)
    for left, colour in ((8, "red"), (44, "green"), (80, "blue")):
        draw.rectangle((left, 28, left + 24, 52), fill=colour)
    return picture
