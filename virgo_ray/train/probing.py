"""Chooses what the parity probe asks: targets after text alone, and after pictures.

Before the first fit these are held-out pictures and seed thoughts, later rollouts too. The response
need not be right, nor about the picture: what counts is that its log-probabilities depend on the
weights. Where there are no pictures, a generated one is asked about. Knows prompts and files, not
who computes the log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageDraw

from virgo_ray.files import create_once
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Example, Problem, SeedThought
from virgo_ray.weights.probe import ProbeItem

T = TypeVar("T")

# Of a probe's target tokens; the rest is for rollouts about pictures.
TEXT_SHARE = 0.4
PICTURE_SHARE = 0.3
MAX_TARGET_TOKENS = 128
# The first item of text and of pictures is this long, so that vLLM caches a part of it.
FIRST_TARGET_TOKENS = 224
MAX_ITEMS = 64  # of a kind: short answers alone do not make a thousand tokens
ANSWER = "The answer is \\boxed{{{}}}."


def choose_start(
    num_tokens: int,
    max_length: int,
    prompter: Prompter,
    heldout: Sequence[Problem],
    thoughts: Sequence[SeedThought],
    directory: Path,
) -> tuple[ProbeItem, ...]:
    """Items for a run that has no rollouts yet, of about `num_tokens` targets or fewer.

    `max_length` is `model.max_length`; a generated picture goes to `directory`.
    """
    words = _words(prompter, heldout, thoughts, directory)
    pictures = [p for p in _spread(heldout) if len(p.images) == 1] or [_drawn(directory)]
    bare = [t.problem for t in _spread(thoughts)] or [replace(p, images=()) for p in pictures]
    chooser = _Chooser(max_length, prompter, words)
    return (
        *chooser.items(bare, round(num_tokens * TEXT_SHARE)),
        *chooser.items(pictures, round(num_tokens * PICTURE_SHARE)),
    )


def choose_rollouts(
    num_tokens: int, max_length: int, examples: Iterable[Example]
) -> tuple[ProbeItem, ...]:
    """Items about pictures from what a fit learns from, for the rest of `num_tokens` targets."""
    wanted = round(num_tokens * (1 - TEXT_SHARE - PICTURE_SHARE))
    return tuple(_up_to(_cut(examples, 1, max_length), wanted))


def choose_from_plan(
    num_tokens: int,
    max_length: int,
    prompter: Prompter,
    examples: Sequence[Example],
    directory: Path,
) -> tuple[ProbeItem, ...]:
    """Items for a trainer whose run has chosen none: text and pictures that it learns from."""
    wanted = round(num_tokens * (TEXT_SHARE + PICTURE_SHARE))
    text = tuple(_up_to(_cut(examples, 0, max_length), wanted))
    pictures = choose_rollouts(num_tokens, max_length, examples)
    drawn = _drawn(directory)
    chooser = _Chooser(max_length, prompter, _words(prompter, (), (), directory))
    return (
        *(text or chooser.items([replace(drawn, images=())], wanted)),
        *(pictures or chooser.items([drawn], wanted)),
    )


def as_example(item: ProbeItem) -> Example:
    images = () if item.image is None else (item.image,)
    return Example("probe", item.prompt_ids, item.target_ids, images)


class _Chooser:
    """Puts responses behind problems until there are enough targets."""

    def __init__(
        self, max_length: int, prompter: Prompter, words: Sequence[tuple[int, ...]]
    ) -> None:
        self._max_length = max_length
        self._prompter = prompter
        self._words = words

    def items(self, problems: Sequence[Problem], wanted: int) -> list[ProbeItem]:
        return list(_up_to(self._made(problems), wanted))

    def _made(self, problems: Sequence[Problem]) -> Iterator[ProbeItem]:
        responses = cycle(self._words)
        for number, problem in enumerate(problems):
            limit = FIRST_TARGET_TOKENS if number == 0 else MAX_TARGET_TOKENS
            response = list(next(responses))
            while len(response) < limit and number == 0:
                response += next(responses)
            # One token less than fits: an engine answers with one more.
            room = self._max_length - 1 - self._prompter.num_prompt_tokens(problem)
            if targets := tuple(response[: max(0, min(limit, room))]):
                image = next(iter(problem.images), None)
                yield ProbeItem(tuple(self._prompter.prompt_ids(problem)), targets, image)


def _words(
    prompter: Prompter,
    heldout: Sequence[Problem],
    thoughts: Sequence[SeedThought],
    directory: Path,
) -> list[tuple[int, ...]]:
    """Responses: seed thoughts, or the answers where there are none."""
    texts = [(t.problem, t.thought) for t in _spread(thoughts)] or [
        (replace(p, images=()), ANSWER.format(p.answer))
        for p in (*_spread(heldout), _drawn(directory))
    ]
    return [tuple(prompter.example("probe", problem, text).target_ids) for problem, text in texts]


def _spread(values: Sequence[T]) -> list[T]:
    """At most MAX_ITEMS of them, from beginning to end: sources lie one after the other."""
    step = max(1, len(values) // MAX_ITEMS)
    return list(values[::step][:MAX_ITEMS])


def _up_to(items: Iterable[ProbeItem], wanted: int) -> Iterator[ProbeItem]:
    """Items until they have `wanted` targets; a first one that is long counts as another."""
    num = 0
    for item in items:
        if num >= wanted:
            return
        num += min(len(item.target_ids), MAX_TARGET_TOKENS)
        yield item


def _cut(examples: Iterable[Example], num_images: int, max_length: int) -> Iterator[ProbeItem]:
    """The beginnings of some examples; an engine that scores them answers with one token more."""
    for example in _spread([e for e in examples if len(e.images) == num_images]):
        targets = tuple(example.target_ids[:MAX_TARGET_TOKENS])
        num_cut = len(example.target_ids) - len(targets)
        if example.num_tokens - num_cut < max_length:
            image = next(iter(example.images), None)
            yield ProbeItem(tuple(example.prompt_ids), targets, image)


def _drawn(directory: Path) -> Problem:
    """A fixed drawing of three squares; every rank may write it, all write the same."""
    path = directory / "picture.png"
    create_once(path, lambda draft: _three_squares().save(draft, "PNG"))
    return Problem("probe-image", "How many squares?", "3", images=(str(path),))


def _three_squares() -> Image.Image:
    picture = Image.new("RGB", (112, 84), "white")
    draw = ImageDraw.Draw(picture)
    for left, colour in ((8, "red"), (44, "green"), (80, "blue")):
        draw.rectangle((left, 28, left + 24, 52), fill=colour)
    return picture
