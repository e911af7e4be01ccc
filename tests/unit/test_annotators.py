"""Questions that several people answered have one gold answer, and are counted."""

import json

import pytest
from data_parts import noise

from virgo_ray.config import SourceConfig, VerifyConfig
from virgo_ray.data.annotators import ACCEPTED, ANOTHER, SEVERAL
from virgo_ray.data.problems import read_problems
from virgo_ray.records import Rollout, Status
from virgo_ray.verify.verdict import judge


def read(tmp_path, rows, **source):
    noise(tmp_path / "a.png"), noise(tmp_path / "b.png")
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"image": "a.png", **row}) for row in rows))
    cfg = SourceConfig(reader="jsonl", path=str(path), **source)
    return read_problems(cfg, 0, tmp_path / "cache", {})[0]


def said(*texts):
    return [{"answer": t, "answer_confidence": "yes", "answer_id": i} for i, t in enumerate(texts)]


def status_of(problem, text):
    rollout = Rollout(problem, 0, f"So \\boxed{{{text}}}.", (1,), "stop", 0)
    return judge(problem, rollout, VerifyConfig()).status


VQA = {"question": "Which colour?", "question_id": 7, "image_id": 3, "question_type": "what"}


@pytest.mark.parametrize(
    ("fields", "gold", "note"),
    [({"answers": said("red", "blue"), "multiple_choice_answer": "blue", "answer_type": "other"},
      "blue", SEVERAL),
     ({"answers": said("no", "yes", "yes"), "multiple_choice_answer": "yes",
       "answer_type": "yes/no"}, "yes", SEVERAL),
     ({"answers": said("red", "blue", "blue")}, "red", SEVERAL),
     ({"answers": {"answer": ["red", "blue"], "answer_confidence": ["yes", "no"]}}, "red", SEVERAL),
     ({"answers": ["Dr. Pepper", "dr. pepper", "pepper"]}, "Dr. Pepper|pepper", ACCEPTED),
     ({"answers": ["1,500", "1500"]}, "1,500", ACCEPTED),
     ({"answers": [None], "multiple_choice_answer": "blue"}, "blue", None),
     ({"answers": ["Paris"]}, "Paris", None),
     ({"answers": ["x"], "answer": "Rome"}, "Rome", None)],
)  # fmt: skip
def test_a_list_of_answers_has_one_gold(tmp_path, fields, gold, note):
    reading = read(tmp_path, [{**VQA, **fields}])
    assert [p.answer for p in reading.records] == [gold]
    assert dict(reading.notes) == ({note: 1} if note else {})


@pytest.mark.parametrize(
    ("answers", "gold"),
    [([None, "a"], "a"), (["", "  ", "a", None, "b"], "a|b"), ([None, *said("red")], "red"),
     (said("", None, "red"), "red"), ([float("nan"), 0, "none"], "0|none")],
)  # fmt: skip
def test_an_empty_answer_is_no_accepted_one(tmp_path, answers, gold):
    reading = read(tmp_path, [{**VQA, "answers": answers}])
    assert [p.answer for p in reading.records] == [gold]


@pytest.mark.parametrize(
    ("answers", "kind", "told"),
    [(["a|b", "c"], "wrong type", "holds 'a|b', and '|' stands between"),
     ([["x"], ["y"]], "wrong type", "holds ['x']; expected texts or numbers: write one text"),
     ([["x"]], "wrong type", "holds ['x']; expected texts or numbers"),
     ([True, "no"], "wrong type", "holds True; expected texts or numbers"),
     ([None, ""], "empty answer", "expected text in 'answer'")],
)  # fmt: skip
def test_answers_that_cannot_be_a_gold_answer_make_a_bad_row(tmp_path, answers, kind, told):
    rows = [{**VQA, "answers": answers}, {"question": "And?", "answer": "1"}]
    reading = read(tmp_path, rows)
    (fault,) = reading.faults
    assert (fault.row, fault.kind) == (1, kind) and told in fault.detail
    assert [p.answer for p in reading.records] == ["1"]


def test_each_accepted_answer_is_right(tmp_path):
    (problem,) = read(tmp_path, [{**VQA, "answers": ["Dr. Pepper", "pepper"]}]).records
    for text, status in (("dr pepper", Status.CORRECT), ("Pepper", Status.CORRECT),
                         ("cola", Status.WRONG)):  # fmt: skip
        assert status_of(problem, text) is status, text


def test_a_list_in_the_answer_itself_is_refused_until_somebody_says_what_it_is(tmp_path):
    row = {"question": "Solve x^2 = x.", "answer": ["0", "1"]}
    good = {"question": "And?", "answer": "1"}
    (fault,) = read(tmp_path, [row, good]).faults
    assert fault.kind == "wrong type" and "`fields: {answers: answer}`" in fault.detail
    reading = read(tmp_path, [row], fields={"answers": "answer"})
    assert {status_of(reading.records[0], text) for text in ("0", "1")} == {Status.CORRECT}
    assert status_of(reading.records[0], "2") is Status.WRONG


@pytest.mark.parametrize("column", ["annotator", "annotator_id", "worker", "WorkerId", "rater_id"])
def test_of_several_annotators_the_first_wins_and_the_others_are_counted(tmp_path, column):
    rows = [{"id": "q1", "question": "Which state?", "answer": a, column: who}
            for who, a in enumerate(["Ohio", "Iowa", "Ohio"])]  # fmt: skip
    rows.append({"id": "q2", "question": "Which state?", "answer": "Utah", column: 1,
                 "image": "b.png"})  # fmt: skip
    reading = read(tmp_path, rows)
    assert [(p.id, p.answer) for p in reading.records] == [("q1", "Ohio"), ("q2", "Utah")]
    assert not reading.faults and dict(reading.left_out) == {ANOTHER: 2}
    assert reading.num_rows == 4


def test_one_annotator_who_contradicts_himself_is_a_contradiction(tmp_path):
    said = [("x", "Ohio"), ("y", "Utah"), ("x", "Iowa")]
    rows = [{"id": f"q{i}", "question": "Which state?", "answer": a, "annotator": who}
            for i, (who, a) in enumerate(said)]  # fmt: skip
    reading = read(tmp_path, [*rows, {"question": "?!", "answer": "1"}])
    assert [(f.row, f.kind) for f in reading.faults] == [(1, "contradiction"), (3, "contradiction")]
    assert dict(reading.left_out) == {ANOTHER: 1}
