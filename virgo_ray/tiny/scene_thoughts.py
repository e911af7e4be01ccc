"""Textual long thoughts about one coloured shape: its color, its form, is it there, is it not.

Questions are worded as those of easy-VQA (https://github.com/vzhou842/easy-VQA); the shape stands
in the prompt as words, so nothing here teaches how a picture looks. A thought reads, looks again,
says what is asked for, checks and answers; `configs/easyvqa.yaml` mixes them with the puzzles' own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from virgo_ray.stats.interleave import round_robin
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
NUM_WORDINGS = 3  # of the thought about one scene and question


@dataclass(frozen=True)
class Scene:
    """One shape in words, a question about it, the `step` that leads to the answer.

    Example: "presence", "red circle", "is there a triangle?", "triangle: circle no.", "no".
    """

    kind: str
    shape: str
    question: str
    step: str
    answer: str


def scene_thoughts_dataset(num: int, seed: int) -> Dataset:
    """Textual seed thoughts, at most NUM_WORDINGS about a scene and question, kinds of questions
    in turn until one is used up; columns as `datasets.seed_thoughts_dataset` has them.

    Raises:
        ValueError: more than there are.
    """
    from datasets import Dataset

    rng = random.Random(f"scenes/{seed}")
    kinds: dict[str, list[tuple[Scene, int]]] = {}
    for scene, wording in product(all_scenes(), range(NUM_WORDINGS)):
        kinds.setdefault(scene.kind, []).append((scene, wording))
    in_turn = list(round_robin([rng.sample(group, len(group)) for group in kinds.values()]))
    if num > len(in_turn):
        raise ValueError(f"num={num}, expected at most {len(in_turn)}: there are no more of them")
    return Dataset.from_list([_row(scene, wording) for scene, wording in in_turn[:num]])


def all_scenes() -> Iterator[Scene]:
    """Every shape with every question about it."""
    yes_or_no = {"presence": PRESENCE_QUESTIONS, "absence": ABSENCE_QUESTIONS}
    for color, form in product(COLORS, CORNERS):
        shape = f"{color} {form}"
        for question, noun in product(COLOR_QUESTIONS, (form, "shape")):
            yield Scene("color", shape, question.format(noun), f"color: {color}.", color)
        for question in SHAPE_QUESTIONS:
            yield Scene("shape", shape, question.format(color), f"shape: {form}.", form)
        for has, words in ((color, COLORS), (form, CORNERS)):
            for kind, is_there in product(yes_or_no, (True, False)):
                for question in yes_or_no[kind]:
                    asked = has if is_there else _another(words, has, f"{shape}, {question}")
                    yield _yes_or_no(kind, shape, question, asked, has)


def _another(words: Iterable[str], word: str, name: str) -> str:
    return random.Random(name).choice([other for other in words if other != word])


def _yes_or_no(kind: str, shape: str, question: str, asked: str, has: str) -> Scene:
    """The step repeats what is asked for, with its "no", then what is there, then the answer."""
    answer = "yes" if (asked == has) == (kind == "presence") else "no"
    noun = f"{asked} shape" if asked in COLORS else asked
    wanted = asked if kind == "presence" else f"no {asked}"
    return Scene(kind, shape, question.format(noun), f"{wanted}: {has} {answer}.", answer)


def _row(scene: Scene, wording: int) -> dict[str, Any]:
    slug = scene.question.removesuffix("?")
    name = f"scene-{wording}-{scene.shape}-{slug}".replace(" ", "-")
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
        rng.choice(STEPPERS), scene.step, rng.choice(CHECKS), f"{scene.answer}.",
        "Good.",
    )  # fmt: skip
    return in_format(" ".join(parts), scene.answer)
