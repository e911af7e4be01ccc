"""Textual long thoughts about one coloured shape: its colour, its form, what is there or not.

Questions are worded as in easy-VQA (https://github.com/vzhou842/easy-VQA); the shape stands in the
prompt as words, so there is no picture in these thoughts. They teach nothing about pictures: only
to look, look back, compare step by step and check before answering.
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
PRESENCE_QUESTIONS = (
    "is there a {}?", "is there a {} in the image?", "does the image contain a {}?",
    "is a {} present?",
)  # fmt: skip
ABSENCE_QUESTIONS = (
    "is there not a {}?", "is there not a {} in the image?", "does the image not contain a {}?",
    "is no {} present?",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One shape in words and a question about it; `steps` lead to the answer, `check` confirms it.

    Example: "red circle", "is there a blue shape?", "Is it blue? It is red, not blue.",
    "that is false.", "no".
    """

    kind: str
    shape: str
    question: str
    steps: str
    check: str
    answer: str


def scene_thoughts_dataset(num: int, seed: int) -> Dataset:
    """Textual seed thoughts, none twice, kinds of questions and answers in turn; columns as
    `puzzles.seed_thoughts_dataset` has them.

    Raises:
        ValueError: more thoughts than there are scenes.
    """
    from datasets import Dataset

    rng = random.Random(f"scenes/{seed}")
    groups: dict[tuple[str, str], list[Scene]] = {}
    for scene in all_scenes():
        answer = scene.answer if scene.answer in ("yes", "no") else ""
        groups.setdefault((scene.kind, answer), []).append(scene)
    in_turn = list(round_robin([rng.sample(group, len(group)) for group in groups.values()]))
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
        for asked in (*COLORS, *CORNERS):
            scenes += [_about_presence(color, form, asked, q) for q in PRESENCE_QUESTIONS]
            scenes += [_about_absence(color, form, asked, q) for q in ABSENCE_QUESTIONS]
    return scenes


def _about_color(color: str, form: str, question: str, noun: str) -> Scene:
    steps, check = f"What color is it? It is {color}.", f"{color} {form} is {color}."
    return Scene("color", f"{color} {form}", question.format(noun), steps, check, color)


def _about_form(color: str, form: str, question: str) -> Scene:
    steps, check = f"What shape is it? It is a {form}.", f"{color} {form} is a {form}."
    return Scene("shape", f"{color} {form}", question.format(color), steps, check, form)


def _about_presence(color: str, form: str, asked: str, question: str) -> Scene:
    seen, noun = _as_asked(color, form, asked)
    is_there = asked == seen
    steps = f"Is it {asked}? It is {seen}{'' if is_there else f', not {asked}'}."
    answer = "yes" if is_there else "no"
    return Scene(
        "presence", f"{color} {form}", question.format(noun), steps, _said(is_there), answer
    )


def _about_absence(color: str, form: str, asked: str, question: str) -> Scene:
    seen, noun = _as_asked(color, form, asked)
    is_absent = asked != seen
    steps = f"Is it not {asked}? It is {seen}{f', not {asked}' if is_absent else ''}."
    answer = "yes" if is_absent else "no"
    return Scene(
        "absence", f"{color} {form}", question.format(noun), steps, _said(is_absent), answer
    )


def _as_asked(color: str, form: str, asked: str) -> tuple[str, str]:
    """What of the shape the question is about, and how it names what it asks for."""
    return (color, f"{asked} shape") if asked in COLORS else (form, asked)


def _said(holds: bool) -> str:
    return f"that is {'true' if holds else 'false'}."


def _row(scene: Scene) -> dict[str, Any]:
    name = f"scene-{scene.shape}-{scene.question.removesuffix('?')}".replace(" ", "-")
    return {
        "id": name,
        "context": f"Picture: {scene.shape}.",
        "question": scene.question,
        "thought": scene_thought(scene, random.Random(name)),
        "answer": scene.answer,
        "source": f"tiny/scene-{scene.kind}",
    }


def scene_thought(scene: Scene, rng: random.Random) -> str:
    """Look, look back, compare, check, answer: the full response in the long format."""
    seen = f"{scene.shape}."
    parts = (
        rng.choice(OPENERS), f"I see {seen}", rng.choice(LOOK_BACKS), seen, rng.choice(AGREED),
        rng.choice(STEPPERS), scene.steps, rng.choice(CHECKS), scene.check,
    )  # fmt: skip
    return in_format(" ".join(parts), scene.answer)
