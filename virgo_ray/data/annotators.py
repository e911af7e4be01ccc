"""Questions that several people answered: which of their answers is the gold one.

| layout | gold answer |
|---|---|
| `multiple_choice_answer` beside `answers` (VQAv2) | the one that the set itself names |
| `answers`, a list of objects with `answer` (VizWiz) | the first |
| `answers`, a list of texts (TextVQA, DocVQA) | each of them: they are accepted answers |
| a row each, told apart by `annotator`, `worker_id` and their like | that of the first row |

Empty answers in a list do not count; a row without any other has no gold answer. Each layout
is counted, in a note or by reason. Knows nothing of what an answer means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from virgo_ray.data.pictures import wrap_in_list
from virgo_ray.data.rows import Row

SEVERAL = "with answers of several annotators, of which one counts"
ACCEPTED = "with several accepted answers"
ANOTHER = "by another annotator: the first answer to a question counts"
SEPARATOR = "|"  # of the accepted answers in a gold answer
_WHO = re.compile(r"(?:annotator|worker|rater|labell?er)_?(?:id|name)?", re.IGNORECASE)


def with_gold_answer(row: Row) -> Row:
    """The row with a gold answer made of `answers`, where it has no answer of its own; a broken one
    where they cannot be a gold answer."""
    fields = row.fields
    answers = _listed(fields.get("answers"))
    named = fields.get("multiple_choice_answer")
    said = [a.get("answer") if isinstance(a, Mapping) else a for a in answers]
    said = [answer for answer in said if not _is_empty(answer)]
    has_none = not said and (not answers or _is_empty(named))
    if has_none or fields.get("answer") not in (None, ""):
        return row
    if named not in (None, "") or any(isinstance(a, Mapping) for a in answers):
        gold = {"answer": said[0] if named in (None, "") else named, "answer_type": None}
        note = SEVERAL if len(said) > 1 else ""
    else:
        distinct = _distinct(said)
        takes_all = len(distinct) > 1 and not fields.get("options")
        if fault := _fault(distinct, takes_all):
            return replace(row, fields={}, broken=fault, kind="wrong type")
        gold = _accepted(distinct, fields) if takes_all else {"answer": said[0]}
        note = ACCEPTED if len(said) > 1 else ""
    return replace(row, fields={**fields, **gold}, note=row.note or note)


def first_answers(rows: Iterator[Row]) -> Iterator[Row]:
    """Leave out what other annotators say of a question that was there before."""
    first: dict[int, str] = {}
    for row in rows:
        who = "" if row.broken or row.left_out else _annotator(row.fields)
        if who and first.setdefault(_item(row.fields), who) != who:
            yield Row(row.number, {}, left_out=ANOTHER)
        else:
            yield row


def _listed(answers: Any) -> list[Any]:
    """A list of answers; columns of Hugging Face hold one of objects as an object of lists."""
    if isinstance(answers, Mapping):
        return [{"answer": answer} for answer in wrap_in_list(answers.get("answer"))]
    return list(answers) if isinstance(answers, list | tuple) else []


def _is_empty(answer: Any) -> bool:
    """Nothing, blanks, or the NaN that tables put in empty cells."""
    return answer is None or answer != answer or (isinstance(answer, str) and not answer.strip())


def _distinct(said: list[Any]) -> list[Any]:
    """Each answer once; the first way to write it counts."""
    first: dict[str, Any] = {}
    for answer in said:
        first.setdefault(_number_or_text(answer), answer)
    return list(first.values())


def _fault(answers: list[Any], takes_all: bool) -> str:
    """Why these cannot be the gold answer, and what to do; empty where they can."""
    for answer in answers:
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            return (
                f"`answers` holds {answer!r:.60}; expected texts or numbers: write one text for "
                "each accepted answer, or give the row an `answer` of its own"
            )
        if takes_all and SEPARATOR in str(answer):
            return (
                f"`answers` holds {answer!r:.60}, and {SEPARATOR!r} stands between the accepted "
                f"answers of a gold answer; write it without {SEPARATOR!r}, or remove it from the "
                "list"
            )
    return ""


def _accepted(distinct: list[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Texts of which any will do: "NYC|New York"."""
    kind = fields.get("answer_type") or "text"
    return {"answer": SEPARATOR.join(map(str, distinct)), "answer_type": kind}


def _number_or_text(value: Any) -> str:
    """
    >>> _number_or_text("1,500") == _number_or_text(1500.0), _number_or_text(" NYC ")
    (True, 'nyc')
    """
    try:
        return str(float(str(value).replace(",", "")))
    except ValueError:
        return str(value).casefold().strip()


def _annotator(fields: Mapping[str, Any]) -> str:
    """Who gave the answer; empty where the row does not say."""
    return next(
        (str(value) for name, value in fields.items() if _WHO.fullmatch(name) and _is_name(value)),
        "",
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _item(fields: Mapping[str, Any]) -> int:
    """What was asked: the question on its pictures."""
    question = " ".join(str(fields.get("question")).split()).casefold()
    named = (fields.get("context"), fields.get("options"), fields.get("images"))
    return hash((question, *map(str, named)))
