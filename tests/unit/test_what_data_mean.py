"""What goes in means what its owner meant, or is refused by name."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_parts import config, noise
from PIL import Image

from virgo_ray.config import SeedThoughtsConfig, SourceConfig
from virgo_ray.data.ingest import read_data, survey
from virgo_ray.data.inspection import describe_intake
from virgo_ray.data.problems import read_problems
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.errors import DataError
from virgo_ray.model.prompts import Prompter, option_lines
from virgo_ray.verify.answers.choice import chosen_option


def read_rows(tmp_path, rows, **source):
    noise(tmp_path / "a.png")
    noise(tmp_path / "b.png")
    path = tmp_path / "rows.jsonl"
    lines = (r if isinstance(r, str) else json.dumps({"image": "a.png", **r}) for r in rows)
    path.write_text("\n".join(lines))
    cfg = SourceConfig(reader="jsonl", path=str(path), **source)
    (reading,) = read_problems(cfg, 0, tmp_path / "cache")
    return reading


def faults_of(tmp_path, rows, **source):
    """The faults of rows beside one that is good."""
    good = {"question": "How many squares are red?", "answer": "17", "image": "b.png"}
    reading = read_rows(tmp_path, [*rows, good], **source)
    assert reading.records[-1].question == good["question"]
    return reading.faults


# -- pictures that are not found by name -----------------------------------------------------------


def intake(cfg):
    return survey(cfg, Prompter(cfg.model, cfg.prompt))


@pytest.mark.parametrize("column", ["image_path", "img", "Image", "picture", "photo_file", "pic_1"])
def test_a_source_whose_pictures_have_another_name_is_refused_with_the_way_out(tmp_path, column):
    rows = [{"question": f"How many {n}?", "answer": "2", column: f"{n}.png"} for n in "ab"]
    with pytest.raises(DataError, match=rf"2 problems has a picture.*images: {column}"):
        intake(config(tmp_path, rows))
    named = config(tmp_path, rows, f"data.train.fields={{images: {column}}}")
    assert [len(p.images) for p in intake(named).problems] == [1, 1]


def test_a_source_without_pictures_says_that_it_has_none_on_purpose(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": "2"} for n in range(3)]
    with pytest.raises(DataError, match="text_only: true"):
        intake(config(tmp_path, rows))
    found = intake(config(tmp_path, rows, "data.train.text_only=true"))
    assert len(found.problems) == 3


def test_numbers_of_pictures_are_told_everywhere(tmp_path):
    rows = [{"question": "a?", "answer": "1", "images": ["a.png", "b.png"]},
            {"question": "b?", "answer": "1", "image": "b.png"},
            {"question": "c?", "answer": "1", "img": "a.png"}]  # fmt: skip
    Image.new("RGB", (40, 40), "red").save(tmp_path / "flat.png")
    rows.append({"question": "d?", "answer": "1", "image": "flat.png"})
    cfg = config(tmp_path, rows)
    page = describe_intake(intake(cfg))
    assert "pictures: 1 rows with 0, 2 rows with 1, 1 rows with 2" in page
    assert "note: 1 with a picture of one colour" in page and "images: img" in page
    data = read_data(cfg, Prompter(cfg.model, cfg.prompt))
    assert "4 rows, 1 with no picture, 2 with 1 picture, 1 with 2 pictures" in data.account[0]
    report = json.loads((tmp_path / "run" / "data" / "intake.json").read_text())
    assert report["sources"]["data.train"]["pictures"] == {"0": 1, "1": 2, "2": 1}


# -- gold answers that are places ------------------------------------------------------------------

OPTIONS = ["ant", "bee", "cow", "dog"]


@pytest.mark.parametrize(
    ("start", "answer", "right"),
    [(0, 2, "cow"), (0, "0", "ant"), (1, 2, "bee"), (1, "4", "dog"), (0, 3, "dog")],
)
def test_a_place_is_refused_until_somebody_says_from_where_it_counts(
    tmp_path, start, answer, right
):
    row = {"question": "Which one flies?", "options": OPTIONS, "answer": answer}
    (fault,) = faults_of(tmp_path, [row])
    assert fault.kind == "answer not among options" and "`answer_index: 1`" in fault.detail
    (problem,) = read_rows(tmp_path, [row], answer_index=start).records
    assert chosen_option(problem.answer, problem.options) == right


@pytest.mark.parametrize(("start", "answer"), [(0, 4), (1, 0), (1, 5), (0, "B")])
def test_a_place_that_no_option_has_is_refused(tmp_path, start, answer):
    row = {"question": "Which one flies?", "options": OPTIONS, "answer": answer}
    (fault,) = faults_of(tmp_path, [row], answer_index=start)
    assert "not the place of one of 4 options" in fault.detail


def test_numbers_that_may_be_texts_or_places_are_refused_until_somebody_says_which(tmp_path):
    rows = [{"question": "How many?", "options": ["1", "3", "0", "2"], "answer": "2"},
            {"question": "And here?", "options": ["2", "0", "3", "1"], "answer": "0"}]  # fmt: skip
    faults = faults_of(tmp_path, rows)
    assert {f.kind for f in faults} == {"text or place"} and "answer_text" in faults[0].detail
    texts = read_rows(tmp_path, rows, answer_text=True).records
    assert [chosen_option(p.answer, p.options) for p in texts] == ["2", "0"]
    places = read_rows(tmp_path, rows, answer_index=0).records
    assert [chosen_option(p.answer, p.options) for p in places] == ["0", "2"]


@pytest.mark.parametrize(
    ("options", "answer"),
    [(["2", "3", "4", "5"], "5"), (OPTIONS, "cow"), (OPTIONS, "(b)"), (OPTIONS, "A,C"),
     (["1", "2", "3"], "2"), (["Yes", "No"], True), (["false", "true"], False), (None, True)],
)  # fmt: skip
def test_what_is_clear_is_read(tmp_path, options, answer):
    row = {"question": "Which?", "options": options, "answer": answer}
    assert not faults_of(tmp_path, [row])


# -- escapes that were read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "text", "meant"),
    [("answer", "\frac{3}{4}", r"\\frac"), ("answer", "\theta", r"\\theta"),
     ("answer", "\nabla f", r"\\nabla"), ("answer", "\rho", r"\\rho"),
     ("answer", "3\times 4", r"\\times"), ("question", "Put it in \boxed{}.", r"\\boxed"),
     ("question", "What is $2\times 3$?", r"\\times"), ("question", "Let \\(\nu\\) be 1.", r"\\nu"),
     ("options", ["\rightarrow", "up"], r"\\rightarrow"), ("context", "a\x00b", "take it out")],
)  # fmt: skip
def test_an_escape_that_was_read_is_refused_with_what_was_meant(tmp_path, field, text, meant):
    row = {"question": "What?", "answer": "A" if field == "options" else "1", field: text}
    (fault,) = faults_of(tmp_path, [row])
    assert fault.kind == "control character" and meant.replace("\\\\", "\\") in fault.detail


@pytest.mark.parametrize(
    ("field", "text"),
    [("question", "A table:\r\n\ttotal\ttext\r\nWhat is missing?"), ("answer", "first\nno\ntwo"),
     ("question", "Costs $3\ntoday and $4\not later?"), ("context", "one\ntwo\n\ti\n\tii"),
     ("answer", "He pays 3 a day.\nu = 5\n#### 5")],
)  # fmt: skip
def test_tabs_and_lines_of_texts_are_none(tmp_path, field, text):
    assert not faults_of(tmp_path, [{"question": "What?", "answer": "1", field: text}])


# -- media that are not pictures, other marks, golds in tags ---------------------------------------


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({"videos": ["a.mp4"]}, "other media"), ({"audio": {"bytes": "x"}}, "other media"),
     ({"question": "<video>What happens?"}, "foreign mark"),
     ({"question": "<img>a.png</img> What is it?"}, "foreign mark"),
     ({"question": "![a plot](a.png) How high?"}, "foreign mark"),
     ({"question": "<image_placeholder>\nWhere?"}, "foreign mark"),
     ({"options": ["![](a.png)", "![](b.png)"], "answer": "A"}, "foreign mark")],
)  # fmt: skip
def test_other_media_and_marks_are_refused_by_row(tmp_path, fields, kind):
    (fault,) = faults_of(tmp_path, [{"question": "What?", "answer": "1", **fields}])
    assert fault.kind == kind


def test_gold_answers_come_out_of_their_tags_in_every_reader(tmp_path):
    rows = [{"question": "What?", "answer": "<think>hm</think><answer> 145 </answer>"}]
    assert read_rows(tmp_path, rows).records[0].answer == "145"


# -- rows that contradict each other ---------------------------------------------------------------


def test_of_rows_that_contradict_each_other_none_is_taken(tmp_path):
    rows = [{"id": i, "question": "Which state?", "answer": a}
            for i, a in enumerate(["Ohio", "Iowa"])]  # fmt: skip
    faults = faults_of(tmp_path, rows)
    assert [(f.row, f.kind) for f in faults] == [(1, "contradiction"), (2, "contradiction")]


@pytest.mark.parametrize(
    ("first", "second"),
    [({"answer": "0.5"}, {"answer": "1/2"}), ({"answer": "The cat"}, {"answer": "cat."})],
)
def test_golds_that_say_the_same_are_a_repetition_only(tmp_path, first, second):
    rows = [{"id": "1", "question": "What?", **first}, {"id": "2", "question": "What?", **second}]
    assert [(f.row, f.kind) for f in faults_of(tmp_path, rows)] == [(2, "duplicate question")]


def test_the_same_question_on_other_pictures_is_another(tmp_path):
    rows = [{"id": "1", "question": "What?", "answer": "a"},
            {"id": "2", "question": "What?", "answer": "b", "image": "b.png"}]  # fmt: skip
    assert not faults_of(tmp_path, rows)


# -- chats of several turns, columns of others -----------------------------------------------------

CHAT = [("How many cats?", "Two."), ("And dogs?", "One."), ("Which is larger?", "The dog.")]


def read_file(tmp_path, name, text, **source):
    noise(tmp_path / "a.png"), noise(tmp_path / "b.png")
    (tmp_path / name).write_text(text)
    cfg = SourceConfig(path=str(tmp_path / name), **source)
    return read_problems(cfg, 0, tmp_path / "cache")[0].records


def chat_file():
    messages = [{"role": role, "content": text} for pair in CHAT
                for role, text in zip(("user", "assistant"), pair, strict=True)]  # fmt: skip
    messages[0]["content"] = "<image>" + messages[0]["content"]
    messages[4]["content"] = "<image>" + messages[4]["content"]
    return json.dumps({"id": "c", "messages": messages, "images": ["a.png", "b.png"]})


def test_a_chat_of_several_turns_says_how_it_can_be_read(tmp_path):
    with pytest.raises(DataError, match="turns: last"):
        read_file(tmp_path, "chat.jsonl", chat_file(), reader="chat")


@pytest.mark.parametrize("turns", ["last", "each"])
def test_earlier_turns_are_the_context_of_a_question(tmp_path, turns):
    problems = read_file(tmp_path, "chat.jsonl", chat_file(), reader="chat", turns=turns)
    assert [p.id for p in problems] == (["c-3"] if turns == "last" else ["c-1", "c-2", "c-3"])
    last = problems[-1]
    assert (last.answer, len(last.images)) == ("The dog.", 2)
    assert last.context.splitlines()[1:] == [
        "assistant: Two.",
        "user: And dogs?",
        "assistant: One.",
    ]
    if turns == "each":
        assert [(p.answer, len(p.images)) for p in problems[:2]] == [("Two.", 1), ("One.", 1)]


def test_a_thought_in_a_part_of_its_own_is_read(tmp_path):
    parts = [{"type": "reasoning", "text": "3 + 4 = 7"}, {"type": "text", "text": "\\boxed{7}"}]
    chat = {"messages": [{"role": "user", "content": "3 + 4?"},
                         {"role": "assistant", "content": parts}]}  # fmt: skip
    (tmp_path / "t.jsonl").write_text(json.dumps(chat))
    cfg = SeedThoughtsConfig(reader="chat", path=str(tmp_path / "t.jsonl"))
    (thought,) = read_seed_thoughts(cfg, 0)[0].records
    assert "3 + 4 = 7" in thought.thought and thought.problem.question == "3 + 4?"


def test_alpaca_columns_are_a_chat(tmp_path):
    row = {"instruction": "How many cats?", "input": "Count well.", "output": "2",
           "images": ["a.png"], "history": [["Hello?", "Hello."]]}  # fmt: skip
    (problem,) = read_file(tmp_path, "d.json", json.dumps([row]), reader="chat", turns="last")
    assert (problem.question, problem.answer) == ("How many cats?\nCount well.", "2")
    assert problem.context == "user: Hello?\nassistant: Hello." and len(problem.images) == 1


def test_a_csv_is_a_table_of_problems(tmp_path):
    text = 'image,question,options,answer\na.png,"Which, please?","[""red"", ""blue""]",B\n'
    (problem,) = read_file(tmp_path, "d.csv", text, reader="csv")
    assert (problem.question, problem.options) == ("Which, please?", ("red", "blue"))


def test_a_directory_of_parquet_files_is_read_in_order(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    noise(folder / "a.png")
    for i in range(2):
        columns = {"question": [f"How many {i}?"], "answer": [str(i)], "image": ["a.png"]}
        pq.write_table(pa.table(columns), folder / f"{i}.parquet")
    cfg = SourceConfig(reader="parquet", path=str(folder))
    problems = read_problems(cfg, 0, tmp_path / "cache")[0].records
    assert [p.answer for p in problems] == ["0", "1"]


# -- tables with empty option cells ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "answer", "right"),
    [(["", "egg", "larva", "adult"], "D", "adult"), (["egg", "", "larva", ""], "C", "larva"),
     (["egg", "larva", "", ""], "B", "larva")],
)  # fmt: skip
def test_a_letter_keeps_its_column(tmp_path, cells, answer, right):
    noise(tmp_path / "a.png")
    table = "index\timage_path\tquestion\tA\tB\tC\tD\tanswer\n1\ta.png\tWhich?\t"
    text = table + "\t".join([*cells, answer]) + "\n"
    (problem,) = read_file(tmp_path, "t.tsv", text, reader="vlmevalkit")
    assert chosen_option(problem.answer, problem.options) == right
    lines = option_lines(problem.options)
    assert f"({answer}) {right}" in lines and len(lines) == len([c for c in cells if c])


def test_a_letter_of_an_empty_cell_is_no_answer(tmp_path):
    noise(tmp_path / "a.png")
    text = "index\timage_path\tquestion\tA\tB\tC\tanswer\n1\ta.png\tWhich?\tegg\t\tlarva\tB\n"
    with pytest.raises(DataError, match="neither a letter nor one of"):
        read_file(tmp_path, "t.tsv", text, reader="vlmevalkit")
