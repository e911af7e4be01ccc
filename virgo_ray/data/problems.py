"""Problems in: rows of any reader become checked `Problem` records, or are refused.

Guarantees: every question and answer has text, ids are unique, every chosen picture decodes
completely, picture marks in the text agree with the pictures, and the choice depends on the seed
only. Train and held-out problems never share content (`refuse_overlap`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from virgo_ray.config import SourceConfig
from virgo_ray.data.images import check_image, image_hash
from virgo_ray.data.rows import (
    MAX_SHOWN,
    Fault,
    Row,
    RowError,
    as_text,
    content_id,
    describe,
    parse_rows,
    refuse,
    refuse_repeated,
    required_text,
    take,
    text_field,
)
from virgo_ray.data.sources import problem_rows
from virgo_ray.errors import DataError
from virgo_ray.records import AnswerType, Problem
from virgo_ray.verify.gold import check_gold

MARK = re.compile(r"<image(\d*)>")
LEADING_MARKS = re.compile(r"^(?:\s*<image\d*>)+\s*")
NUM_THREADS = 8  # decoding pictures releases the interpreter lock


def load_problems(source: SourceConfig, seed: int, cache_dir: Path) -> list[Problem]:
    """The problems of a source, `source.num` of them chosen by `seed`.

    They are chosen at random; in easyvqa in turn over kinds of questions and their answers.

    Raises:
        DataError: rows that cannot be used, by number; or fewer than `source.num`.
    """
    where = describe(source)
    parsed = parse_rows(problem_rows(source, seed, cache_dir), to_problem, where)
    refuse_repeated([(n, p.id) for n, p in parsed], len(parsed), where)
    chosen = take(parsed, source, seed, _easyvqa_strata if source.reader == "easyvqa" else _one)
    _refuse_unjudgeable(chosen, where)
    _refuse_broken_images(chosen, where)
    return [problem for _, problem in chosen]


def to_problem(row: Row) -> Problem:
    """Check the fields of one row; pictures are not opened here.

    Raises:
        RowError: a field is missing, empty, of the wrong type, or contradicts another.
    """
    images = _image_paths(row)
    question = _without_marks(required_text(row, "question"), len(images))
    answer = required_text(row, "answer")
    options = _options(row)
    answer_type = _answer_type(row)
    if answer_type is AnswerType.CHOICE:
        _check_choice(answer, options)
    context = text_field(row, "context")
    return Problem(
        id=text_field(row, "id") or content_id(question, context, answer, *map(_name, images)),
        question=question,
        answer=answer,
        images=images,
        source=text_field(row, "source") or "unknown",
        answer_type=answer_type,
        options=options,
        context=context,
    )


def refuse_overlap(train: Sequence[Problem], heldout: Sequence[Problem]) -> None:
    """Training on what is evaluated is an error: same question on the same pictures.

    Raises:
        DataError: naming the problems that are in both.
    """
    asked = {_text_key(p) for p in heldout}
    suspects = [p for p in train if _text_key(p) in asked]
    held = {_content_key(p): p for p in heldout} if suspects else {}
    shared = [(p.id, held[key].id) for p in suspects if (key := _content_key(p)) in held]
    if shared:
        pairs = ", ".join(f"{a!r} = {b!r}" for a, b in shared[:MAX_SHOWN])
        raise DataError(
            f"{len(shared)} problems are both in data.train and in data.heldout (same question, "
            f"same pictures), expected none: {pairs}; remove them from one of the two"
        )


def _text_key(problem: Problem) -> tuple[str, str]:
    return (" ".join(problem.question.split()).casefold(), problem.context)


def _content_key(problem: Problem) -> tuple[str, str, str]:
    return (*_text_key(problem), image_hash(problem.images))


# -- fields ----------------------------------------------------------------------------------------


def _image_paths(row: Row) -> tuple[str, ...]:
    value: Any = row.fields.get("images")
    if value is None:
        value = row.fields.get("image")
    listed = [] if value is None else value if isinstance(value, list | tuple) else [value]
    paths = []
    for image in listed:
        text = as_text(image, "images")
        if not text:
            raise RowError("image missing", f"images={value!r:.60} holds an empty path")
        paths.append(str(row.folder / Path(text).expanduser()))
    return tuple(paths)


def _name(path: str) -> str:
    return "/".join(Path(path).parts[-2:])  # the same wherever the data lie


def _without_marks(question: str, num_images: int) -> str:
    """Pictures come first in a prompt: leading `<image>` marks are dropped, and marks inside the
    text become "image 1", "image 2" where there are several.

    >>> _without_marks("<image>How many?", 1), _without_marks("<image>Is it in <image2>?", 2)
    ('How many?', 'Is it in image 2?')
    """
    numbers = [int(m) if m else i for i, m in enumerate(MARK.findall(question), 1)]
    if not numbers:
        return question
    if set(numbers) != set(range(1, num_images + 1)):
        raise RowError(
            "image marks", f"{len(numbers)} <image> marks in the question, {num_images} images"
        )
    body = LEADING_MARKS.sub("", question)
    inside = iter(numbers[len(numbers) - len(MARK.findall(body)) :])
    text = MARK.sub(lambda _: "" if num_images == 1 else f"image {next(inside)}", body).strip()
    if not text:
        raise RowError("empty question", "nothing but <image> marks")
    return text


def _options(row: Row) -> tuple[str, ...]:
    value: Any = row.fields.get("options")
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise RowError("wrong type", f"options={value!r:.60} is not a list")
    options = tuple(as_text(option, "options") for option in value)
    if not all(options):
        raise RowError("empty option", f"options={value!r:.60}")
    return options


def _answer_type(row: Row) -> AnswerType:
    name = text_field(row, "answer_type") or AnswerType.AUTO
    try:
        return AnswerType(name)
    except ValueError as error:
        known = ", ".join(AnswerType)
        raise RowError("unknown answer type", f"{name!r}, expected one of {known}") from error


def _check_choice(answer: str, options: tuple[str, ...]) -> None:
    letter = answer.strip("()").upper()
    num_letters = len(options) or 26
    is_letter = len(letter) == 1 and 0 <= ord(letter) - ord("A") < num_letters
    if not is_letter and answer not in options:
        raise RowError(
            "answer not among options", f"{answer!r} is neither a letter nor one of {options}"
        )


# -- choosing and pictures -------------------------------------------------------------------------


def _one(numbered: tuple[int, Problem]) -> tuple[Hashable, ...]:
    return ()


def _easyvqa_strata(numbered: tuple[int, Problem]) -> tuple[Hashable, ...]:
    """Colours, shapes, yes or no in turn; then every wording and answer: three in four say yes/no,
    and there "not" alone gives most answers away."""
    problem = numbered[1]
    is_yes_no = problem.answer_type is AnswerType.YES_NO
    return ("yes_no" if is_yes_no else problem.source, problem.source, problem.answer)


def _refuse_unjudgeable(chosen: Sequence[tuple[int, Problem]], where: str) -> None:
    """A gold answer that no response could match is found before any engine starts."""
    faults = []
    for number, problem in chosen:
        try:
            check_gold(problem)
        except DataError as error:
            faults.append(Fault(number, "gold answer", str(error)))
    refuse(faults, len(chosen), where)


def _refuse_broken_images(chosen: Sequence[tuple[int, Problem]], where: str) -> None:
    paths = list(dict.fromkeys(path for _, problem in chosen for path in problem.images))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        reasons = dict(zip(paths, pool.map(_image_fault, paths), strict=True))
    faults = [
        Fault(number, *reasons[path])
        for number, problem in chosen
        for path in problem.images
        if reasons[path]
    ]
    refuse(faults, len(chosen), where)


def _image_fault(path: str) -> tuple[str, str] | tuple[()]:
    """(kind, detail), or nothing for a picture that decodes."""
    if not Path(path).is_file():
        return ("image missing", f"{path} is not a file")
    try:
        check_image(path)
    except DataError as error:
        return ("image corrupt", str(error))
    return ()
