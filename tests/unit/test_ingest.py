"""All data of a config at once: strict mode, quarantine, overlap, lengths, the inspect command."""

import json
import re
import shutil
import subprocess
import sys
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from virgo_ray.config import load_config
from virgo_ray.data.__main__ import main
from virgo_ray.data.gallery import gallery
from virgo_ray.data.ingest import read_data, survey
from virgo_ray.data.near_duplicates import find_near_duplicates, hash_picture, shared_words
from virgo_ray.errors import DataError
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem
from virgo_ray.verify.process.golds import GoldChecker

THOUGHT = "<|begin_of_thought|>\n\n3 + 4 is 7.\n\n<|end_of_thought|>\n\n\\boxed{7}"


def noise(path, seed=None):
    """A picture of blurred cells, its own for each file name unless a seed says which."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(crc32(path.name.encode()) if seed is None else seed)
    cells = Image.fromarray(rng.integers(0, 256, (6, 8), np.uint8))
    cells.resize((64, 48)).convert("RGB").save(path)
    return path


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def folder(tmp_path):
    """Three training problems, two held-out ones, two thoughts; all are good."""
    for name in ("a", "b", "c", "h", "i"):
        noise(tmp_path / f"{name}.png")
    train = [{"id": n, "question": f"How many {n}?", "image": f"{n}.png", "answer": "2"}
             for n in "abc"]  # fmt: skip
    heldout = [{"id": n, "question": "Which one is larger?", "image": f"{n}.png", "answer": "A"}
               for n in "hi"]  # fmt: skip
    write(tmp_path / "train.jsonl", train), write(tmp_path / "heldout.jsonl", heldout)
    thoughts = [{"question": f"3 + 4? ({i})", "thought": THOUGHT} for i in range(2)]
    write(tmp_path / "thoughts.jsonl", thoughts)
    return tmp_path


def overrides(folder):
    sources = {"train": "train", "heldout": "heldout", "seed_thoughts": "thoughts"}
    keys = [
        f"data.{key}={{reader: jsonl, num: null, path: {folder}/{name}.jsonl}}"
        for key, name in sources.items()
    ]
    return [*keys, f"run_dir={folder}/run"]


def config(folder, *more):
    return load_config("configs/tiny.yaml", [*overrides(folder), *more])


def add(path, *rows):
    with open(path, "a") as file:
        file.writelines("\n" + json.dumps(row) for row in rows)


def read(cfg):
    return read_data(cfg, Prompter(cfg.model, cfg.prompt))


def quarantined(folder):
    path = folder / "run" / "data" / "quarantine.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None


BROKEN = [
    ({"question": "", "answer": "1"}, "empty question"),
    ({"question": "What?"}, "empty answer"),
    ({"question": "How many x?", "answer": "many", "answer_type": "number"}, "gold answer"),
    ({"question": "<image>?", "answer": "1"}, "image marks"),
    ({"question": "?", "answer": "1", "image": "none.png"}, "image missing"),
    ({"question": "?", "answer": "1", "image": "cut.png"}, "image truncated"),
    ({"question": "?", "answer": "1", "image": "thin.png"}, "not for this model"),
    ({"question": "word " * 400, "answer": "1"}, "too long"),
    ({"question": "<|image_pad|>?", "answer": "1"}, "foreign mark"),
    ({"question": "How many a?", "answer": "2", "image": "a.png"}, "duplicate question"),
    ({"question": "Which one is larger?", "answer": "A", "image": "h.png"}, "also held out"),
]


def break_it(folder):
    Image.new("RGB", (900, 1)).save(folder / "thin.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    add(folder / "train.jsonl", *(row for row, _ in BROKEN))
    add(folder / "thoughts.jsonl", {"question": "3 + 4?", "response": "<think>3 + 4"})


def test_good_data_are_used_and_counted(folder):
    data = read(config(folder))
    assert [len(x) for x in (data.problems, data.heldout, data.seed_thoughts)] == [3, 2, 2]
    report = json.loads((folder / "run" / "data" / "intake.json").read_text())
    assert report["sources"]["data.train"]["rows"] == report["sources"]["data.train"]["used"] == 3
    assert quarantined(folder) is None


def test_strict_mode_refuses_with_the_list_of_all_sources(folder):
    break_it(folder)
    with pytest.raises(DataError) as error:
        read(config(folder))
    text = str(error.value)
    assert "data.train, jsonl" in text and "11 of 14 rows cannot be used" in text
    assert "data.seed_thoughts" in text and "thought cut off" in text
    assert "data.strict=false" in text and len(quarantined(folder)) == 12


def test_quarantine_holds_every_bad_row_with_number_and_reason_and_the_run_goes_on(folder):
    break_it(folder)
    data = read(config(folder, "data.strict=false"))
    assert [p.id for p in data.problems] == ["a", "b", "c"] and len(data.seed_thoughts) == 2
    lines = quarantined(folder)
    train = {line["row"]: line["kind"] for line in lines if line["source"] == "data.train"}
    assert train == {4 + i: kind for i, (_, kind) in enumerate(BROKEN)}
    assert all(line["reason"] and line["where"].endswith(".jsonl") for line in lines)
    assert sum(line["source"] == "data.seed_thoughts" for line in lines) == 1
    sources = json.loads((folder / "run" / "data" / "intake.json").read_text())["sources"]
    assert sum(sources["data.train"]["quarantined"].values()) == len(BROKEN)
    for counts in sources.values():  # every row is accounted for
        bad = sum(counts["quarantined"].values()) + sum(counts["left_out"].values())
        assert counts["rows"] == counts["used"] + bad


def test_a_run_directory_that_cannot_be_written_is_explained(folder):
    (folder / "run").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written: .* choose another with run_dir"):
        read(config(folder))


def test_a_repaired_source_leaves_no_old_quarantine(folder):
    good = (folder / "train.jsonl").read_text()
    add(folder / "train.jsonl", {"question": ""})
    read(config(folder, "data.strict=false"))
    assert len(quarantined(folder)) == 1
    (folder / "train.jsonl").write_text(good)
    read(config(folder))
    assert quarantined(folder) is None


def test_bad_rows_are_replaced_until_the_number_is_reached(folder):
    rows = [{"question": f"{i}?", "answer": "" if i % 2 else "1"} for i in range(20)]
    write(folder / "train.jsonl", rows)
    cfg = config(folder, "data.strict=false", "data.train.num=8", "data.train.text_only=true")
    problems = read(cfg).problems
    assert len(problems) == 8 and all(p.answer for p in problems)
    with pytest.raises(DataError, match="10 of 20 rows cannot be used"):
        read(config(folder, "data.strict=false", "data.train.num=11"))


# -- again, and in processes -----------------------------------------------------------------------


def accounts(cfg):
    intake = survey(cfg, Prompter(cfg.model, cfg.prompt))
    return intake.report(), intake.complaints(), intake.num_tokens, intake.contents


def test_data_that_were_read_before_are_not_decoded_judged_or_tokenised_again(folder, monkeypatch):
    before = accounts(config(folder))

    def again(self, *given):
        assert not given[0], f"again: {given}"
        return []

    for owner, name in ((gallery, "look_at"), (GoldChecker, "find_faults"),
                        (Prompter, "prompt_ids"), (Prompter, "example")):  # fmt: skip
        monkeypatch.setattr(owner, name, again)
    assert accounts(config(folder)) == before


def test_pictures_in_processes_give_the_same_account_in_the_same_order(folder, monkeypatch):
    break_it(folder)
    before = accounts(config(folder, "data.strict=false"))
    monkeypatch.setattr(gallery, "MAX_NUM_HERE", 0)
    shutil.rmtree(folder / "run")
    assert accounts(config(folder, "data.strict=false")) == before


# -- near duplicates -------------------------------------------------------------------------------


def test_a_picture_saved_again_with_the_same_question_is_named_or_refused(folder):
    image = Image.open(folder / "h.png").resize((50, 40))
    image.save(folder / "again.jpg", quality=60)
    add(folder / "train.jsonl",
        {"id": "again", "question": "Which one is LARGER ?", "image": "again.jpg", "answer": "A"},
        {"id": "other", "question": "What colour is it?", "image": "again.jpg", "answer": "red"},
    )  # fmt: skip
    cfg = config(folder)
    assert survey(cfg, Prompter(cfg.model, cfg.prompt)).near_duplicates == [("again", "h")]
    assert len(read(cfg).problems) == 5
    with pytest.raises(DataError, match="1 x nearly held out"):
        read(config(folder, "data.near_overlap=refuse"))
    kept = read(config(folder, "data.near_overlap=refuse", "data.strict=false"))
    assert [p.id for p in kept.problems] == ["a", "b", "c", "other"]


def test_problems_without_pictures_are_near_duplicates_by_their_words():
    text = "A train leaves at noon and goes 60 miles an hour for three hours. How far does it go?"
    train = [Problem("t", text.replace("three", "3"), "180"), Problem("u", "How far?", "1")]
    assert find_near_duplicates(train, [Problem("h", text, "180")], {}) == [(0, 0)]
    assert 0.6 < shared_words(train[0].question, text) < 1


@pytest.mark.parametrize(("size", "quality"), [((64, 48), 40), ((32, 24), 95), ((160, 120), 60)])
def test_a_picture_looks_like_its_copies_and_not_like_others(tmp_path, size, quality):
    hashes, problems = {}, []
    for seed in range(100):
        image = Image.open(noise(tmp_path / f"{seed}.png", seed))
        image.resize(size).save(tmp_path / f"{seed}.jpg", quality=quality)
        for suffix in ("png", "jpg"):
            path = str(tmp_path / f"{seed}.{suffix}")
            hashes[path] = hash_picture(Image.open(path))
            problems.append(Problem(path, "How many are there?", "1", (path,)))
    originals, copies = problems[::2], problems[1::2]
    assert find_near_duplicates(copies, originals, hashes) == [(i, i) for i in range(100)]


# -- probes ----------------------------------------------------------------------------------------


def probes(folder):
    return [
        f"evaluate.{name}={{reader: jsonl, path: {folder}/{name}.jsonl}}"
        for name in ("perception", "text")
    ]


@pytest.fixture
def probed(folder):
    noise(folder / "p.png")
    write(folder / "perception.jsonl", [{"question": "What?", "answer": "red", "image": "p.png"}])
    write(folder / "text.jsonl", [{"id": "t", "question": "Is 3 even?", "answer": "no"}])
    return folder


def test_probes_are_read_as_other_sources_are_and_counted(probed, capsys):
    data = read(config(probed, *probes(probed)))
    assert {name: len(found) for name, found in data.probes.items()} == {"perception": 1, "text": 1}
    report = json.loads((probed / "run" / "data" / "intake.json").read_text())
    assert report["sources"]["evaluate.text"]["used"] == 1
    assert read(config(probed)).probes == {}
    assert main(["inspect", "configs/tiny.yaml", *overrides(probed), *probes(probed)]) == 0
    assert "text: tokens of prompt" in capsys.readouterr().out


def test_a_perception_probe_needs_pictures_and_a_text_probe_has_none(probed):
    add(probed / "perception.jsonl", {"question": "Which?", "answer": "red"})
    add(probed / "text.jsonl", {"question": "Which?", "answer": "red", "image": "p.png"})
    with pytest.raises(DataError) as error:
        read(config(probed, *probes(probed)))
    assert "problems of evaluate.perception have one or more" in str(error.value)
    assert "problems of evaluate.text have none" in str(error.value)


def test_what_is_probed_is_not_trained_on(probed):
    add(probed / "train.jsonl", {"question": "what?", "answer": "red", "image": "p.png"})
    add(probed / "thoughts.jsonl", {"question": "Is 3 even?", "thought": THOUGHT})
    data = read(config(probed, *probes(probed), "data.strict=false"))
    assert (len(data.problems), len(data.seed_thoughts)) == (3, 2)
    assert [line["kind"] for line in quarantined(probed)] == ["also held out"] * 2
    assert "of evaluate.text" in quarantined(probed)[1]["reason"]


def test_the_tiny_model_has_both_probes(tmp_path):
    cfg = load_config(
        "configs/tiny.yaml",
        ["data.train.num=8", "data.heldout.num=8", "data.seed_thoughts.num=4",
         "evaluate.perception={reader: tiny, split: heldout, subset: scenes, num: 12}",
         "evaluate.text={reader: tiny, split: heldout, subset: words, num: 8}",
         f"run_dir={tmp_path}"],
    )  # fmt: skip
    data = read(cfg)
    assert [len(data.probes[name]) for name in ("perception", "text")] == [12, 8]
    assert all(p.images for p in data.probes["perception"])
    words = {p.question for p in data.probes["text"]}
    assert words == {p.question for p in data.heldout} and data.probes["text"][0].context
    with pytest.raises(DataError, match="no subset 'sounds'; expected pictures"):
        read(cfg.model_copy(update={"data": cfg.data.model_copy(update={
            "train": cfg.data.train.model_copy(update={"subset": "sounds"})})}))  # fmt: skip


# -- the command -----------------------------------------------------------------------------------


def test_inspect_shows_what_would_be_read(folder, capsys):
    assert main(["inspect", "configs/tiny.yaml", *overrides(folder)]) == 0
    text = capsys.readouterr().out
    for part in (
        "3 rows read, 3 used, 0 bad", "question: How many a?", "a.png (64x48)", "no bad rows",
        "train: tokens of prompt, images expanded", "median", "thought:  <|begin_of_thought|>",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("strict", ["true", "false"])
def test_inspect_fails_where_strict_mode_would_refuse(folder, capsys, strict):
    break_it(folder)
    args = ["inspect", "configs/tiny.yaml", *overrides(folder), f"data.strict={strict}"]
    assert main(args) == 1
    text = capsys.readouterr().out
    assert "bad: 1 x image truncated" in text and "12 bad rows" in text
    assert "row 10: not for this model: image" in text and f"data.strict={strict}" in text


def test_inspect_of_what_is_not_there_says_so(folder, capsys):
    args = ["inspect", "configs/tiny.yaml", *overrides(folder)]
    assert main([*args, "data.train.path=/none.jsonl"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["inspect", "configs/none.yaml"]) == 2


def test_inspect_is_a_command():
    command = [sys.executable, "-m", "virgo_ray.data", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "inspect" in done.stdout


def test_what_is_too_long_for_the_model_is_replaced_too(folder):
    rows = [{"question": f"{i}? " + "word " * (400 * (i % 2)), "answer": "1"} for i in range(8)]
    write(folder / "train.jsonl", rows)
    thoughts = [
        {"question": f"{i}?", "thought": THOUGHT.replace("is 7", "is 7 " * (1 + 400 * (i % 2)))}
        for i in range(8)
    ]
    write(folder / "thoughts.jsonl", thoughts)
    text_only = "data.train.text_only=true"
    more = ("data.strict=false", text_only, "data.train.num=4", "data.seed_thoughts.num=4")
    data = read(config(folder, *more))
    assert {p.question.strip() for p in data.problems} == {"0?", "2?", "4?", "6?"}
    assert {t.problem.question for t in data.seed_thoughts} == {"0?", "2?", "4?", "6?"}
    assert {line["kind"] for line in quarantined(folder)} <= {"too long"}
    left_out = read(config(folder, *more[1:], "data.train.num=null", "data.train.max_rows=1",
                           "data.seed_thoughts.max_tokens=100"))  # fmt: skip
    assert len(left_out.seed_thoughts) == 4


@pytest.fixture
def long_prompts(tmp_path):
    """A source with prompts of about these many words, in a model of 320 tokens at most."""

    def config(*lengths):
        rows = [{"id": f"t{n}", "question": "red " * n + "?", "answer": "3"} for n in lengths]
        path = tmp_path / "long.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        train = f"data.train={{reader: jsonl, num: null, text_only: true, path: {path}}}"
        return load_config(
            "configs/tiny.yaml",
            [train, f"run_dir={tmp_path}/run", "data.heldout.num=4", "data.seed_thoughts.num=4"],
        )

    return config


def test_a_prompt_that_leaves_hardly_any_room_is_a_bad_row_with_both_numbers(long_prompts):
    cfg = long_prompts(5, 120, 250)
    intake = survey(cfg, Prompter(cfg.model, cfg.prompt))
    assert [p.id for p in intake.problems] == ["t5", "t120"]
    (fault,) = intake.train[0].faults
    assert fault.kind == "no room for a response"
    said = r"prompt has \d+ tokens, so model.max_length=320 leaves \d+, expected at least 48 of"
    assert re.search(said + r" explore\.sampling\.max_tokens=192", fault.detail)


def test_prompts_that_leave_less_than_a_response_may_have_are_counted(long_prompts):
    cfg = long_prompts(5, 120)
    intake = survey(cfg, Prompter(cfg.model, cfg.prompt))
    (note,) = intake.train[0].notes.items()
    assert note == (
        "whose prompt leaves less than explore.sampling.max_tokens=192 tokens of model.max_length",
        1,
    )
    assert not intake.heldout[0].notes
