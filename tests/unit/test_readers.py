"""Readers of containers and chats; published sets are in test_published.py."""

import base64
import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pillow
from strict_reading import load_problems

from virgo_ray.config import SourceConfig, parse_config
from virgo_ray.data.problems import read_problems
from virgo_ray.data.sources import problem_rows
from virgo_ray.errors import ConfigError, DataError
from virgo_ray.model.images import load_image
from virgo_ray.records import AnswerType

DATA = Path(__file__).parents[1] / "data"
RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(color):
    buffer = io.BytesIO()
    Pillow.new("RGB", (20, 10), color).save(buffer, "PNG")
    return buffer.getvalue()


def load(path, reader="jsonl", **fields):
    source = SourceConfig(reader=reader, path=str(path), **fields)
    cache = Path(path).parent / "cache"
    return load_problems(source, 0, cache)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def color_of(problem, place=0):
    return load_image(problem.images[place]).getpixel((0, 0))


# -- real samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "file", "fields", "num", "first"),
    [
        ("jsonl", "puzzlevqa/data.jsonl", {"source": "category"}, 3, "blue"),
        ("jsonl", "algopuzzlevqa/data.jsonl", {"source": "category"}, 1, None),
        ("jsonl", "easyvqa/data.jsonl", {}, 2, None),
        ("jsonl", "logicvista/data.jsonl", {}, 1, None),
        ("mathvision", "mathv/data.jsonl", {}, 3, "B"),
        ("jsonl", "text_problems/gsm8k_train.jsonl", {}, 2, None),
        ("jsonl", "text_problems/math500.jsonl", {"source": "subject"}, 2, None),
    ],
)
def test_real_samples_are_read(tmp_path, reader, file, fields, num, first):
    source = SourceConfig(reader=reader, path=str(DATA / file), fields=fields)
    problems = load_problems(source, 0, tmp_path)
    assert len(problems) == num
    assert first is None or first in {p.answer for p in problems}
    assert all("<image" not in p.question for p in problems)
    assert all(len(p.images) == (0 if "text" in file else 1) for p in problems)
    for p in problems:
        for path in p.images:
            load_image(path)


BREAKS = {
    "empty question": lambda row, image: row.update(question=" "),
    "empty answer": lambda row, image: row.update(answer=None),
    "wrong type": lambda row, image: row.update(question=["?"]),
    "image marks": lambda row, image: row.update(image=None, question="<image1>" + row["question"]),
    "image missing": lambda row, image: image.unlink(),
    "image empty": lambda row, image: image.write_bytes(b""),
    "image corrupt": lambda row, image: image.write_bytes(b"<svg/>"),
    "image truncated": lambda row, image: image.write_bytes(image.read_bytes()[:-60]),
    "image enormous": lambda row, image: Pillow.new("1", (9500, 9500)).save(image, "PNG"),
    "image animated": lambda row, image: Pillow.new("L", (8, 8)).save(
        image, "GIF", save_all=True, append_images=[Pillow.new("L", (8, 8), 255)]
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.parametrize("name", ["puzzlevqa", "algopuzzlevqa", "easyvqa", "logicvista", "mathv"])
def test_broken_copies_of_real_samples_are_caught_by_row(tmp_path, name, kind):
    copy = shutil.copytree(DATA / name, tmp_path / name)
    rows = [json.loads(line) for line in (copy / "data.jsonl").read_text().splitlines()]
    broken = next(i for i, row in enumerate(rows) if row.get("split") in (None, "train"))
    BREAKS[kind](rows[broken], copy / rows[broken]["image"])
    source = {"reader": "jsonl", "path": str(write(copy / "data.jsonl", rows))}
    if name == "mathv":
        source["reader"] = "mathvision"
        if kind == "image marks":  # there all marks stand for the one picture
            pytest.skip("one picture holds what all marks stand for")
    named = "unreadable" if (name, kind) == ("mathv", "wrong type") else kind
    with pytest.raises(DataError, match=f"row {broken + 1}: {named}"):
        load_problems(SourceConfig(**source), 0, tmp_path)


def test_math_vision_has_one_picture_for_all_its_marks(tmp_path):
    source = SourceConfig(reader="mathvision", path=str(DATA / "mathv/data.jsonl"))
    problems = {p.id: p for p in load_problems(source, 0, tmp_path)}
    assert "no square part 1 of the image that is made" in problems["mathvision-526"].question
    assert problems["mathvision-748"].answer_type is AnswerType.CHOICE
    assert problems["mathvision-437"].question.endswith("can we then make?")


# -- field names -----------------------------------------------------------------------------------


def test_a_field_map_reads_other_names_without_code(tmp_path):
    (tmp_path / "a.png").write_bytes(png("red"))
    rows = [{"q": "How many?", "pics": ["a.png"], "meta": {"gold": "2", "set": "zoo"}, "id": 5,
             "question": "not this"}]  # fmt: skip
    names = {
        "question": "q", "images": "pics", "answer": "meta.gold", "source": "meta.set", "id": "",
    }  # fmt: skip
    (problem,) = load(write(tmp_path / "d.jsonl", rows), fields=names)
    assert (problem.question, problem.answer, problem.source) == ("How many?", "2", "zoo")
    assert problem.id != "5" and len(problem.images) == 1


def test_names_may_change_places(tmp_path):
    rows = [{"question": "2", "answer": "How many?"}]
    names = {"question": "answer", "answer": "question"}
    (problem,) = load(write(tmp_path / "d.jsonl", rows), fields=names)
    assert (problem.question, problem.answer) == ("How many?", "2")


def test_a_row_without_the_asked_for_name_says_which_it_has(tmp_path):
    path = write(tmp_path / "d.jsonl", [{"query": "How many?", "label": "2"}])
    with pytest.raises(DataError, match=r"empty question: .* it has query, label"):
        load(path)


def test_images_may_lie_elsewhere(tmp_path):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.png").write_bytes(png("red"))
    path = write(
        tmp_path / "notes" / "d.jsonl", [{"question": "?", "answer": "2", "image": "a.png"}]
    )
    assert color_of(load(path, image_dir=str(tmp_path / "pics"))[0]) == RED


# -- containers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        [{"id": "a", "question": "1?", "answer": "1"},
         {"id": "b", "question": "2?", "answer": "2"}],
        {"a": {"question": "1?", "answer": "1"}, "b": {"question": "2?", "answer": "2"}},
        {"info": {}, "rows": [{"id": "a", "question": "1?", "answer": "1"},
                              {"id": "b", "question": "2?", "answer": "2"}]},
    ],
)  # fmt: skip
def test_json_comes_in_three_forms(tmp_path, content):
    (tmp_path / "d.json").write_text(json.dumps(content))
    assert [p.id for p in load(tmp_path / "d.json", "json")] == ["a", "b"]


@pytest.mark.parametrize("reader", ["parquet", "hub", "dataset"])
def test_pictures_in_columns_are_written_once_as_files(tmp_path, reader):
    images = [{"bytes": png(color), "path": None} for color in ("red", "blue", "red")]
    rows = [
        {"query": f"{i}?", "answer": str(i), "image": image, "split": "what?"}
        for i, image in enumerate(images)
    ]
    data = Dataset.from_list(rows).cast_column("image", Image())
    if reader == "dataset":
        path = tmp_path / "saved"
        DatasetDict(train=data).save_to_disk(path)
    else:
        folder = tmp_path / "repository"
        folder.mkdir()
        data.remove_columns("split").to_parquet(folder / "train-00000-of-00001.parquet")
        path = folder if reader == "hub" else folder / "train-00000-of-00001.parquet"
    problems = load(path, reader, fields={"question": "query"})
    assert [color_of(p) for p in problems] == [RED, BLUE, RED]
    assert len(list((Path(path).parent / "cache" / "images").iterdir())) == 2


@pytest.mark.parametrize("max_rows", [None, 2])
def test_a_hub_set_is_read_by_configuration_and_split_and_may_be_streamed(tmp_path, max_rows):
    features = Features(
        {"question": Value("string"), "answer": Value("string"), "images": List(Image())}
    )
    for subset in ("art", "music"):
        rows = [
            {"question": f"{subset} {i}?", "answer": "1", "images": [{"bytes": png("red")}]}
            for i in range(3)
        ]
        (tmp_path / "set" / subset).mkdir(parents=True)
        Dataset.from_list(rows, features=features).to_parquet(
            tmp_path / "set" / subset / "test-0.parquet"
        )
    configs = "".join(
        f"- config_name: {s}\n  data_files:\n  - split: test\n    path: {s}/test-*\n"
        for s in ("art", "music")
    )
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    path = tmp_path / "set"
    assert len(load(path, "hub", split="test", subset="art", max_rows=max_rows)) == (max_rows or 3)
    both = load(path, "hub", split="test", subset=("art", "music"), max_rows=max_rows)
    assert len(both) == (max_rows or 6) and color_of(both[0]) == RED
    if max_rows is None:
        assert len(load(path, "hub", split="test", subset="*")) == 6
        with pytest.raises(DataError, match=r"could not be read .* check name, split, subset"):
            load(path, "hub", split="dev", subset="art")


def test_a_hub_that_cannot_be_reached_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"hub nobody/nothing .* give a local directory"):
        load_problems(SourceConfig(reader="hub", path="nobody/nothing"), 0, tmp_path)


def test_reading_stops_at_max_rows(tmp_path):
    rows = [{"question": f"{i}?", "answer": "1"} for i in range(9)]
    path = write(tmp_path / "d.jsonl", rows)
    assert [p.question for p in load(path, max_rows=2)] == ["0?", "1?"]
    source = SourceConfig(reader="jsonl", path=str(path), max_rows=2)
    assert len(list(problem_rows(source, 0, tmp_path))) == 2


def test_a_misspelt_file_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(DataError, match=r"'data/tarin\.jsonl' does not exist"):
        load_problems(SourceConfig(reader="chat", path="data/tarin.jsonl"), 0, tmp_path)


@pytest.mark.parametrize("name", ["train.pk", "data.pkl", "x.npy"])
def test_pickles_are_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match=r"pickle: opening it would run code .* Convert it"):
        load(tmp_path / name, "unigeo")


@pytest.mark.parametrize("name", ["d.json", "d.parquet"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(DataError, match=name):
        load(tmp_path / name, name.partition(".")[2])


# -- VLMEvalKit ------------------------------------------------------------------------------------


def tsv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_vlmevalkit_tables(tmp_path):
    red, blue = (base64.b64encode(png(color)).decode() for color in ("red", "blue"))
    question = {"question": "Which\nof two?", "A": "one", "B": "two", "answer": "B"}
    rows = [
        {"index": "0", "image": red, **question, "hint": "Look.", "category": "logic"},
        {"index": "1", "image": "0", **question, "C": "three"},
        {"index": "2", "image": str([red, blue]), "question": "How many?", "answer": "2"},
        {"index": "3", "image": blue, **question, "split": "test"},
    ]
    problems = load(tsv(tmp_path / "Toy.tsv", rows), "vlmevalkit")
    assert [p.id for p in problems] == ["Toy-0", "Toy-1", "Toy-2"]
    first, again, several = problems
    assert (first.context, first.source, first.options) == ("Look.", "Toy/logic", ("one", "two"))
    assert first.answer_type is AnswerType.CHOICE and first.question == "Which\nof two?"
    assert again.images == first.images and len(again.options) == 3
    assert (color_of(several, 0), color_of(several, 1)) == (RED, BLUE)


def test_vlmevalkit_rows_that_cannot_be_used_are_named(tmp_path):
    blue = base64.b64encode(png("blue")).decode()
    rows = [
        {"index": "0", "image": blue, "question": "?", "answer": "1"},
        {"index": "1", "image": "77", "question": "?", "answer": "1"},
        {"index": "2", "image": blue[:-9] + "!" * 9, "question": "?", "answer": "1"},
        {"index": "3", "image": blue, "question": "What?"},
        {"index": "4", "image": "[" + blue, "question": "?", "answer": "1"},
    ]
    source = SourceConfig(reader="vlmevalkit", path=str(tsv(tmp_path / "t.tsv", rows)))
    (reading,) = read_problems(source, 0, tmp_path / "cache")
    assert [f.row for f in reading.faults] == [2, 3, 4, 5] and len(reading.taken) == 1
    kinds = {f.row: f.kind for f in reading.faults}
    assert kinds[4] == "empty answer" and "not the index of a row" in reading.faults[0].detail


# -- chats -----------------------------------------------------------------------------------------


def url(color):
    return "data:image/png;base64," + base64.b64encode(png(color)).decode()


CHATS = {
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "2"},
        ],
        "image": "a.png",
    },
    "llama-factory": {
        "messages": [
            {"role": "user", "content": "<image>How many?"}, {"role": "assistant", "content": "2"},
        ],
        "images": ["a.png"],
    },
    "openai": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": url("red")}},
                {"type": "text", "text": "How many?"},
            ]},
            {"role": "assistant", "content": "2"},
        ],
    },
    "trl prompt and completion": {
        "prompt": [{"role": "user", "content": [
            {"type": "image"}, {"type": "text", "text": "How many?"}]}],
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": "2"}]}],
        "images": ["a.png"],
    },
    "trl with a reward": {
        "prompt": [{"role": "user", "content": "How many?"}],
        "image": "a.png", "solution": "<think>so</think><answer> 2 </answer>",
    },
}  # fmt: skip


@pytest.mark.parametrize("style", CHATS)
def test_chats_of_every_style(tmp_path, style):
    (tmp_path / "a.png").write_bytes(png("red"))
    (problem,) = load(write(tmp_path / "chat.jsonl", [CHATS[style]]), "chat")
    assert (problem.question, problem.answer, color_of(problem)) == ("How many?", "2", RED)


def test_openai_parts_name_several_pictures_in_their_order(tmp_path):
    parts = [
        {"type": "text", "text": "Is"}, {"type": "image_url", "image_url": url("red")},
        {"type": "text", "text": "or"}, {"type": "image_url", "image_url": {"url": url("blue")}},
        {"type": "text", "text": "larger?"},
    ]  # fmt: skip
    chat = {"messages": [{"role": "user", "content": parts}], "answer": "red"}
    (problem,) = load(write(tmp_path / "chat.jsonl", [chat]), "chat")
    assert " ".join(problem.question.split()) == "Is image 1 or image 2 larger?"
    assert [color_of(problem, i) for i in (0, 1)] == [RED, BLUE]


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ({"messages": [{"role": "assistant", "content": "2"}]}, "no message of a user"),
        ({"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}] * 2},
         "several turns"),
        ({"messages": [{"role": "tool", "content": "?"}]}, "unknown role: 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "unknown part"),
        ({"messages": [{"role": "user", "content": 5}]}, "wrong type"),
        ({"messages": ["How many?"]}, "wrong type"),
        ({"text": "How many?"}, "no chat"),
        ({"messages": [{"role": "user", "content": "<image>?"}], "answer": "1"}, "image marks"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}],
          "answer": "1"}, "image on a server"),
    ],
)  # fmt: skip
def test_chats_that_cannot_be_used_are_named(tmp_path, chat, message):
    with pytest.raises(DataError, match=f"row 1: .*{message}|row 1: {message}"):
        load(write(tmp_path / "chat.jsonl", [chat]), "chat")


# -- mixes -----------------------------------------------------------------------------------------


def part(path, **fields):
    return {"reader": "jsonl", "path": str(path), **fields}


def test_a_mix_takes_its_own_number_from_every_part(tmp_path):
    for name in ("a", "b"):
        rows = [{"id": f"{name}{i}", "question": f"{name}{i}?", "answer": "1"} for i in range(9)]
        write(tmp_path / f"{name}.jsonl", rows)
    parts = [part(tmp_path / "a.jsonl", num=3), part(tmp_path / "b.jsonl", num=2)]
    problems = load_problems(SourceConfig(reader="mix", parts=parts), 0, tmp_path)
    assert [p.id[0] for p in problems] == ["a"] * 3 + ["b"] * 2


def test_ids_are_unique_over_a_mix(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", [{"id": 1, "question": f"{name}?", "answer": "1"}])
    parts = [part(tmp_path / "a.jsonl"), part(tmp_path / "b.jsonl")]
    with pytest.raises(DataError, match="duplicate id: '1' is also in jsonl"):
        load_problems(SourceConfig(reader="mix", parts=parts), 0, tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"reader": "mix"}, "expected `reader: mix` and at least one part"),
        ({"reader": "jsonl", "parts": [{"reader": "tiny"}]}, "or another reader and no parts"),
        ({"reader": "mix", "parts": [{"reader": "tiny"}], "num": 3}, "inside each part"),
        ({"reader": "mix", "parts": [{"reader": "jsonl", "pth": "x"}]}, "did you mean 'path'"),
    ],
)
def test_mixes_that_make_no_sense_are_refused(source, message):
    from virgo_ray.config import load_config

    raw = load_config("configs/tiny.yaml").model_dump(mode="json")
    raw["data"]["train"] = source
    with pytest.raises(ConfigError, match=message):
        parse_config(raw)
