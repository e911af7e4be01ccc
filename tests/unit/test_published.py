"""Published layouts. No row here is a real one: all are written after the published schema, with
made-up content and pictures of one colour. Real samples are read in test_readers.py."""

import io
import json
from collections import Counter

import pytest
from datasets import Dataset, Image, List
from PIL import Image as Pillow

from virgo_ray.config import SourceConfig
from virgo_ray.data.problems import read_problems
from virgo_ray.errors import DataError
from virgo_ray.model.images import load_image

COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0)}


def png(color="red"):
    buffer = io.BytesIO()
    Pillow.new("RGB", (20, 10), color).save(buffer, "PNG")
    return buffer.getvalue()


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in content))
    else:
        path.write_text(json.dumps(content))
    return path


def on_hub(path, rows, **images):
    """Rows as a Parquet file of the hub; `images` names the columns of pictures ("list": many)."""
    data = Dataset.from_list(rows)
    for name, kind in images.items():
        data = data.cast_column(name, List(Image()) if kind == "list" else Image())
    path.mkdir(parents=True, exist_ok=True)
    data.to_parquet(path / "train-00000-of-00001.parquet")
    return path


def read(reader, path, **fields):
    source = SourceConfig(reader=reader, path=str(path), **fields)
    (reading,) = read_problems(source, 0, path.parent / "cache")
    return reading


def one(reader, path, **fields):
    (problem,) = read(reader, path, **fields).records
    return problem


def summary(problem):
    pixels = [load_image(path).getpixel((0, 0)) for path in problem.images]
    names = [next(name for name, rgb in COLORS.items() if rgb == pixel) for pixel in pixels]
    return (problem.question, problem.answer, problem.options, problem.answer_type.value, names)


IMAGE = {"bytes": png(), "path": None}


# -- geometry --------------------------------------------------------------------------------------


def test_geometry3k_of_its_authors(tmp_path):
    for place, id in enumerate(("10", "9")):
        folder = tmp_path / "train" / id
        save(folder / "img_diagram.png", png())
        fields = {
            "problem_text": f"Find x{place}.", "choices": ["1", "2", "3", "4"], "answer": "C",
            "data_type": "train", "compact_text": "", "precise_value": [1.0, 2.0, 3.0, 4.0],
        }  # fmt: skip
        save(folder / "data.json", fields)
    problems = read("geometry3k", tmp_path / "train").records
    assert [p.id for p in problems] == ["geometry3k-9", "geometry3k-10"]
    options = ("1", "2", "3", "4")
    assert summary(problems[0]) == ("Find x1.", "C", options, "choice", ["red"])


def test_geometry3k_of_the_hub(tmp_path):
    rows = [{"images": [IMAGE], "problem": "<image>Find x.", "answer": "3 \\sqrt { 2 }"}]
    path = on_hub(tmp_path / "hub", rows, images="list")
    assert summary(one("geometry3k", path)) == (
        "Find x.", "3 \\sqrt { 2 }", (), "auto", ["red"],
    )  # fmt: skip


def test_geoqa_of_the_hub_and_as_converted(tmp_path):
    rows = [{"image": IMAGE, "problem": "Angle B?", "solution": "<answer> 145° </answer>"}]
    assert summary(one("geoqa", on_hub(tmp_path / "hub", rows, image="one"))) == (
        "Angle B?", "145°", (), "auto", ["red"],
    )  # fmt: skip
    save(tmp_path / "1.png", png())
    fields = {
        "id": 1,
        "image": "1.png",
        "subject": "Angle B?",
        "choices": ["30°", "60°"],
        "label": 1,
    }
    path = save(tmp_path / "geoqa.jsonl", [fields])
    assert summary(one("geoqa", path)) == ("Angle B?", "B", ("30°", "60°"), "choice", ["red"])


def test_unigeo_without_its_proofs(tmp_path):
    save(tmp_path / "1.png", png())
    problem = {"id": 1, "image": "1.png", "English_problem": "Angle B?", "choices": [30, 60.5],
               "label": 0}  # fmt: skip
    proof = {"id": 2, "image": "1.png", "problem": "Prove it.", "proving_sequence": ["a"]}
    reading = read("unigeo", save(tmp_path / "unigeo.jsonl", [problem, proof]))
    assert summary(reading.records[0]) == ("Angle B?", "A", ("30", "60.5"), "choice", ["red"])
    assert reading.left_out == {"a proof, without an answer": 1}


# -- tables, charts, figures, scenes ---------------------------------------------------------------


def test_tabmwp(tmp_path):
    save(tmp_path / "tables" / "7.png", png()), save(tmp_path / "tables" / "8.png", png("blue"))
    common = {"table_title": "Prices", "table": "pen | $2", "ques_type": "free_text", "grade": 3}
    rows = {
        "7": {**common, "question": "What does it cost?", "choices": None, "answer": "1,320.50",
              "unit": "$", "ans_type": "decimal_number", "split": "train"},
        "8": {**common, "question": "Is it enough?", "choices": ["yes", "no"], "answer": "no",
              "unit": None, "ans_type": "boolean_text", "split": "train"},
        "9": {**common, "question": "?", "choices": None, "answer": "1", "split": "test"},
    }  # fmt: skip
    reading = read("tabmwp", save(tmp_path / "problems_train.json", rows))
    assert [summary(p) for p in reading.records] == [
        ("What does it cost? (Unit: $)", "1,320.50", (), "number", ["red"]),
        ("Is it enough?", "no", ("yes", "no"), "choice", ["blue"]),
    ]
    assert reading.left_out == {"of split 'test', not 'train'": 1}


def test_chartqa(tmp_path):
    save(tmp_path / "png" / "a.png", png())
    rows = [
        {"imgname": "a.png", "query": "Which year?", "label": "2014"},
        {"imgname": "a.png", "query": "How many?", "label": "0.57"},
        {"imgname": "a.png", "query": "Which colour?", "label": "Dark blue"},
    ]
    found = [summary(p)[:4] for p in read("chartqa", save(tmp_path / "human.json", rows)).records]
    assert found == [
        ("Which year?", "2014", (), "number"),
        ("How many?", "0.57 (tolerance 5%)", (), "number"),
        ("Which colour?", "Dark blue", (), "auto"),
    ]
    hub = [{"image": IMAGE, "query": "How many?", "label": ["14"], "human_or_machine": 0}]
    problem = one("chartqa", on_hub(tmp_path / "hub", hub, image="one"))
    assert problem.answer == "14 (tolerance 5%)" and len(problem.images) == 1


def test_figureqa(tmp_path):
    save(tmp_path / "png" / "0.png", png())
    pairs = [
        {"question_string": "Is red the minimum?", "answer": 0, "image_index": 0, "question_id": 1},
        {"question_string": "Is red the maximum?", "answer": 1, "image_index": 0, "question_id": 2},
    ]
    content = {"qa_pairs": pairs, "total_distinct_questions": 15}
    problems = read("figureqa", save(tmp_path / "qa_pairs.json", content)).records
    assert [p.answer for p in problems] == ["no", "yes"] and problems[0].answer_type == "yes_no"
    hub = [{"image": IMAGE, "qa": [{"question": "Is it?", "answer": "Yes."},
                                   {"question": "Is it not?", "answer": "No."}]}]  # fmt: skip
    problems = read("figureqa", on_hub(tmp_path / "hub", hub, image="one")).records
    assert [(p.question, p.answer) for p in problems] == [("Is it?", "yes"), ("Is it not?", "no")]
    assert len({p.id for p in problems}) == 2


def test_clevr(tmp_path):
    save(tmp_path / "images" / "train" / "CLEVR_train_000000.png", png())
    questions = [
        {"image_index": 0, "image_filename": "CLEVR_train_000000.png", "split": "train",
         "question_index": i, "question": f"How many things {i}?", "answer": answer, "program": []}
        for i, answer in enumerate(("3", "yes", "metal"))
    ]  # fmt: skip
    content = {"info": {"split": "train"}, "questions": questions}
    path = save(tmp_path / "questions" / "CLEVR_train_questions.json", content)
    problems = read("clevr", path).records
    assert [p.answer_type for p in problems] == ["number", "yes_no", "text"]
    assert summary(problems[0])[-1] == ["red"] and problems[0].id == "clevr-train-0"
    hub = [{"image": IMAGE, "problem": "How many?", "solution": "<answer> 4 </answer>"}]
    assert one("clevr", on_hub(tmp_path / "hub", hub, image="one")).answer == "4"


# -- school questions ------------------------------------------------------------------------------


def test_iconqa_of_its_authors(tmp_path):
    root = tmp_path / "iconqa" / "train"
    for kind, id, fields in (
        ("choose_img", "5", {"choices": ["choice_0.png", "choice_1.png"], "answer": 1}),
        ("choose_txt", "6", {"choices": ["3:00", "9:00"], "answer": 0}),
        ("fill_in_blank", "7", {"answer": "12"}),
    ):
        folder = root / kind / id
        for name, color in (("image", "red"), ("choice_0", "blue"), ("choice_1", "green")):
            save(folder / f"{name}.png", png(color))
        save(folder / "data.json", {"question": f"{kind}?", "ques_type": kind, **fields})
    expected = [
        ("choose_img?", "B", ("image 2", "image 3"), "choice", ["red", "blue", "green"]),
        ("choose_txt?", "3:00", ("3:00", "9:00"), "choice", ["red"]),
        ("fill_in_blank?", "12", (), "auto", ["red"]),
    ]
    assert [summary(p) for p in read("iconqa", root).records] == expected
    listing = {
        path.parent.name: {**json.loads(path.read_text()), "split": "train"}
        for path in sorted(root.rglob("data.json"))
    }
    path = save(tmp_path / "problems.json", listing)
    assert [summary(p) for p in read("iconqa", path).records] == expected


def test_iconqa_of_the_hub(tmp_path):
    rows = [{"question_id": "5", "question": "Which?", "choices": "choice_0.png,choice_1.png",
             "answer": "choice_1.png", "query_image": IMAGE, "ques_type": "choose_img",
             "choice_image_0": IMAGE, "choice_image_1": {"bytes": png("blue")}}]  # fmt: skip
    columns = dict.fromkeys(("query_image", "choice_image_0", "choice_image_1"), "one")
    problem = one("iconqa", on_hub(tmp_path / "hub", rows, **columns))
    assert summary(problem) == ("Which?", "B", ("image 2", "image 3"), "choice",
                                ["red", "red", "blue"])  # fmt: skip


def test_scienceqa(tmp_path):
    save(tmp_path / "images" / "train" / "4" / "image.png", png())
    common = {"choices": ["ice", "fire"], "answer": 0, "split": "train", "subject": "physics"}
    rows = {
        "4": {**common, "question": "Which is cold?", "hint": "Look.", "image": "image.png"},
        "5": {**common, "question": "Which is colder?", "hint": "", "image": None},
    }
    with_picture, without = read("scienceqa", save(tmp_path / "problems.json", rows)).records
    assert summary(with_picture) == ("Which is cold?", "A", ("ice", "fire"), "choice", ["red"])
    assert (with_picture.context, with_picture.source) == ("Look.", "scienceqa/physics")
    assert without.images == ()
    hub = [{k: v for k, v in {**rows["4"], "image": IMAGE}.items() if k != "split"}]
    assert summary(one("scienceqa", on_hub(tmp_path / "hub", hub, image="one"))) == summary(
        with_picture
    )


# -- benchmarks ------------------------------------------------------------------------------------


def test_mathvista(tmp_path):
    save(tmp_path / "images" / "1.jpg", png())
    common = {"image": "images/1.jpg", "metadata": {"source": "SciBench", "split": "testmini"}}
    rows = {
        "1": {**common, "question": "How long?", "choices": None, "unit": "m", "precision": 1.0,
              "answer": "1.2", "question_type": "free_form", "answer_type": "float"},
        "2": {**common, "question": "Which?", "choices": ["(A) 1", "(B) 2"], "answer": "(B) 2",
              "question_type": "multi_choice", "answer_type": "text", "precision": None},
        "3": {**common, "question": "Which two?", "choices": None, "answer": "[0, 4]",
              "question_type": "free_form", "answer_type": "list"},
    }  # fmt: skip
    problems = read("mathvista", save(tmp_path / "testmini.json", rows)).records
    assert [summary(p)[:4] for p in problems] == [
        ("How long? (Unit: m)", "1.2 (1 decimals)", (), "number"),
        ("Which?", "(B) 2", ("(A) 1", "(B) 2"), "choice"),
        ("Which two?", "[0, 4]", (), "list"),
    ]
    assert problems[0].source == "mathvista/SciBench"
    hub = [{"pid": "1", **rows["1"], "decoded_image": IMAGE}]
    assert one("mathvista", on_hub(tmp_path / "hub", hub, decoded_image="one")).id == "mathvista-1"


def test_mathverse(tmp_path):
    save(tmp_path / "1.png", png())
    rows = [
        {"sample_index": str(i), "problem_index": "1", "problem_version": version, "image": image,
         "question": question, "answer": "B", "question_type": "multi-choice", "metadata": {}}
        for i, (version, image, question) in enumerate([
            ("Text Dominant", "1.png", "Find x.\nChoices:\nA:20°\nB:30°\nC:40°\nD:50°"),
            ("Vision Only", "1.png", ""),
            ("Text_Only", "", "Find x."),
        ])
    ]  # fmt: skip
    reading = read("mathverse", save(tmp_path / "testmini.json", rows))
    dominant, only = reading.records
    assert summary(dominant) == ("Find x.", "B", ("20°", "30°", "40°", "50°"), "choice", ["red"])
    assert only.question.startswith("Answer the question that is written in the picture")
    assert sum(reading.left_out.values()) == 1


def test_mathvision_of_the_hub(tmp_path):
    rows = [{"id": "3", "question": "Which of <image1> fits <image2>?", "options": ["A", "B"],
             "image": "images/3.jpg", "decoded_image": IMAGE, "answer": "B", "solution": None,
             "level": 2, "subject": "logic"}]  # fmt: skip
    problem = one("mathvision", on_hub(tmp_path / "hub", rows, decoded_image="one"))
    assert summary(problem) == (
        "Which of part 1 of the image fits part 2 of the image?", "B", ("A", "B"), "choice",
        ["red"],
    )  # fmt: skip
    assert problem.difficulty == "level 2"


def olympiad(id, **fields):
    row = {
        "id": id, "question": f"Find x in <image_2> {id}.", "context": "See <image_1>.",
        "final_answer": ["$1.5$"], "image_1": IMAGE, "image_2": {"bytes": png("blue")},
        "image_3": IMAGE, "is_multiple_answer": False, "unit": None, "answer_type": "Numerical",
        "error": None, "question_type": "Open-ended", "subject": "Math", "subfield": "Geometry",
    }  # fmt: skip
    return {**row, **fields}


def test_olympiadbench(tmp_path):
    rows = [
        olympiad(1, unit="m", error="1e-1"),
        olympiad(2, final_answer=["-2", "3"], is_multiple_answer=True),
        olympiad(3, question_type="Theorem proof", final_answer=None),
        olympiad(4, answer_type="Need_human_evaluate"),
    ]
    columns = dict.fromkeys(("image_1", "image_2", "image_3"), "one")
    reading = read("olympiadbench", on_hub(tmp_path / "hub", rows, **columns))
    first, second = reading.records
    assert summary(first) == (
        "Find x in image 2 1. (Unit: m)", "1.5 (tolerance 1e-1)", (), "number", ["red", "blue"],
    )  # fmt: skip
    assert first.context == "See image 1." and second.answer == "-2, 3"
    assert reading.left_out == {"a proof, without an answer": 1, "needs a human judge": 1}


def mmmu(id, **fields):
    row = {
        "id": id, "question": f"Which of <image 1> fits {id}?", "options": "['<image 2>', 'None']",
        "answer": "A", "question_type": "multiple-choice", "subfield": "Art", "explanation": "",
        "image_1": IMAGE, "image_2": {"bytes": png("blue")}, "image_3": IMAGE,
    }  # fmt: skip
    return {**row, **fields}


def test_mmmu(tmp_path):
    rows = [
        mmmu("validation_Art_1"),
        mmmu("validation_Art_2", options="[]", answer="['1.06', '1.060']"),
        mmmu("validation_Art_3", options="[]", answer="['an oak', 'oak']"),
        mmmu("test_Art_4", answer="?"),
        mmmu("validation_Art_5", question="Which of <image 7>?"),
    ]
    columns = dict.fromkeys(("image_1", "image_2", "image_3"), "one")
    reading = read("mmmu", on_hub(tmp_path / "hub", rows, **columns))
    choice, number, words = reading.records
    assert summary(choice) == (
        "Which of image 1 fits validation_Art_1?", "A", ("image 2", "None"), "choice",
        ["red", "blue"],
    )  # fmt: skip
    assert (number.answer, words.answer) == ("1.06", "an oak|oak") and len(number.images) == 1
    assert Counter(f.kind for f in reading.faults) == {"empty answer": 1, "image marks": 1}


# -- what does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["geometry3k", "unigeo", "clevr", "iconqa", "mmmu", "tabmwp"])
def test_rows_of_another_layout_are_named_with_what_they_hold(tmp_path, reader):
    path = save(tmp_path / "d.jsonl", [{"text": "How many?", "label": "2"}])
    with pytest.raises(DataError, match=r"row 1: unreadable: not as its layout is published"):
        read(reader, path)


def test_a_label_beyond_the_options_is_named(tmp_path):
    fields = {"question": "?", "choices": ["a"], "answer": 1}
    with pytest.raises(DataError, match="place 1 of 1 options"):
        read("scienceqa", save(tmp_path / "d.jsonl", [fields]))
