"""Data sets that LLaMA-Factory's dataset_info.json describes are read as it reads them."""

import json

import pytest
from data_parts import THOUGHT, noise

from virgo_ray.config import SeedThoughtsConfig, SourceConfig
from virgo_ray.data.problems import read_problems
from virgo_ray.data.seed_thoughts import read_seed_thoughts
from virgo_ray.errors import DataError

SHAREGPT_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                 "assistant_tag": "assistant"}  # fmt: skip
ENTRIES = {
    "plain": {"file_name": "plain.json"},
    "shapes": {"file_name": "shapes.json",
               "columns": {"prompt": "ask", "response": "reply", "history": "before",
                           "images": "pics"}},
    "chat": {"file_name": "chat.jsonl", "formatting": "sharegpt",
             "columns": {"messages": "talk", "images": "images", "system": "sys"},
             "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "U",
                      "assistant_tag": "A", "system_tag": "S"}},
    "demo": {"file_name": "demo", "formatting": "sharegpt",
             "columns": {"messages": "messages", "images": "images"}, "tags": SHAREGPT_TAGS},
    "videos": {"file_name": "videos.json", "columns": {"prompt": "instruction",
               "response": "output", "videos": "films"}},
    "on_hub": {"hf_hub_url": "owner/name", "file_name": "plain.json"},
    "script": {"script_url": "belle"},
    "pairs": {"file_name": "plain.json", "ranking": True},
    "kto": {"file_name": "plain.json", "columns": {"kto_tag": "ok"}},
    "odd": {"file_name": "plain.json", "formatting": "odd"},
    "nothing": {},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    (data / "media").mkdir(parents=True)
    (data / "demo").mkdir()
    noise(data / "media" / "1.jpg"), noise(data / "media" / "2.jpg")
    write(data / "dataset_info.json", ENTRIES)
    write(data / "plain.json", [{"instruction": "What is 3 + 4?", "input": "", "output": THOUGHT}])
    write(data / "shapes.json", [
        {"ask": "<image>How many?", "input": "not read", "reply": "2", "pics": ["media/1.jpg"],
         "before": [["Hi?", "Hello."]], "id": "x"}])  # fmt: skip
    talk = [{"who": "S", "what": "Be kind."}, {"who": "U", "what": "<image>Which colour?"},
            {"who": "A", "what": "red"}]  # fmt: skip
    write(data / "chat.jsonl", {"talk": talk, "images": ["media/1.jpg"]})
    for n in (1, 2):
        messages = [{"role": "user", "content": f"<image>Who is {n}?"},
                    {"role": "assistant", "content": f"Player {n}"}]  # fmt: skip
        write(data / "demo" / f"{n}.json", [{"messages": messages, "images": [f"media/{n}.jpg"]}])
    write(
        data / "videos.json", [{"instruction": "<video>Why?", "output": "So", "films": ["a.mp4"]}]
    )
    return data


def write(path, content):
    path.write_text(json.dumps(content))


def read(folder, name, **source):
    cfg = SourceConfig(reader="llamafactory", path=str(folder), subset=name, **source)
    (reading,) = read_problems(cfg, 0, folder / "cache", {})
    return reading.records


def test_columns_and_pictures_are_found_by_the_names_that_stand_there(folder):
    (problem,) = read(folder, "shapes", turns="last")
    assert (problem.id, problem.question, problem.answer) == ("x-2", "How many?", "2")
    assert problem.context == "user: Hi?\nassistant: Hello." and problem.source == "shapes"
    assert problem.images == (str(folder / "media" / "1.jpg"),)


@pytest.mark.parametrize("path", [".", "dataset_info.json"])
def test_tags_say_who_speaks(folder, path):
    (problem,) = read(folder / path, "chat")
    assert (problem.question, problem.answer, len(problem.images)) == ("Which colour?", "red", 1)
    assert not problem.context


def test_a_directory_of_files_is_read_in_order(folder):
    problems = read(folder, "demo")
    assert [p.question for p in problems] == ["Who is 1?", "Who is 2?"]
    assert [p.images[0][-5:] for p in problems] == ["1.jpg", "2.jpg"]


def test_media_may_lie_elsewhere(folder, tmp_path):
    (tmp_path / "else" / "media").mkdir(parents=True)
    (folder / "media" / "1.jpg").rename(tmp_path / "else" / "media" / "1.jpg")
    (problem,) = read(folder, "chat", image_dir=str(tmp_path / "else"))
    assert problem.images == (str(tmp_path / "else" / "media" / "1.jpg"),)


def test_textual_thoughts_are_read_too(folder):
    cfg = SeedThoughtsConfig(reader="llamafactory", path=str(folder), subset="plain")
    (thought,) = read_seed_thoughts(cfg, 0)[0].records
    assert thought.problem.question == "What is 3 + 4?" and thought.thought == THOUGHT


@pytest.mark.parametrize(
    ("name", "said"),
    [("shape", r"did you mean 'shapes'\? expected one of plain, shapes, "),
     (None, "expected one of plain, shapes, .* in `subset`"),
     ("on_hub", "hf_hub_url='owner/name'.*{reader: chat, path: owner/name}"),
     ("script", "never run.*`file_name`"), ("pairs", "preferences"), ("kto", "preferences"),
     ("odd", "expected alpaca or sharegpt"), ("nothing", "no `file_name`"),
     ("videos", r"films|videos=\['a.mp4'\]: only pictures are read")],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_what_to_do(folder, name, said):
    with pytest.raises(DataError, match=said):
        read(folder, name)


@pytest.mark.parametrize(
    ("file", "name", "content", "said"),
    [("shapes.json", "shapes", [{"question": "?", "answer": "1"}], "has no column 'ask'"),
     ("chat.jsonl", "chat", {"talk": [{"from": "human", "value": "?"}]}, "'who' and 'what'"),
     ("chat.jsonl", "chat", {"conversations": []}, "talk=None is no list of messages"),
     ("chat.jsonl", "chat", {"talk": [{"who": "tool", "what": "3"}]}, "unknown role"),
     ("dataset_info.json", "chat", [1], "expected an object of data sets by name")],
)  # fmt: skip
def test_records_that_are_not_as_described_are_bad_rows(folder, file, name, content, said):
    write(folder / file, content)
    with pytest.raises(DataError, match=said):
        read(folder, name)


def test_without_a_description_the_directory_is_refused(folder):
    (folder / "dataset_info.json").unlink()
    with pytest.raises(DataError, match=r"dataset_info\.json cannot be read"):
        read(folder, "chat")


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"columns": ["ask"]}, r"'chat' has columns=\['ask'\]; expected an object like {\"prompt\""),
     ({"columns": {"messages": ["talk"]}}, r"columns.messages=\['talk'\]; expected one name"),
     ({"tags": ["who"]}, r"tags=\['who'\]; expected an object like {\"role_tag\""),
     ({"tags": {"user_tag": 7}}, "tags.user_tag=7; expected one name as a text"),
     ({"file_name": ["chat.jsonl"]}, r"file_name=\['chat.jsonl'\]; expected the name of one")],
)  # fmt: skip
def test_a_malformed_description_is_refused_by_the_name_of_its_key(folder, changed, said):
    write(folder / "dataset_info.json", {"chat": {**ENTRIES["chat"], **changed}})
    with pytest.raises(DataError, match=said):
        read(folder, "chat")


@pytest.mark.parametrize(
    ("name", "record", "kind", "detail"),
    [("chat", {"talk": [{"who": ["U"], "what": "Why?"}, {"who": "A", "what": "So"}]},
      "unknown role", "['U'], expected one of"),
     ("chat", {"talk": [{"who": "U", "what": {"x": 1}}, {"who": "A", "what": "So"}]},
      "wrong type", "{'x': 1}"),
     ("shapes", {"ask": ["How", "many?"], "reply": "2"}, "wrong type", "['How', 'many?'] is not a"),
     ("shapes", {"ask": "How many?", "reply": "2", "before": [["Hi?"]]},
      "wrong type", "holds ['Hi?']; expected pairs"),
     ("shapes", {"ask": "How many?", "reply": "2", "before": "Hi?"},
      "wrong type", "holds 'Hi?'; expected pairs")],
)  # fmt: skip
def test_one_malformed_record_does_not_end_the_read(folder, name, record, kind, detail):
    good = {"chat": {"talk": [{"who": "U", "what": "Why?"}, {"who": "A", "what": "So"}]},
            "shapes": {"ask": "Why?", "reply": "So"}}[name]  # fmt: skip
    lines = [record, good]
    entry = {**ENTRIES[name], "file_name": "rows.jsonl"}
    write(folder / "dataset_info.json", {name: entry})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    cfg = SourceConfig(reader="llamafactory", path=str(folder), subset=name, turns="last")
    (reading,) = read_problems(cfg, 0, folder / "cache", {})
    assert [(f.row, f.kind) for f in reading.faults] == [(1, kind)]
    assert detail in reading.faults[0].detail
    assert [p.answer for p in reading.records] == ["So"]
