"""Data that change under a run are refused, or taken in by name; their place does not count."""

import json
import re
import shlex

import pytest
from data_parts import config, noise
from PIL import Image

from virgo_ray.config import dump_config, fingerprint, load_config
from virgo_ray.data.contents import NAME
from virgo_ray.data.ingest import read_data, survey
from virgo_ray.errors import DataError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Weights
from virgo_ray.run import take_in_changes


def start(cfg, *overrides):
    """What a start does with its data before any engine is there."""
    if overrides:
        cfg = load_config("configs/tiny.yaml", [*overrides, *overrides_of(cfg)])
    Ledger.check(cfg)
    data = read_data(cfg, Prompter(cfg.model, cfg.prompt))
    ledger = Ledger.open(cfg, Weights(0, "base"))
    take_in_changes(cfg, ledger, data.contents)
    ledger.close()
    return data


def overrides_of(cfg):
    sources = ((key, getattr(cfg.data, key)) for key in ("train", "heldout", "seed_thoughts"))
    places = [f"data.{k}={{reader: jsonl, num: null, path: {s.path}}}" for k, s in sources]
    return [*places, f"run_dir={cfg.run_dir}"]


@pytest.fixture
def begun(tmp_path):
    rows = [{"id": n, "question": f"How many {n}?", "answer": "2", "image": f"{n}.png"}
            for n in "ab"]  # fmt: skip
    rows.append({"question": "How many c?", "answer": "2", "image": "b.png"})  # an id of content
    cfg = config(tmp_path, rows)
    start(cfg)
    return cfg


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CHANGED = ("train.jsonl", "How many b?", "How much b?")


def test_the_same_data_go_on_from_another_place_without_a_word(begun, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("train.jsonl", "a.png", "b.png"):
        (tmp_path / name).rename(moved / name)
    place = f"data.train={{reader: jsonl, num: null, path: {moved}/train.jsonl}}"
    cfg = load_config("configs/tiny.yaml", [*overrides_of(begun), place])
    assert not start(cfg).contents.changes
    assert str(moved) in (tmp_path / "run" / "config.yaml").read_text()


def test_places_are_in_no_fingerprint_of_a_config_in_a_mix_neither(begun, tmp_path):
    def mix(place, **more):
        part = json.dumps({"reader": "jsonl", "path": place, "num": 3, **more})
        return load_config("configs/tiny.yaml", [f"data.train={{reader: mix, parts: [{part}]}}"])

    assert fingerprint(mix("/here/a.jsonl")) == fingerprint(mix("/there/b.jsonl"))
    assert fingerprint(mix("/a", image_dir="/x")) == fingerprint(mix("/a", image_dir="/y"))
    assert fingerprint(mix("/a")) != fingerprint(mix("/a", max_rows=7))


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [(*CHANGED, "data.train: 'b' says"),
     ("train.jsonl", '"answer": "2"', '"answer": "3"', "4 records"),  # one has a new id
     ("heldout.jsonl", "h?", "g?", "data.heldout"),
     ("seed_thoughts.jsonl", "boxed{1}", "boxed{2}", "data.seed_thoughts")],
)  # fmt: skip
def test_a_record_that_says_something_else_is_refused_by_name(
    begun, tmp_path, name, old, new, said
):
    rewrite(tmp_path / name, old.replace("\\", "\\\\"), new.replace("\\", "\\\\"))
    with pytest.raises(DataError, match=f"(?s)the data changed since the run began.*{said}|{said}"):
        start(begun)


def test_another_picture_under_the_same_path_is_refused(begun, tmp_path):
    Image.new("RGB", (40, 40), "green").save(tmp_path / "a.png")
    with pytest.raises(DataError, match="'a' says or shows something else"):
        start(begun)


def test_one_pixel_that_changes_is_seen(begun, tmp_path):
    """Too little for what a picture looks like, and enough to make a 3 an 8."""
    with Image.open(tmp_path / "a.png") as picture:
        changed = picture.convert("RGB")
    red, *others = changed.getpixel((0, 0))
    changed.putpixel((0, 0), (red ^ 1, *others))
    changed.save(tmp_path / "a.png")
    with pytest.raises(DataError, match="'a' says or shows something else"):
        start(begun)


def test_a_run_that_still_keeps_what_pictures_look_like_goes_on(begun, tmp_path):
    """Fingerprints as they were made at first; the next start keeps those of the pixels."""
    path = tmp_path / "run" / "data" / NAME
    kept = path.read_text()
    intake = survey(begun, Prompter(begun.model, begun.prompt))
    path.write_text(json.dumps(intake.contents_by_looks))
    assert path.read_text() != kept
    start(begun)
    assert path.read_text() == kept
    path.write_text(json.dumps(intake.contents_by_looks))
    Image.new("RGB", (40, 40), "green").save(tmp_path / "a.png")
    with pytest.raises(DataError, match="'a' says or shows something else"):
        start(begun)


@pytest.mark.parametrize("text", ["", "[]", '{"data.train": []}'])
def test_a_damaged_file_of_fingerprints_is_named(begun, tmp_path, text):
    (tmp_path / "run" / "data" / NAME).write_text(text)
    with pytest.raises(DataError, match=r"contents\.json is damaged: .*Restore it"):
        start(begun)


def test_a_picture_that_was_saved_again_shows_the_same(begun, tmp_path):
    with Image.open(tmp_path / "a.png") as picture:
        picture.save(tmp_path / "a.png", compress_level=1)
    start(begun)


def test_before_a_run_has_begun_its_data_may_change(begun, tmp_path):
    (tmp_path / "run" / "ledger.json").unlink()
    rewrite(tmp_path / CHANGED[0], *CHANGED[1:])
    start(begun)


def test_a_change_is_taken_in_as_the_error_says_and_needs_no_flag_later(begun, tmp_path):
    rewrite(tmp_path / CHANGED[0], *CHANGED[1:])
    with pytest.raises(DataError) as error:
        start(begun)
    (flag,) = shlex.split(re.findall(r"once, (.*?): ", str(error.value))[0])
    assert [str(c) for c in start(begun, flag).contents.changes] == [
        "data.train: 'b' says or shows something else"
    ]
    assert not start(begun).contents.changes
    rewrite(tmp_path / "train.jsonl", "How many a?", "How much a?")
    with pytest.raises(DataError, match=r"data\.train: 'a' says"):
        start(begun, flag)  # it names b only
    start(begun, "data.accept_changes=all")


def test_many_changes_are_taken_in_together(begun, tmp_path):
    lines = [{"question": f"{n} apples?", "answer": "1", "image": "a.png"} for n in range(20)]
    with open(tmp_path / "train.jsonl", "a") as file:
        file.writelines("\n" + json.dumps(line) for line in lines)
    with pytest.raises(DataError, match=r"(?s)20 records.*is new.*and 10 more.*accept_changes=all"):
        start(begun)
    assert len(start(begun, "data.accept_changes=all").problems) == 23


def test_held_out_problems_never_change_whatever_is_accepted(begun, tmp_path):
    rewrite(tmp_path / "heldout.jsonl", "h?", "g?")
    with pytest.raises(DataError, match=r"(?s)data\.heldout.*start a new run.*cannot be taken in"):
        start(begun, "data.accept_changes=all")


def test_a_run_without_contents_is_not_moved(begun, tmp_path):
    contents = tmp_path / "run" / "data" / "contents.json"
    contents.unlink()
    (tmp_path / "moved").mkdir()
    place = tmp_path / "moved" / "heldout.jsonl"
    place.write_text((tmp_path / "heldout.jsonl").read_text())
    noise(tmp_path / "moved" / "c.png")
    keys = [*overrides_of(begun), f"data.heldout={{reader: jsonl, num: null, path: {place}}}"]
    with pytest.raises(DataError, match=r"data\.heldout\.path was .*contents.json is missing"):
        start(load_config("configs/tiny.yaml", keys))
    start(begun)
    assert contents.is_file()


def test_ids_may_look_like_numbers():
    cfg = load_config("configs/tiny.yaml", ["data.accept_changes=[1,b]"])
    assert cfg.data.accept_changes == ("1", "b") and "- '1'" in dump_config(cfg)
