"""Textual long thoughts about one coloured shape: its colour and its form.

Questions are worded as in easy-VQA (https://github.com/vzhou842/easy-VQA); the shape stands in the
prompt as words, so there is no picture in these thoughts. They teach nothing about pictures: only
to look, look back, say what is asked for and check before answering. Nothing here is answered by
yes or no: what a model says to such questions is its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from virgo_ray.data.rows import round_robin
from virgo_ray.tiny.puzzles import COLORS, CORNERS
from virgo_ray.tiny.thoughts import AGREED, CHECKS, LOOK_BACKS, OPENERS, STEPPERS, in_format

if TYPE_CHECKING:
    from datasets import Dataset

COLOR_QUESTIONS = ("what color is the {}?", "what is the color of the {}?")
SHAPE_QUESTIONS = (
    "what shape is in the image?", "what shape does the image contain?", "what shape is present?",
    "what is the {} shape?",
)  # fmt: skip
# A shape may cover several cells of a picture, and is then seen in each of them.
MOST_CELLS = 3


@dataclass(frozen=True)
class Scene:
    """One shape in words, a question about it, the `step` that leads to the answer.

    Example: "red circle", "what color is the shape?", "color: red.", "red".
    """

    kind: str
    shape: str
    question: str
    step: str
    answer: str


def scene_thoughts_dataset(num: int, seed: int) -> Dataset:
    """Textual seed thoughts, none twice, kinds of questions in turn; columns as
    `puzzles.seed_thoughts_dataset` has them.

    Raises:
        ValueError: more thoughts than there are scenes.
    """
    from datasets import Dataset

    rng = random.Random(f"scenes/{seed}")
    kinds: dict[str, list[Scene]] = {}
    for scene in all_scenes():
        kinds.setdefault(scene.kind, []).append(scene)
    in_turn = list(round_robin([rng.sample(group, len(group)) for group in kinds.values()]))
    if num > len(in_turn):
        raise ValueError(f"num={num}, expected at most {len(in_turn)}: there are no more scenes")
    return Dataset.from_list([_row(scene) for scene in in_turn[:num]])


def all_scenes() -> list[Scene]:
    """Every scene with every question about it."""
    scenes: list[Scene] = []
    for color, form in product(COLORS, CORNERS):
        scenes += [
            _about_color(color, form, q, n) for q in COLOR_QUESTIONS for n in (form, "shape")
        ]
        scenes += [_about_form(color, form, q) for q in SHAPE_QUESTIONS]
    return scenes


def _about_color(color: str, form: str, question: str, noun: str) -> Scene:
    shape = f"{color} {form}"
    return Scene("color", shape, question.format(noun), f"color: {color}.", color)


def _about_form(color: str, form: str, question: str) -> Scene:
    shape = f"{color} {form}"
    return Scene("shape", shape, question.format(color), f"shape: {form}.", form)


def _row(scene: Scene) -> dict[str, Any]:
    name = f"scene-{scene.shape}-{scene.question.removesuffix('?')}".replace(" ", "-")
    rng = random.Random(name)
    seen = " ".join([scene.shape] * rng.randint(1, MOST_CELLS)) + "."
    return {
        "id": name,
        "context": f"Picture: {seen}",
        "question": scene.question,
        "thought": scene_thought(scene, seen, rng),
        "answer": scene.answer,
        "source": f"tiny/scene-{scene.kind}",
    }


def scene_thought(scene: Scene, seen: str, rng: random.Random) -> str:
    """Look, look back, compare, check, answer: the full response in the long format."""
    parts = (
        rng.choice(OPENERS), f"I see {seen}", rng.choice(LOOK_BACKS), seen, rng.choice(AGREED),
        rng.choice(STEPPERS), scene.step, rng.choice(CHECKS), f"{scene.answer}.",
        "Good.",
    )  # fmt: skip
    return in_format(" ".join(parts), scene.answer)
