"""Published sets that the paper and others train on, as their authors or the hub publish them.

Each adapter takes a row and yields the problems in it, in canonical fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_uppercase

from virgo_ray.data.chat import tagged_answer
from virgo_ray.data.pictures import wrap_in_list
from virgo_ray.data.published.layout import (
    Fields,
    append_unit,
    as_number,
    find_picture,
    lettered_choice,
    nth_option,
)
from virgo_ray.data.rows import LeftOutError, Row

# -- geometry --------------------------------------------------------------------------------------


def geometry3k(row: Row) -> Iterator[Fields]:
    """Hub (`images, problem, answer`) or the authors' directories with data.json and a diagram."""
    f = row.fields
    if "problem" in f:
        yield _hub_problem(f, "geometry3k")
        return
    yield {
        "id": f"geometry3k-{f['id']}",
        "question": f["problem_text"],
        "images": ["img_diagram.png"],
        **lettered_choice(f["choices"], f["answer"]),
        "source": "geometry3k",
    }


def geoqa(row: Row) -> Iterator[Fields]:
    """Hub (`image, problem, solution`) or GeoQA's own fields (`subject, choices, label`)."""
    f = row.fields
    if "problem" in f:
        yield _hub_problem(f, "geoqa")
        return
    yield _labelled_choice(f, f["subject"], "geoqa")


def unigeo(row: Row) -> Iterator[Fields]:
    """UniGeo's own fields (`English_problem, choices, label`); its proofs have no answer."""
    f = row.fields
    if f.get("choices") is None and (f.get("proving_sequence") or f.get("target_sequence")):
        raise LeftOutError("a proof, without an answer")
    yield _labelled_choice(f, f.get("English_problem") or f["problem"], "unigeo")


def _labelled_choice(f: Fields, question: str, source: str) -> Fields:
    """A choice whose `label` is the place of the right option, from 0."""
    return {
        "id": f"{source}-{f['id']}" if f.get("id") is not None else None,
        "question": question,
        "images": find_picture(f),
        **nth_option(f["choices"], f["label"]),
        "source": source,
    }


def _hub_problem(f: Fields, source: str) -> Fields:
    """What the hub's training copies share: `problem`, and `solution` or `answer`."""
    answer = f.get("answer")
    return {
        "id": f.get("id"),
        "question": f["problem"],
        "images": find_picture(f),
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
        "question": append_unit(f["question"], f.get("unit")),
        "images": find_picture(f) or [f"tables/{f['id']}.png"],
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
    answer = str(wrap_in_list(answer)[0]) if wrap_in_list(answer) else ""
    number = as_number(answer.rstrip("%"))
    is_year = number is not None and number.is_integer() and 1900 <= number <= 2100
    yield {
        "id": f.get("id"),
        "question": f.get("query") or f["question"],
        "images": [f"png/{f['imgname']}"] if "imgname" in f else find_picture(f),
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
    images = [f"png/{f['image_index']}.png"] if "image_index" in f else find_picture(f)
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
        yield _hub_problem(f, "clevr")
        return
    name = f.get("image_filename")
    answer = str(f["answer"])
    kind = "yes_no" if answer in ("yes", "no") else "number" if answer.isdigit() else "text"
    yield {
        "id": f"clevr-{f.get('split', '')}-{f.get('question_index', row.number)}",
        "question": f["question"],
        "images": [f"../images/{f['split']}/{name}"] if name else find_picture(f),
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
    images = wrap_in_list(f.get("query_image") or find_picture(f) or f"{prefix}image.png")
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
        "images": wrap_in_list(image),
        "context": f.get("hint"),
        **nth_option(f["choices"], f["answer"]),
        "source": f"scienceqa/{f.get('subject') or 'unknown'}",
    }
