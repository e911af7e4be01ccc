import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Image, List
from PIL import Image as Pillow
from strict_reading import load_problems

from virgo_ray.config import SourceConfig
from virgo_ray.data.problems import find_shared_pairs
from virgo_ray.errors import DataError
from virgo_ray.model.images import MAX_PIXELS, image_hash, image_size, load_image
from virgo_ray.records import AnswerType, Problem

DATA = Path(__file__).parents[1] / "data"


def picture(path, color="red", size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", size, color).save(path)
    return path


def write_jsonl(folder, rows):
    path = folder / "data.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def load(path, seed=0, cache=None, **fields):
    source = SourceConfig(reader="jsonl", path=str(path), **fields)
    return load_problems(source, seed, cache or path.parent / "cache")


def row(**fields):
    return {"question": "How many?", "answer": "2", **fields}


# -- what is read ----------------------------------------------------------------------------------


def test_a_row_of_published_data_becomes_a_problem(tmp_path):
    problems = load(DATA / "puzzlevqa" / "data.jsonl", cache=tmp_path)
    first = next(p for p in problems if p.id == "color_overlap_squares_0013")
    assert first.answer == "blue" and "blue" in first.options
    assert first.images == (str(DATA / "puzzlevqa/images/color_overlap_squares_0013.png"),)
    (numbers,) = (p.options for p in problems if p.answer.isdigit())
    assert numbers and all(isinstance(option, str) for option in numbers)


def test_all_fields_are_read(tmp_path):
    picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    fields = {
        "id": 7, "question": " <image>Which of <image>? ", "images": ["a.png", "b.png"],
        "answer": "B", "options": [1, "two"], "answer_type": "choice", "source": "zoo",
        "context": "Seen at noon.",
    }  # fmt: skip
    (problem,) = load(write_jsonl(tmp_path, [fields]))
    assert problem == Problem(
        id="7",
        question="Which of image 2?",
        answer="B",
        images=(str(tmp_path / "a.png"), str(tmp_path / "b.png")),
        source="zoo",
        answer_type=AnswerType.CHOICE,
        options=("1", "two"),
        context="Seen at noon.",
    )


def test_one_image_may_be_given_alone_and_its_mark_is_removed(tmp_path):
    picture(tmp_path / "a.png")
    (problem,) = load(write_jsonl(tmp_path, [row(image="a.png", question="<image>\nHow many?")]))
    assert problem.question == "How many?" and len(problem.images) == 1


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("<image>\n<image>\nAre they equal?", "Are they equal?"),
        ("<image><image>Is <image2> or <image1> larger?", "Is image 2 or image 1 larger?"),
        ("Is <image2> or <image1> larger?", "Is image 2 or image 1 larger?"),
        ("Is <image> or <image> larger?", "Is image 1 or image 2 larger?"),
        ("Is <image 2> or <image_1> larger?", "Is image 2 or image 1 larger?"),
        ("No marks at all?", "No marks at all?"),
    ],
)
def test_marks_of_several_images_become_words(tmp_path, question, expected):
    picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    path = write_jsonl(tmp_path, [row(images=["a.png", "b.png"], question=question)])
    assert load(path)[0].question == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What does <image 1> show?", "What does the image show?"),
        ("How many?\n<image1>", "How many?"),
        ("Look: <image1> How many?", "Look:  How many?"),
    ],
)
def test_a_mark_inside_a_question_on_one_image_leaves_a_sentence(tmp_path, question, expected):
    picture(tmp_path / "a.png")
    assert load(write_jsonl(tmp_path, [row(image="a.png", question=question)]))[0].question == (
        expected
    )


def test_marks_in_options_and_context_count_too(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    fields = row(
        images=["a.png", "b.png", "c.png"], question="Which continues it?", answer="B",
        context="<image 1>\nA row.", options=["<image 2>", "<image 3>"],
    )  # fmt: skip
    (problem,) = load(write_jsonl(tmp_path, [fields]))
    assert (problem.context, problem.options) == ("A row.", ("image 2", "image 3"))


def test_rows_of_other_splits_are_left_out(tmp_path):
    splits = {"a": {"split": "train"}, "b": {"split": "test"}, "c": {}}
    rows = [row(id=id, question=f"How many {id}?", **split) for id, split in splits.items()]
    path = write_jsonl(tmp_path, rows)
    assert [p.id for p in load(path)] == ["a", "c"]
    assert [p.id for p in load(path, split="test")] == ["b", "c"]


def test_ids_are_made_of_content_and_do_not_move_with_the_data(tmp_path):
    ids = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        picture(folder / "images" / "a.png")
        ids.append(load(write_jsonl(folder, [row(image="images/a.png")]))[0].id)
    assert ids[0] == ids[1]


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_dataset_on_disk_is_read_with_its_pictures(tmp_path, as_bytes):
    path = picture(tmp_path / "a.png", "blue")
    image = {"bytes": path.read_bytes(), "path": None} if as_bytes else str(path)
    rows = [row(id="x", images=[image])]
    data = Dataset.from_list(rows)
    if as_bytes:
        data = data.cast_column("images", List(Image()))
    DatasetDict(train=data).save_to_disk(tmp_path / "saved")
    source = SourceConfig(reader="dataset", path=str(tmp_path / "saved"))
    (problem,) = load_problems(source, 0, tmp_path / "cache")
    assert load_image(problem.images[0]).getpixel((0, 0)) == (0, 0, 255)
    assert load_problems(source, 0, tmp_path / "cache") == [problem]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (row(question=" "), "empty question"),
        (row(id="a#blank"), "reserved id"),
        (row(answer=None), "empty answer"),
        (row(question=["a"]), "wrong type"),
        (row(answer=["a"]), "wrong type"),
        (row(question="\ud800?"), "not Unicode"),
        (row(options="AB"), "wrong type"),
        (row(options=["a", ""]), "empty option"),
        (row(answer_type="colour"), "unknown answer type: 'colour', expected one of auto"),
        (row(answer_type="choice", options=["1", "3"]), "answer not among options"),
        (row(answer_type="choice", options=["1", "3"], answer="C"), "answer not among options"),
        (row(image="none.png"), "image missing"),
        (row(image=""), "image missing"),
        (row(image="bad.png"), "image corrupt"),
        (row(image="cut.png"), "image truncated"),
        (row(image="none-at-all.png"), "image missing"),
        (row(image="zero.png"), "image empty"),
        (row(image="moving.gif"), "image animated"),
        (row(image="https://example.org/a.png"), "image on a server"),
        (row(image="data:image/png;base64,@@@"), "image corrupt"),
        (row(image="ok.png", question="<image> and <image>?"), "image marks"),
        (row(question="<image2>?", image="ok.png"), "image marks"),
        (row(question="<image>?"), "image marks"),
        (row(question="<image>", image="ok.png"), "empty question"),
        ("{not json", "unreadable: not JSON"),
        ("[1]", "is not a JSON object"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_reason(tmp_path, broken, message):
    noise = Pillow.effect_noise((64, 64), 90)
    noise.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "zero.png").touch()
    frames = [Pillow.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    picture(tmp_path / "ok.png")
    path = write_jsonl(tmp_path, [row(id="fine", image="ok.png"), broken])
    with pytest.raises(DataError, match="1 of 2 rows cannot be used") as error:
        load(path)
    assert f"row 2: {message}" in str(error.value) or message in str(error.value)
    assert str(path) in str(error.value)


def test_an_image_that_may_be_an_attack_is_refused(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    Pillow.new("1", (side, side)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="pixels"):
        load(write_jsonl(tmp_path, [row(image="bomb.png")]))


def test_the_first_ten_faults_are_shown_and_all_are_counted(tmp_path):
    rows = (
        [row(id=str(i), question=f"How many {i}?") for i in range(5)]
        + [row(question="")] * 12
        + [row(answer="")] * 3
    )
    with pytest.raises(DataError) as error:
        load(write_jsonl(tmp_path, rows))
    text = str(error.value)
    assert "15 of 20 rows cannot be used (12 x empty question, 3 x empty answer)" in text
    assert text.count("\n  row ") == 10 and "... and 5 more" in text


def test_ids_that_occur_twice_are_refused(tmp_path):
    with pytest.raises(DataError, match="row 3: duplicate id: 'a' is also row 1"):
        load(write_jsonl(tmp_path, [row(id="a"), row(id="b"), row(id="a")]))


@pytest.mark.parametrize(
    ("answer", "message"),
    [("2", "duplicate question: same question and pictures as row 1"),
     ("3", "contradiction: answer '3', but '2' in row 1")],
)  # fmt: skip
def test_a_question_that_is_asked_twice_is_refused(tmp_path, answer, message):
    picture(tmp_path / "a.png"), picture(tmp_path / "copy.png")
    rows = [row(id="a", image="a.png"), row(id="b", image="copy.png", answer=answer)]
    with pytest.raises(DataError, match=f"row 2: {message}"):
        load(write_jsonl(tmp_path, rows))


def test_the_same_row_twice_is_refused_also_without_ids(tmp_path):
    with pytest.raises(DataError, match="duplicate id"):
        load(write_jsonl(tmp_path, [row(), row()]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reader": "jsonl"}, "path=None does not exist"),
        ({"reader": "jsonl", "path": "/none.jsonl"}, "'/none.jsonl' does not exist"),
        ({"reader": "dataset", "path": "/"}, "no dataset"),
        ({"reader": "tiny"}, "`num`"),
        ({"reader": "tiny", "num": 1, "split": "dev"}, "no split 'dev'; expected one of train"),
        ({"reader": "easyvqa", "num": 1, "split": "dev"}, "no split 'dev'"),
    ],
)
def test_a_source_that_is_not_there_is_refused(tmp_path, fields, message):
    with pytest.raises(DataError, match=message):
        load_problems(SourceConfig(**fields), 0, tmp_path)


def test_a_missing_split_of_a_dataset_names_those_there_are(tmp_path):
    DatasetDict(train=Dataset.from_list([row()])).save_to_disk(tmp_path / "saved")
    source = SourceConfig(reader="dataset", path=str(tmp_path / "saved"), split="dev")
    with pytest.raises(DataError, match=r"has splits \['train'\], not 'dev'"):
        load_problems(source, 0, tmp_path)


def test_an_empty_source_and_one_that_is_too_small_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no rows"):
        load(write_jsonl(tmp_path, []))
    with pytest.raises(DataError, match="holds 1 usable rows, num=2"):
        load(write_jsonl(tmp_path, [row()]), num=2)


# -- what is chosen --------------------------------------------------------------------------------


def test_the_choice_depends_on_the_seed_only(tmp_path):
    path = write_jsonl(tmp_path, [row(id=str(i), question=f"{i}?") for i in range(50)])
    chosen = load(path, num=20)
    assert chosen == load(path, num=20) != load(path, seed=1, num=20)
    assert load(path, num=30)[:20] == chosen
    assert len({p.id for p in chosen}) == 20


@pytest.fixture(scope="module")
def easyvqa(tmp_path_factory):
    """The train split in a small form; reading it takes seconds."""
    source = SourceConfig(reader="easyvqa", num=120, split="train")
    return load_problems(source, 0, tmp_path_factory.mktemp("cache"))


def test_easyvqa_is_balanced_over_kinds_of_questions_and_answers(easyvqa):
    types = Counter(p.answer_type for p in easyvqa)
    assert types == {AnswerType.YES_NO: 40, AnswerType.TEXT: 80}
    kinds = Counter(p.source for p in easyvqa)
    assert kinds == {
        "easyvqa/color": 40, "easyvqa/shape": 40, "easyvqa/presence": 20, "easyvqa/absence": 20,
    }  # fmt: skip
    answers = Counter(p.answer for p in easyvqa)
    assert answers["yes"] == answers["no"] == 20
    assert all(n >= 5 for n in answers.values())


def test_easyvqa_questions_agree_with_their_kind(easyvqa):
    for p in easyvqa:
        negated = {"no", "not"} & set(p.question.split())
        kind = p.source.removeprefix("easyvqa/")
        assert (kind == "absence") == bool(negated), p.question
        assert (kind in ("color", "shape")) == p.question.startswith("what"), p.question
        colors = {"red", "green", "blue", "yellow", "black", "gray", "teal", "brown"}
        assert (kind == "color") == (p.answer in colors), p.question


def test_tiny_and_easyvqa_train_and_heldout_do_not_overlap(tmp_path, easyvqa):
    tiny, heldout, other = (
        load_problems(SourceConfig(reader=reader, num=60, split=split), 0, tmp_path)
        for reader, split in (("tiny", "train"), ("tiny", "heldout"), ("easyvqa", "heldout"))
    )
    assert not find_shared_pairs(tiny, heldout) and not find_shared_pairs(easyvqa, other)


# -- overlap and images ----------------------------------------------------------------------------


def test_what_is_trained_and_evaluated_is_found_whatever_names_it_has(tmp_path):
    for name, color in (("a", "red"), ("copy", "red"), ("other", "blue")):
        picture(tmp_path / f"{name}.png", color)

    def problem(id, name, question="How many?"):
        return Problem(id, question, "2", (str(tmp_path / f"{name}.png"),))

    heldout = [problem("h", "a")]
    others = [problem("h", "other"), problem("t", "a", "What colour?")]
    assert find_shared_pairs(others, heldout) == []
    assert find_shared_pairs([*others, problem("t", "copy", "how  many?")], heldout) == [(2, 0)]


def test_images_are_known_by_their_bytes_and_order(tmp_path):
    a, b = (str(picture(tmp_path / f"{c}.png", c)) for c in ("red", "blue"))
    assert image_hash(()) == ""
    assert len({image_hash(p) for p in ((a,), (b,), (a, b), (b, a))}) == 4
    assert image_size(a) == (20, 10)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    name = "a.jpg" if mode == "CMYK" else "a.png"
    Pillow.new(mode, (8, 8)).save(tmp_path / name)
    assert load_image(str(tmp_path / name)).mode == "RGB"


def test_a_gold_answer_that_cannot_be_judged_is_refused_by_row(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [
        {"id": "a", "question": "How many?", "answer": "4"},
        {"id": "b", "question": "How many more?", "answer": "many", "answer_type": "number"},
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows))
    with pytest.raises(DataError, match=r"gold answer"):
        load_problems(SourceConfig(reader="jsonl", path=str(path)), 0, tmp_path)
