"""Published benchmarks, as their authors or the hub publish them.

Each adapter takes a row and yields the problems in it, in canonical fields. Rows that cannot be
judged by design (proofs, variants without a picture) are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from virgo_ray.data.pictures import wrap_in_list
from virgo_ray.data.published.layout import (
    MARK,
    Fields,
    append_unit,
    as_list,
    as_number,
    find_picture,
    select_mentioned,
    split_choices,
)
from virgo_ray.data.rows import LeftOutError, Row, RowError


def mathvista(row: Row) -> Iterator[Fields]:
    """Hub, or testmini.json by pid; `precision` is how many decimals count."""
    f = row.fields
    choices, answer, kind = f.get("choices"), f.get("answer"), f.get("answer_type")
    types = {"integer": "number", "float": "number", "list": "list", "text": "text"}
    if kind == "float" and f.get("precision") is not None and answer:
        answer = f"{answer} ({int(f['precision'])} decimals)"
    yield {
        "id": f"mathvista-{f.get('pid') or f['id']}",
        "question": append_unit(f["question"], f.get("unit")),
        "images": find_picture(f),
        "answer": answer,
        "options": choices,
        "answer_type": "choice" if choices else types.get(str(kind)),
        "source": f"mathvista/{(f.get('metadata') or {}).get('source') or 'unknown'}",
        "difficulty": (f.get("metadata") or {}).get("grade"),
    }


def mathverse(row: Row) -> Iterator[Fields]:
    """Hub, or testmini.json; the version without a picture is left out, as the paper does."""
    f = row.fields
    version = str(f.get("problem_version"))
    images = [image for image in find_picture(f) if image != ""]
    if version.replace("_", " ").lower() == "text only" or not images:
        raise LeftOutError("the version Text Only, which has no picture")
    question, options = split_choices(str(f.get("question") or ""))
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
        "images": find_picture(f),
        "answer": f["answer"],
        "options": options,
        "answer_type": "choice" if options else None,
        "source": f"mathvision/{f.get('subject') or 'unknown'}",
        "difficulty": f"level {f['level']}" if f.get("level") is not None else None,
    }


def olympiadbench(row: Row) -> Iterator[Fields]:
    """Hub, or the authors' JSON; proofs and what needs a human judge are left out."""
    f = row.fields
    kind = str(f.get("answer_type"))
    answers = [
        str(answer) for answer in wrap_in_list(f.get("final_answer")) if answer not in (None, "")
    ]
    if not answers or "proof" in str(f.get("question_type")).lower():
        raise LeftOutError("a proof, without an answer")
    if kind == "Need_human_evaluate":
        raise LeftOutError("needs a human judge")
    answer = ", ".join(text.strip().strip("$") for text in answers)
    error = as_number(f.get("error"))
    is_number = kind == "Numerical" and not f.get("is_multiple_answer") and len(answers) == 1
    if is_number and error:
        answer = f"{answer} (tolerance {f['error']})"
    context, question = f.get("context") or "", append_unit(f["question"], f.get("unit"))
    images, (context, question) = select_mentioned(f, [context, question])
    yield {
        "id": f"olympiadbench-{f.get('id') or f['question_id']}",
        "question": question,
        "context": context,
        "images": images,
        "answer": answer,
        "answer_type": "number" if is_number and error else None,
        "source": f"olympiadbench/{f.get('subject') or f.get('subfield') or 'unknown'}",
        "difficulty": f.get("difficulty"),
    }


def mmmu(row: Row) -> Iterator[Fields]:
    """Hub; options and open answers are Python lists written as text."""
    f = row.fields
    options = [str(option) for option in as_list(f.get("options"))]
    images, (question, *options) = select_mentioned(f, [f["question"], *options])
    answer = f["answer"]
    if answer == "?":
        raise RowError("empty answer", "the answers of this split are not published")
    if not options:
        accepted = [str(text) for text in as_list(answer)]
        answer = accepted[0] if as_number(accepted[0]) is not None else "|".join(accepted)
    yield {
        "id": f"mmmu-{f['id']}",
        "question": question,
        "images": images,
        "answer": answer,
        "options": options,
        "answer_type": "choice" if options else None,
        "source": f"mmmu/{f.get('subset') or f.get('subfield') or 'unknown'}",
        "difficulty": f.get("topic_difficulty"),
    }
