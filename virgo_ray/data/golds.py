"""Gold answers of rows: texts, letters, or places of options, and what tells one from another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from virgo_ray.config import PartConfig
from virgo_ray.config.escapes import find_command
from virgo_ray.data.chat import tagged_answer
from virgo_ray.data.rows import Fault, Row, RowError, required_text
from virgo_ray.records import AnswerType, Problem
from virgo_ray.verify.answers.choice import chosen, letters_of, offered

INDEX_ADVICE = (
    "if it is the place of an option, say from where they are counted with `answer_index: 0` or "
    "`answer_index: 1`"
)


def gold_answer(row: Row, options: Sequence[str], part: PartConfig | None) -> str:
    """The gold answer of a row as text: out of `<answer>` tags, a letter for a place.

    Raises:
        RowError: none, or a place that no option has.
    """
    value: Any = tagged_answer(row.fields.get("answer"))
    if isinstance(value, list | tuple):
        raise RowError(
            "wrong type",
            f"answer={value!r:.60} is a list; if each of them is right alone, "
            "`fields: {answers: answer}` reads it, if all are wanted, write them as one text",
        )
    if isinstance(value, bool):
        value = _word_for(value, options)
    if isinstance(value, str) and (damage := find_command(value, is_mathematics=True)):
        raise RowError("control character", f"answer={value!r:.60}: {damage}")
    answer = required_text(Row(row.number, {**row.fields, "answer": value}), "answer")
    if part is None or part.answer_index is None or not options:
        return answer
    place = _as_place(answer)
    if place is None or not 0 <= place - part.answer_index < len(options):
        raise RowError(
            "answer not among options",
            f"answer={answer!r} is not the place of one of {len(options)} options, counted from "
            f"answer_index={part.answer_index}",
        )
    return ascii_uppercase[place - part.answer_index]


def check_choice(answer: str, options: Sequence[str], answer_type: AnswerType) -> None:
    """
    Raises:
        RowError: the gold answer of a choice is neither a letter nor the text of an option.
    """
    if answer_type is not AnswerType.CHOICE and (answer_type is not AnswerType.AUTO or not options):
        return
    several = letters_of(answer, is_compact=True)
    if chosen(answer, options) or (options and several and several <= set(offered(options))):
        return
    said = f"{answer!r} is neither a letter nor one of {tuple(options)}"
    place = _as_place(answer)
    hint = f"; {INDEX_ADVICE}" if place is not None and 0 <= place <= len(options) else ""
    raise RowError("answer not among options", said + hint)


def ambiguous_places(numbered: Sequence[tuple[int, Problem]], part: PartConfig) -> dict[int, Fault]:
    """Faults, by place, where the gold answers of a source may be texts of options or their places:
    all are whole numbers that could be places, and some name another option as a text."""
    choices = [(i, p) for i, (_, p) in enumerate(numbered) if p.options]
    if part.answer_text or part.answer_index is not None or not choices:
        return {}
    texts = [chosen(p.answer, p.options) for _, p in choices]
    counted = [[_letter_at(p, start) for _, p in choices] for start in (0, 1)]
    possible = [letters for letters in counted if all(letters)]
    if not possible or texts in possible:
        return {}
    said = f"it is an option's text and may be its place; {INDEX_ADVICE}, otherwise"
    return {
        i: Fault(
            numbered[i][0], "text or place", f"answer={p.answer!r}: {said} `answer_text: true`"
        )
        for i, p in choices
    }


def _letter_at(problem: Problem, start: int) -> str:
    """The letter of the option at the place that the gold answer names; empty if it names none."""
    place = _as_place(problem.answer)
    is_place = place is not None and 0 <= place - start < len(problem.options)
    return ascii_uppercase[place - start] if is_place and place is not None else ""


def _as_place(text: str) -> int | None:
    """A whole number of at most two digits."""
    return int(text) if re.fullmatch("[0-9]{1,2}", text) else None


def _word_for(value: bool, options: Sequence[str]) -> str:
    """How a truth value is written: as one of the options if it is there, otherwise yes or no."""
    words = ("yes", "true") if value else ("no", "false")
    return next((word for word in words if options and chosen(word, options)), words[0])
