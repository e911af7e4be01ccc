"""Problems in: rows of any reader become checked `Problem` records, or faults by row number.

Guarantees of what is taken: question and answer have text, ids are unique, every picture decodes
completely, picture marks agree with the pictures, the gold answer can be judged against, no
question stands there twice, and the choice depends on the seed only. `find_shared_pairs` finds what
training and held-out problems share; the ingest takes it out of training.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from virgo_ray.config import PartConfig, SourceConfig, VerifyConfig
from virgo_ray.config.escapes import find_command
from virgo_ray.data.gallery.gallery import Gallery
from virgo_ray.data.golds import ambiguous_places, check_choice, gold_answer
from virgo_ray.data.marks import remove_marks
from virgo_ray.data.pictures import wrap_in_list
from virgo_ray.data.rows import (
    Fault,
    Reading,
    Row,
    RowError,
    as_text,
    content_id,
    describe,
    drop_repeated,
    order_items,
    parse_rows,
    refuse_too_few,
    required_text,
    text_field,
)
from virgo_ray.data.sound_golds import SoundGolds
from virgo_ray.data.sources import problem_rows
from virgo_ray.model.blank import BLANK
from virgo_ray.model.images import image_hash
from virgo_ray.records import AnswerType, Problem
from virgo_ray.verify.answers.choice import same_option

Numbered = tuple[int, Problem]
Check = Callable[[Problem], None]  # raises RowError
HashOf = Callable[[tuple[str, ...]], str]  # of pictures, by their paths


def accept_all(problem: Problem) -> None:
    """Add no check to those made here."""


def read_problems(
    source: SourceConfig,
    seed: int,
    cache_dir: Path,
    gallery: Gallery | None = None,
    check: Check = accept_all,
    verify: VerifyConfig | None = None,
) -> list[Reading[Problem]]:
    """Read and check every part of a source; `gallery` then knows its pictures. Without one, a
    gallery of its own is made.

    `source.num` of them are chosen at random by `seed`; in easyvqa in turn over kinds of questions
    and their answers.
    `check` says whether the model can take a problem, by RowError if not; `verify` holds the limits
    for checking a gold answer, the defaults if it is None. Bad rows are replaced by
    further good ones until `num` is reached.

    Raises:
        DataError: a part cannot be read at all, or holds fewer than `num` usable rows.
    """
    parts = source.parts or (source,)
    with ExitStack() as stack:
        gallery = gallery or stack.enter_context(Gallery(cache_dir))
        golds = stack.enter_context(SoundGolds(cache_dir, verify))
        readings = [_read_part(part, seed, cache_dir, gallery, check, golds) for part in parts]
    first: dict[str, str] = {}
    for reading in readings:
        clashes = {
            i: Fault(number, "duplicate id", f"{problem.id!r} is also in {first[problem.id]}")
            for i, (number, problem) in enumerate(reading.taken)
            if problem.id in first
        }
        first.update((problem.id, reading.where) for problem in reading.records)
        reading.put_aside(clashes)
    return readings


def _read_part(
    part: PartConfig,
    seed: int,
    cache_dir: Path,
    gallery: Gallery,
    check: Check,
    golds: SoundGolds,
) -> Reading[Problem]:
    reading: Reading[Problem] = Reading(describe(part))
    parse = partial(to_problem, part=part)
    rows = gallery.progress.track("rows read", problem_rows(part, seed, cache_dir))
    parsed = parse_rows(rows, parse, reading)
    ambiguous = ambiguous_places(parsed, part)
    reading.faults += ambiguous.values()
    parsed = [numbered for i, numbered in enumerate(parsed) if i not in ambiguous]
    unique = drop_repeated(parsed, lambda problem: problem.id, reading)
    contradicting = contradictions(unique, gallery)
    reading.faults += contradicting.values()
    unique = [numbered for i, numbered in enumerate(unique) if i not in contradicting]
    ordered = order_items(
        unique, part, seed, _easyvqa_strata if part.reader == "easyvqa" else _single_stratum
    )
    reading.taken = list(_take_usable(ordered, part.num, reading, gallery, check, golds))
    reading.faults.sort(key=lambda fault: fault.row)
    refuse_too_few(reading, part.num)
    pictures = {path for problem in reading.records for path in problem.images}
    num_flat = sum(gallery.is_one_colour(path) for path in pictures)
    if num_flat:
        reading.notes["with a picture of one colour"] = num_flat
    return reading


def to_problem(row: Row, part: PartConfig | None = None) -> Problem:
    """Check the fields of one row of a source; pictures are not opened here.

    Raises:
        RowError: a field is missing, empty, of the wrong type, or contradicts another.
    """
    images = _image_paths(row)
    texts = (text_field(row, "context"), required_text(row, "question"), *_options(row))
    context, question, *options = remove_marks(texts, len(images))
    _refuse_escapes(row)
    answer = gold_answer(row, options, part)
    answer_type = _answer_type(row)
    check_choice(answer, options, answer_type)
    names = row.fields.get("image_names") or map(_name, images)
    id = text_field(row, "id") or content_id(question, context, answer, *names)
    if id.endswith(BLANK):
        raise RowError(
            "reserved id", f"{id!r} ends with {BLANK!r}, which marks problems asked blank"
        )
    return Problem(
        id=id,
        question=question,
        answer=answer,
        images=images,
        source=text_field(row, "source") or "unknown",
        answer_type=answer_type,
        options=tuple(options),
        context=context,
        difficulty=text_field(row, "difficulty"),
    )


def find_shared_pairs(
    train: Sequence[Problem], heldout: Sequence[Problem], hash_of: HashOf = image_hash
) -> list[tuple[int, int]]:
    """(place in train, place in heldout) of the same question on the same pictures."""
    asked = {_text_key(p) for p in heldout}
    suspects = [i for i, p in enumerate(train) if _text_key(p) in asked]
    held = {_content_key(p, hash_of): j for j, p in enumerate(heldout)} if suspects else {}
    return [(i, held[key]) for i in suspects if (key := _content_key(train[i], hash_of)) in held]


def _text_key(problem: Problem) -> tuple[str, str]:
    return (" ".join(problem.question.split()).casefold(), problem.context)


def _content_key(problem: Problem, hash_of: HashOf) -> tuple[str, str, str]:
    return (*_text_key(problem), hash_of(problem.images))


# -- fields ----------------------------------------------------------------------------------------


def _image_paths(row: Row) -> tuple[str, ...]:
    images: Any = row.fields.get("images")
    if images is None:
        images = row.fields.get("image")
    paths = [as_text(image, "images") for image in wrap_in_list(images)]
    if not all(paths):
        raise RowError("image missing", f"images={images!r:.60} holds an empty path")
    return tuple(str(row.folder / path) for path in paths)


def _refuse_escapes(row: Row) -> None:
    """
    Raises:
        RowError: a tab, newline or return stands for the head of a LaTeX command.
    """
    options: Any = row.fields.get("options")
    for name, values, is_mathematics in (
        ("context", row.fields.get("context"), False),
        ("question", row.fields.get("question"), False),
        ("options", options, True),
    ):
        for value in wrap_in_list(values):
            damage = find_command(value, is_mathematics) if isinstance(value, str) else ""
            if damage:
                raise RowError("control character", f"{name}={value!r:.60}: {damage}")


def _name(path: str) -> str:
    return "/".join(Path(path).parts[-2:])  # the same wherever the data lie


def _options(row: Row) -> tuple[str, ...]:
    value: Any = row.fields.get("options")
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise RowError("wrong type", f"options={value!r:.60} is not a list")
    options = tuple(as_text(option, "options") for option in value)
    if options and not (all(options) or (any(options) and row.fields.get("keeps_letters"))):
        raise RowError("empty option", f"options={value!r:.60}")
    return options


def _answer_type(row: Row) -> AnswerType:
    name = text_field(row, "answer_type") or AnswerType.AUTO
    try:
        return AnswerType(name)
    except ValueError as error:
        known = ", ".join(AnswerType)
        raise RowError("unknown answer type", f"{name!r}, expected one of {known}") from error


# -- choosing and checking -------------------------------------------------------------------------


def _single_stratum(numbered: Numbered) -> tuple[Hashable, ...]:
    return ()


def _easyvqa_strata(numbered: Numbered) -> tuple[Hashable, ...]:
    """Colours, shapes, yes or no in turn; then every wording and answer: three in four say yes/no,
    and there "not" alone gives most answers away."""
    problem = numbered[1]
    is_yes_no = problem.answer_type is AnswerType.YES_NO
    return ("yes_no" if is_yes_no else problem.source, problem.source, problem.answer)


def _take_usable(
    ordered: Sequence[Numbered],
    num: int | None,
    reading: Reading[Problem],
    gallery: Gallery,
    check: Check,
    golds: SoundGolds,
) -> Iterator[Numbered]:
    """Take the first `num` that pass every check; those before that fail become faults."""
    num_left = len(ordered) if num is None else num
    asked: dict[Hashable, Numbered] = {}
    place = 0
    while num_left and place < len(ordered):
        some = ordered[place : place + num_left]
        place += len(some)
        for numbered, fault in _check_each(some, asked, gallery, check, golds):
            if fault:
                reading.faults.append(fault)
            else:
                num_left -= 1
                yield numbered


def _check_each(
    some: Sequence[Numbered],
    asked: dict[Hashable, Numbered],
    gallery: Gallery,
    check: Check,
    golds: SoundGolds,
) -> Iterator[tuple[Numbered, Fault | None]]:
    """Each problem with its first fault; `asked` holds those of before."""
    gallery.examine(path for _, problem in some for path in problem.images)
    with gallery.progress.step("problems checked", len(some)) as count:
        for numbered, gold in golds.find_faults(some):
            fault = _gold_fault(numbered, gold) or _picture_fault(numbered, gallery)
            fault = fault or _check_fault(numbered, check)
            yield numbered, fault or _repetition_fault(numbered, asked, gallery)
            count()


def _gold_fault(numbered: Numbered, fault: str) -> Fault | None:
    """A gold answer that no response could match is found before any engine starts."""
    number, problem = numbered
    return Fault(number, "gold answer", f"problem {problem.id!r}: {fault}") if fault else None


def _check_fault(numbered: Numbered, check: Check) -> Fault | None:
    try:
        check(numbered[1])
    except RowError as error:
        return Fault(numbered[0], error.kind, error.detail)
    return None


def _picture_fault(numbered: Numbered, gallery: Gallery) -> Fault | None:
    number, problem = numbered
    faults = (gallery.fault(path) for path in problem.images)
    return next((Fault(number, found.kind, found.detail) for found in faults if found), None)


def contradictions(numbered: Sequence[Numbered], gallery: Gallery) -> dict[int, Fault]:
    """Faults, by place, of rows with the same question and pictures and another gold answer: nobody
    knows which of them is right."""
    groups: dict[Hashable, list[int]] = {}
    for i, (_, problem) in enumerate(numbered):
        groups.setdefault((*_text_key(problem), problem.options), []).append(i)
    suspicious = [
        [(i, *numbered[i]) for i in places]
        for places in groups.values()
        if len({numbered[i][1].answer for i in places}) > 1
    ]
    gallery.hash(path for group in suspicious for _, _, p in group for path in p.images)
    faults: dict[int, Fault] = {}
    for group in suspicious:
        faults |= _contradictions_among(group, gallery)
    return faults


def _contradictions_among(
    suspects: Sequence[tuple[int, int, Problem]], gallery: Gallery
) -> dict[int, Fault]:
    """Of (place, row, problem) that have one question; pictures are compared by content."""
    by_pictures: dict[str, list[tuple[int, int, Problem]]] = {}
    for suspect in suspects:
        images = suspect[2].images
        if all(map(gallery.has_hash, images)):  # a missing one is found when it is opened
            by_pictures.setdefault(gallery.image_hash(images), []).append(suspect)
    faults = {}
    for same in by_pictures.values():
        for place, row, problem in same:
            other = next((o for o in same if not same_option(o[2].answer, problem.answer)), None)
            if other:
                detail = f"answer {problem.answer!r}, but {other[2].answer!r} in row {other[1]}"
                faults[place] = Fault(row, "contradiction", detail)
    return faults


def _repetition_fault(
    numbered: Numbered, asked: dict[Hashable, Numbered], gallery: Gallery
) -> Fault | None:
    number, problem = numbered
    key = (*_content_key(problem, gallery.image_hash), problem.options)
    if key not in asked:
        asked[key] = numbered
        return None
    row, _ = asked[key]
    return Fault(number, "duplicate question", f"same question and pictures as row {row}")
