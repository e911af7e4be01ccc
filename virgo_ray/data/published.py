"""Published data sets: a table of small adapters from their layouts to canonical fields.

Each takes a row as it is published (on the hub, or in the authors' repository) and yields the
problems in it: `id, question, images, answer, options, answer_type, source, context`. Rows that
cannot be judged by design (proofs, text-only variants) are left out and counted. Checks come later.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from virgo_ray.data.chat import tagged_answer
from virgo_ray.data.pictures import listed
from virgo_ray.data.rows import LeftOutError, Row, RowError

Fields = Mapping[str, Any]
MARK = re.compile(r"<image[ _]?(\d+)>")
NUMBERED = range(1, 10)  # image_1 ... image_9
_CHOICES = re.compile(r"\n?\s*Choices:\s*\n?(?=\(?A\s*[:.)])", re.IGNORECASE)
_LETTERED = re.compile(r"(?:^|\n)\s*\(?([A-H])\s*[:.)]\s*")


# -- geometry --------------------------------------------------------------------------------------


def geometry3k(row: Row) -> Iterator[Fields]:
    """Hub (`images, problem, answer`) or the authors' directories with data.json and a diagram."""
    f = row.fields
    if "problem" in f:
        yield _with_answer_in_tags(f, "geometry3k")
        return
    yield {
        "id": f"geometry3k-{f['id']}",
        "question": f["problem_text"],
        "images": ["img_diagram.png"],
        **_lettered(f["choices"], f["answer"]),
        "source": "geometry3k",
    }


def geoqa(row: Row) -> Iterator[Fields]:
    """Hub (`image, problem, solution`) or GeoQA's own fields (`subject, choices, label`)."""
    f = row.fields
    if "problem" in f:
        yield _with_answer_in_tags(f, "geoqa")
        return
    yield _labelled(f, f["subject"], "geoqa")


def unigeo(row: Row) -> Iterator[Fields]:
    """UniGeo's own fields (`English_problem, choices, label`); its proofs have no answer."""
    f = row.fields
    if f.get("choices") is None and (f.get("proving_sequence") or f.get("target_sequence")):
        raise LeftOutError("a proof, without an answer")
    yield _labelled(f, f.get("English_problem") or f["problem"], "unigeo")


def _labelled(f: Fields, question: str, source: str) -> Fields:
    """A choice whose `label` is the place of the right option, from 0."""
    return {
        "id": f"{source}-{f['id']}" if f.get("id") is not None else None,
        "question": question,
        "images": _picture(f),
        **_nth(f["choices"], f["label"]),
        "source": source,
    }


def _with_answer_in_tags(f: Fields, source: str) -> Fields:
    """What the hub's training copies share: `problem`, and `solution` or `answer`."""
    answer = f.get("answer")
    return {
        "id": f.get("id"),
        "question": f["problem"],
        "images": _picture(f),
        "answer": tagged_answer(f["solution"] if answer in (None, "") else answer),
        "source": source,
    }


# -- tables, charts, figures, scenes ---------------------------------------------------------------


def tabmwp(row: Row) -> Iterator[Fields]:
    """problems_*.json by id; pictures are tables/ID.png beside it."""
    f = row.fields
    kind = str(f.get("ans_type"))
    yield {
        "id": f"tabmwp-{f['id']}",
        "question": _with_unit(f["question"], f.get("unit")),
        "images": _picture(f) or [f"tables/{f['id']}.png"],
        "answer": f["answer"],
        "options": f.get("choices"),
        "answer_type": "choice" if f.get("choices") else "number" if "number" in kind else None,
        "source": "tabmwp",
    }


def chartqa(row: Row) -> Iterator[Fields]:
    """Authors' list (`imgname, query, label`; pictures in png/), or the hub's copies.

    Numbers may be off by 5 %, as its authors score them; years (1900 to 2100) may not.
    """
    f = row.fields
    answer = f.get("label", f.get("answer"))
    answer = str(listed(answer)[0]) if listed(answer) else ""
    number = _number(answer.rstrip("%"))
    is_year = number is not None and number.is_integer() and 1900 <= number <= 2100
    yield {
        "id": f.get("id"),
        "question": f.get("query") or f["question"],
        "images": [f"png/{f['imgname']}"] if "imgname" in f else _picture(f),
        "answer": answer if number is None or is_year else f"{answer} (tolerance 5%)",
        "answer_type": "number" if number is not None else None,
        "source": "chartqa",
    }


def figureqa(row: Row) -> Iterator[Fields]:
    """qa_pairs.json (pictures in png/), or the hub's one row a picture with its list `qa`."""
    f = row.fields
    pairs = [(f["question_string"], f["answer"])] if "question_string" in f else [
        (pair["question"], pair["answer"]) for pair in f["qa"]
    ]  # fmt: skip
    images = [f"png/{f['image_index']}.png"] if "image_index" in f else _picture(f)
    for place, (question, answer) in enumerate(pairs):
        yes = str(answer).strip(" .").lower() in ("1", "yes", "true")
        yield {
            "id": f"figureqa-{row.number}-{place}",
            "question": question,
            "images": images,
            "answer": "yes" if yes else "no",
            "answer_type": "yes_no",
            "source": "figureqa",
        }


def clevr(row: Row) -> Iterator[Fields]:
    """CLEVR_*_questions.json (pictures in ../images/SPLIT/), or the hub's training copies."""
    f = row.fields
    if "problem" in f:
        yield _with_answer_in_tags(f, "clevr")
        return
    name = f.get("image_filename")
    answer = str(f["answer"])
    kind = "yes_no" if answer in ("yes", "no") else "number" if answer.isdigit() else "text"
    yield {
        "id": f"clevr-{f.get('split', '')}-{f.get('question_index', row.number)}",
        "question": f["question"],
        "images": [f"../images/{f['split']}/{name}"] if name else _picture(f),
        "answer": answer,
        "answer_type": kind,
        "source": "clevr",
    }


# -- school questions ------------------------------------------------------------------------------


def iconqa(row: Row) -> Iterator[Fields]:
    """Directories with data.json, problems.json by id (pictures in iconqa/SPLIT/TYPE/ID/), or the
    hub's copy. Options that are pictures come after the question's picture."""
    f = row.fields
    choices = f.get("choices") or []
    if isinstance(choices, str):
        choices = choices.split(",")
    prefix = _iconqa_folder(f, row)
    images = listed(f.get("query_image") or _picture(f) or f"{prefix}image.png")
    answer = f.get("answer")
    if isinstance(answer, int) and choices:
        answer = choices[answer]
    options = choices
    if choices and all(str(choice).endswith(".png") for choice in choices):
        drawn = [f.get(f"choice_image_{i}") for i in range(len(choices))]
        images += [
            image if image is not None else f"{prefix}{choice}"
            for image, choice in zip(drawn, choices, strict=True)
        ]
        options = [f"image {i + 2}" for i in range(len(choices))]
        answer = ascii_uppercase[choices.index(str(answer))]
    yield {
        "id": f"iconqa-{f.get('question_id') or f['id']}",
        "question": f["question"],
        "images": images,
        "answer": answer,
        "options": options,
        "answer_type": "choice" if options else None,
        "source": "iconqa",
    }


def _iconqa_folder(f: Fields, row: Row) -> str:
    if (row.folder / "data.json").is_file() or "ques_type" not in f:
        return ""
    return f"iconqa/{f.get('split')}/{f['ques_type']}/{f.get('id')}/"


def scienceqa(row: Row) -> Iterator[Fields]:
    """problems.json by id (pictures in images/SPLIT/ID/), or the hub's copy; half have none."""
    f = row.fields
    image = f.get("image")
    if isinstance(image, str) and "/" not in image:
        image = f"images/{f['split']}/{f['id']}/{image}"
    yield {
        "id": f"scienceqa-{f['id']}" if "id" in f else None,
        "question": f["question"],
        "images": listed(image),
        "context": f.get("hint"),
        **_nth(f["choices"], f["answer"]),
        "source": f"scienceqa/{f.get('subject') or 'unknown'}",
    }


# -- benchmarks ------------------------------------------------------------------------------------


def mathvista(row: Row) -> Iterator[Fields]:
    """Hub, or testmini.json by pid; `precision` is how many decimals count."""
    f = row.fields
    choices, answer, kind = f.get("choices"), f.get("answer"), f.get("answer_type")
    types = {"integer": "number", "float": "number", "list": "list", "text": "text"}
    if kind == "float" and f.get("precision") is not None and answer:
        answer = f"{answer} ({int(f['precision'])} decimals)"
    yield {
        "id": f"mathvista-{f.get('pid') or f['id']}",
        "question": _with_unit(f["question"], f.get("unit")),
        "images": _picture(f),
        "answer": answer,
        "options": choices,
        "answer_type": "choice" if choices else types.get(str(kind)),
        "source": f"mathvista/{(f.get('metadata') or {}).get('source') or 'unknown'}",
    }


def mathverse(row: Row) -> Iterator[Fields]:
    """Hub, or testmini.json; the version without a picture is left out, as the paper does."""
    f = row.fields
    version = str(f.get("problem_version"))
    images = [image for image in _picture(f) if image != ""]
    if version.replace("_", " ").lower() == "text only" or not images:
        raise LeftOutError("the version Text Only, which has no picture")
    question, options = _split_choices(str(f.get("question") or ""))
    is_choice = f.get("question_type") == "multi-choice"
    yield {
        "id": f"mathverse-{f.get('sample_index') or f['id']}",
        "question": question or "Answer the question that is written in the picture.",
        "images": images,
        "answer": f["answer"],
        "options": options if is_choice else (),
        "answer_type": "choice" if is_choice else None,
        "source": f"mathverse/{version}",
    }


def mathvision(row: Row) -> Iterator[Fields]:
    """Hub, or test.jsonl; one picture holds everything that `<image1>`, `<image2>` stand for."""
    f = row.fields
    question, options = f["question"], [str(option) for option in f.get("options") or ()]
    if len(set(MARK.findall(" ".join([question, *options])))) > 1:
        question, *options = (MARK.sub(r"part \1 of the image", t) for t in (question, *options))
    else:
        question = MARK.sub("<image>", question, count=1)
        question = MARK.sub("the image", question)
    yield {
        "id": f"mathvision-{f['id']}",
        "question": question,
        "images": _picture(f),
        "answer": f["answer"],
        "options": options,
        "answer_type": "choice" if options else None,
        "source": f"mathvision/{f.get('subject') or 'unknown'}",
    }


def olympiadbench(row: Row) -> Iterator[Fields]:
    """Hub, or the authors' JSON; proofs and what needs a human judge are left out."""
    f = row.fields
    kind = str(f.get("answer_type"))
    answers = [str(answer) for answer in listed(f.get("final_answer")) if answer not in (None, "")]
    if not answers or "proof" in str(f.get("question_type")).lower():
        raise LeftOutError("a proof, without an answer")
    if kind == "Need_human_evaluate":
        raise LeftOutError("needs a human judge")
    answer = ", ".join(text.strip().strip("$") for text in answers)
    error = _number(f.get("error"))
    is_number = kind == "Numerical" and not f.get("is_multiple_answer") and len(answers) == 1
    if is_number and error:
        answer = f"{answer} (tolerance {f['error']})"
    context, question = f.get("context") or "", _with_unit(f["question"], f.get("unit"))
    images, (context, question) = _mentioned(f, [context, question])
    yield {
        "id": f"olympiadbench-{f.get('id') or f['question_id']}",
        "question": question,
        "context": context,
        "images": images,
        "answer": answer,
        "answer_type": "number" if is_number and error else None,
        "source": f"olympiadbench/{f.get('subject') or f.get('subfield') or 'unknown'}",
    }


def mmmu(row: Row) -> Iterator[Fields]:
    """Hub; options and open answers are Python lists written as text."""
    f = row.fields
    options = [str(option) for option in _as_list(f.get("options"))]
    images, (question, *options) = _mentioned(f, [f["question"], *options])
    answer = f["answer"]
    if answer == "?":
        raise RowError("empty answer", "the answers of this split are not published")
    if not options:
        accepted = [str(text) for text in _as_list(answer)]
        answer = accepted[0] if _number(accepted[0]) is not None else "|".join(accepted)
    yield {
        "id": f"mmmu-{f['id']}",
        "question": question,
        "images": images,
        "answer": answer,
        "options": options,
        "answer_type": "choice" if options else None,
        "source": f"mmmu/{f.get('subset') or f.get('subfield') or 'unknown'}",
    }


ADAPTERS: dict[str, Callable[[Row], Iterator[Fields]]] = {
    "geometry3k": geometry3k, "geoqa": geoqa, "unigeo": unigeo, "tabmwp": tabmwp,
    "chartqa": chartqa, "figureqa": figureqa, "clevr": clevr, "iconqa": iconqa,
    "scienceqa": scienceqa, "mathvista": mathvista, "mathverse": mathverse,
    "mathvision": mathvision, "olympiadbench": olympiadbench, "mmmu": mmmu,
}  # fmt: skip


# -- what layouts share ----------------------------------------------------------------------------


def _picture(f: Fields) -> list[Any]:
    """Decoded pictures before paths, several before one."""
    for name in ("images", "decoded_image", "image"):
        if f.get(name) is not None:
            return listed(f[name])
    return []


def _lettered(options: Sequence[Any], answer: str) -> Fields:
    return {"options": list(options), "answer": answer, "answer_type": "choice"}


def _nth(options: Sequence[Any], place: Any) -> Fields:
    """A choice whose right option is given by its place, from 0."""
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(options):
        raise RowError("answer not among options", f"place {place!r} of {len(options)} options")
    return _lettered(options, ascii_uppercase[place])


def _with_unit(question: str, unit: Any) -> str:
    return f"{question} (Unit: {unit})" if unit else question


def _number(text: Any) -> float | None:
    try:
        return float(str(text).replace(",", ""))
    except ValueError:
        return None


def _as_list(value: Any) -> list[Any]:
    """A list, or one written as text; a single text is a list of one."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return list(ast.literal_eval(value.strip()))
        except (ValueError, SyntaxError) as error:
            raise RowError("wrong type", f"{value:.60} is not a list: {error}") from error
    return listed(value)


def _split_choices(question: str) -> tuple[str, list[str]]:
    r"""Options written at the end of a question.

    >>> _split_choices("Find x.\nChoices:\nA:20\nB:30")
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


def _mentioned(f: Fields, texts: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Of image_1, image_2 ... those that the texts mention, and the texts with new numbers.

    Others belong to explanations. Without marks in the texts all of them are meant.
    """
    given = {n: f[f"image_{n}"] for n in NUMBERED if f.get(f"image_{n}") is not None}
    if not given:
        given = dict(enumerate(_picture(f), 1))
    numbers = sorted({int(n) for text in texts for n in MARK.findall(text)})
    if not numbers:
        return list(given.values()), list(texts)
    absent = [n for n in numbers if n not in given]
    if absent:
        raise RowError("image marks", f"the text mentions image {absent[0]}, which is not there")
    new = {n: place for place, n in enumerate(numbers, 1)}
    renumbered = [MARK.sub(lambda m: f"<image{new[int(m[1])]}>", text) for text in texts]
    return [given[n] for n in numbers], renumbered
