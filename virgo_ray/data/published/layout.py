"""What published layouts share: where pictures stand, choices by letter or place, units, lists."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from virgo_ray.data.pictures import wrap_in_list
from virgo_ray.data.rows import RowError

Fields = Mapping[str, Any]
MARK = re.compile(r"<image[ _]?(\d+)>")
NUMBERED = range(1, 10)  # image_1 ... image_9
_CHOICES = re.compile(r"\n?\s*Choices:\s*\n?(?=\(?A\s*[:.)])", re.IGNORECASE)
_LETTERED = re.compile(r"(?:^|\n)\s*\(?([A-H])\s*[:.)]\s*")


def find_picture(f: Fields) -> list[Any]:
    """Decoded pictures before paths, several before one."""
    for name in ("images", "decoded_image", "image"):
        if f.get(name) is not None:
            return wrap_in_list(f[name])
    return []


def lettered_choice(options: Sequence[Any], answer: str) -> Fields:
    return {"options": list(options), "answer": answer, "answer_type": "choice"}


def nth_option(options: Sequence[Any], place: Any) -> Fields:
    """A choice whose right option is given by its place, from 0."""
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(options):
        raise RowError("answer not among options", f"place {place!r} of {len(options)} options")
    return lettered_choice(options, ascii_uppercase[place])


def append_unit(question: str, unit: Any) -> str:
    return f"{question} (Unit: {unit})" if unit else question


def as_number(text: Any) -> float | None:
    try:
        return float(str(text).replace(",", ""))
    except ValueError:
        return None


def as_list(value: Any) -> list[Any]:
    """A list, or one written as text; a single text is a list of one."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return list(ast.literal_eval(value.strip()))
        except (ValueError, SyntaxError) as error:
            raise RowError("wrong type", f"{value:.60} is not a list: {error}") from error
    return wrap_in_list(value)


def split_choices(question: str) -> tuple[str, list[str]]:
    r"""Options written at the end of a question.

    >>> split_choices("Find x.\nChoices:\nA:20\nB:30")
    ('Find x.', ['20', '30'])
    """
    parts = _CHOICES.split(question, maxsplit=1)
    if len(parts) == 1:
        return question, []
    pieces = _LETTERED.split(parts[1])
    letters, options = pieces[1::2], [option.strip() for option in pieces[2::2]]
    if letters != list(ascii_uppercase[: len(letters)]) or not all(options):
        return question, []
    return parts[0].strip(), options


def select_mentioned(f: Fields, texts: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Select the pictures (image_1, image_2 ...) that the texts mention, and renumber the marks.

    Other pictures belong to explanations. Without marks in the texts all pictures are meant.
    """
    given = {n: f[f"image_{n}"] for n in NUMBERED if f.get(f"image_{n}") is not None}
    if not given:
        given = dict(enumerate(find_picture(f), 1))
    numbers = sorted({int(n) for text in texts for n in MARK.findall(text)})
    if not numbers:
        return list(given.values()), list(texts)
    absent = [n for n in numbers if n not in given]
    if absent:
        raise RowError("image marks", f"the text mentions image {absent[0]}, which is not there")
    new = {n: place for place, n in enumerate(numbers, 1)}
    renumbered = [MARK.sub(lambda m: f"<image{new[int(m[1])]}>", text) for text in texts]
    return [given[n] for n in numbers], renumbered
