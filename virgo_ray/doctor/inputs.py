"""Whether a run could use its model, its data and its verifier: one of each is tried.

Nothing is written but to a temporary directory, and no weights are loaded. Of a model on the hub
only the small files are fetched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from PIL import Image

from virgo_ray.config import PartConfig, VerifyConfig
from virgo_ray.data.problems import to_problem
from virgo_ray.data.rows import Reading, Row, describe, parse_rows
from virgo_ray.data.seed_thoughts import to_seed_thought
from virgo_ray.data.sources import problem_rows, seed_thought_rows
from virgo_ray.doctor.findings import Check, Finding, not_checked, to_do, well
from virgo_ray.doctor.subject import Subject, is_hub_id, is_on_hub
from virgo_ray.errors import DataError, VirgoError
from virgo_ray.model.files import check_local, describe_model
from virgo_ray.model.images import load_image
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, SeedThought, Verdict
from virgo_ray.verify.__main__ import judge_items
from virgo_ray.verify.asking import check_verifier
from virgo_ray.verify.item import Item

R = TypeVar("R", Problem, SeedThought)
PICTURE = (320, 240)
ROWS_TRIED = 20  # of a source, until one can be used
WRONG_ANSWER = "nothing of the kind"
SAMPLE = Problem("sample", "How many squares are there?", "7")
MODEL_DEADLINE_S, DATA_DEADLINE_S, SAMPLE_DEADLINE_S = 120.0, 120.0, 60.0


def look_at_model(subject: Subject) -> Finding:
    assert subject.cfg is not None
    model = subject.cfg.model
    try:
        check_local(model.path)
        directory = describe_model(model.path, model.trust_remote_code)
    except VirgoError as error:
        return to_do(str(error))
    if is_hub_id(model.path):
        return not_checked(
            f"{model.path} is on the hub: a run fetches its weights at its start",
            f"fetch them with `hf download {model.path}`, and give the path it prints",
        )
    return well(f"{model.path}: config and whole weights in {directory}")


def look_at_template(subject: Subject) -> Finding:
    """Template, tokenizer and image processor, by a prompt with one picture."""
    assert subject.cfg is not None
    model = subject.cfg.model
    try:
        describe_model(model.path, model.trust_remote_code)
    except VirgoError:
        return not_checked("the files that describe the model are not here: see the line above")
    prompter = Prompter(model, subject.cfg.prompt)
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "grey.png")
        Image.new("RGB", PICTURE, (127, 127, 127)).save(path)
        try:
            prompter.check_model()
            num = prompter.num_prompt_tokens(Problem("p", "What is this?", "grey", images=(path,)))
            num_image = prompter.num_image_tokens(path)
        except VirgoError as error:
            return to_do(str(error), "mend its chat template, or choose another model")
    text = f"a picture of {PICTURE[0]}x{PICTURE[1]} takes {num_image} tokens, its prompt {num}"
    length, thought = model.max_length, subject.cfg.explore.sampling.max_tokens
    if num + thought > length:
        return to_do(
            f"{text}: {length - num} of model.max_length={length} are left for a thought, expected "
            f"explore.sampling.max_tokens={thought}",
            "raise model.max_length, lower max_tokens, or begin a run with smaller pictures",
        )
    return well(text)


def look_at_data(subject: Subject) -> Finding:
    """One row of each source is read, and its pictures are decoded."""
    assert subject.cfg is not None
    faults, read = [], []
    for key, part in subject.sources().items():
        if is_on_hub(part) and subject.is_hub_silent:  # its client would try again for minutes
            faults.append(f"{key}: the hub, which has {part.path}, does not answer")
            continue
        try:
            first_record(key, part, subject.cfg.seed)
            read.append(key)
        except (VirgoError, OSError) as error:
            faults.append(f"{key}: {error}")
    if faults:
        return to_do("\n".join(faults), "`virgo-ray inspect CONFIG` shows every bad row")
    return well(
        f"a row of each can be used: {', '.join(read)} (`virgo-ray inspect CONFIG` reads all)"
    )


def look_at_verifier(subject: Subject) -> Finding:
    """The gold answer of a problem is judged, and a wrong one."""
    cfg = subject.cfg.verify if subject.cfg is not None else VerifyConfig()
    cfg = cfg.model_copy(update={"second_opinions": (), "judge": None})
    problem = SAMPLE
    if subject.cfg is not None:
        try:
            check_verifier(cfg)
            key = next(key for key in subject.sources() if key.startswith("data.train"))
            problem = first_record(key, subject.sources()[key], subject.cfg.seed)
        except (VirgoError, OSError) as error:
            return not_checked(f"no sample to judge: {error}")
    items = [make_item(problem, answer, cfg) for answer in (problem.answer, WRONG_ANSWER)]
    return judge_verifier(problem, judge_items(items, cfg))


def judge_verifier(problem: Problem, verdicts: Sequence[Verdict]) -> Finding:
    """`verdicts` are those on the gold answer and on WRONG_ANSWER."""
    gold, wrong = verdicts
    named = f"{problem.id!r}, whose answer is {problem.answer!r}"
    if not gold.is_correct:
        return to_do(
            f"the gold answer of {named} was judged {gold.status} ({gold.reason or gold.rule})",
            "look at its answer_type, at verify.formats, and at verify.custom if it is set",
        )
    if wrong.is_correct:
        return to_do(
            f"{WRONG_ANSWER!r} was judged correct for {named}",
            "mend verify.custom: the model would learn from wrong answers",
        )
    return well(f"of {named}: the gold answer is correct, another one is {wrong.status}")


def make_item(problem: Problem, answer: str, cfg: VerifyConfig) -> Item:
    """An answer as a model would write it, in the first of the formats."""
    tags = cfg.formats[0]
    text = f"{tags.begin_thought}I look at it.{tags.end_thought}\n"
    text += f"{tags.begin_solution}{answer}{tags.end_solution}"
    return Item(
        gold=problem.answer,
        text=text,
        answer_type=problem.answer_type.value,
        options=problem.options,
        question=problem.question,
    )


def first_record(key: str, part: PartConfig, seed: int) -> Problem:
    """The problem of the first row that can be used; of seed thoughts the one they are about.

    Raises:
        DataError: no row can be used, or the source cannot be read.
    """
    with tempfile.TemporaryDirectory() as directory:
        small = part.model_copy(update=_limits(part))
        is_thought = key.startswith("data.seed_thoughts")
        rows = seed_thought_rows(small, seed) if is_thought else problem_rows(
            small, seed, Path(directory)
        )  # fmt: skip
        problem = _first_thought(rows) if is_thought else _first_problem(rows, part)
        for path in problem.images:
            load_image(path)
    return problem


def _limits(part: PartConfig) -> dict[str, int]:
    """What keeps a source from making or fetching more than is looked at."""
    if part.reader == "tiny":
        return {"num": 1}
    return {"max_rows": ROWS_TRIED} if is_on_hub(part) else {}


def _first_problem(rows: Iterator[Row], part: PartConfig) -> Problem:
    reading: Reading[Problem] = Reading(describe(part))
    parsed = parse_rows(islice(rows, ROWS_TRIED), partial(to_problem, part=part), reading)
    return _first(parsed, reading)


def _first_thought(rows: Iterator[Row]) -> Problem:
    reading: Reading[SeedThought] = Reading("")
    return _first(parse_rows(islice(rows, ROWS_TRIED), to_seed_thought, reading), reading).problem


def _first(parsed: Sequence[tuple[int, R]], reading: Reading[R]) -> R:
    if parsed:
        return parsed[0][1]
    why = reading.faults[0].detail if reading.faults else f"{reading.num_rows} rows were read"
    raise DataError(f"none of the first {ROWS_TRIED} rows can be used: {why}")


CHECKS = (Check("verifier", look_at_verifier, SAMPLE_DEADLINE_S),)
RUN_CHECKS = (
    Check("model", look_at_model, MODEL_DEADLINE_S),
    Check("template", look_at_template, MODEL_DEADLINE_S),
    Check("data", look_at_data, DATA_DEADLINE_S),
    Check("verifier", look_at_verifier, SAMPLE_DEADLINE_S + DATA_DEADLINE_S),
)
