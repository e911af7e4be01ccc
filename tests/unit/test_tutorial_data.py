"""What the tutorial draws: answers and thoughts are right, splits apart, files always the same.

That the tiny model learns from it is in tests/ray/test_tutorial.py.
"""

import importlib.util
import json
import random
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from virgo_ray.config import load_config
from virgo_ray.evaluate.figures import is_long_format

ROOT = Path(__file__).parents[2]
NUMBERS = ["--train", "12", "--heldout", "8", "--thoughts", "10"]


@pytest.fixture(scope="module")
def drawing():
    """The tutorial's script as a module."""
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs/tutorial/draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(drawing, folder, monkeypatch, numbers=NUMBERS):
    monkeypatch.setattr(sys, "argv", ["draw.py", str(folder), *numbers])
    drawing.main()
    return {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "heldout", "thoughts")
    }


def test_the_same_command_writes_the_same_files(drawing, tmp_path, monkeypatch):
    first = drawn(drawing, tmp_path / "a", monkeypatch)
    assert first == drawn(drawing, tmp_path / "b", monkeypatch)
    assert {name: len(rows) for name, rows in first.items()} == {
        "train": 12, "heldout": 8, "thoughts": 10,
    }  # fmt: skip
    for row in first["train"]:
        pictures = [(tmp_path / side / row["image"]).read_bytes() for side in "ab"]
        assert pictures[0] == pictures[1]


def test_no_scene_is_drawn_twice(drawing, tmp_path, monkeypatch):
    rows = drawn(drawing, tmp_path, monkeypatch)
    images = [(tmp_path / r["image"]).read_bytes() for r in rows["train"] + rows["heldout"]]
    assert len(set(images)) == 20 and len({r["context"] for r in rows["thoughts"]}) == 10


def test_answers_and_thoughts_are_right(drawing):
    for seed in range(50):
        shapes, asked = drawing.make_scene(random.Random(seed))
        corners = {"circle": 0, "triangle": 3, "rectangle": 4}
        gold = sum(corners[shape] for colour, shape in shapes if colour == asked)
        said = drawing.thought(shapes, asked)
        assert drawing.answer(shapes, asked) == gold and is_long_format(said)
        assert f"\\boxed{{{gold}}}" in said
        for left, right, total in re.findall(r"(\d+) \+ (\d) = (\d+)", said):
            assert int(left) + int(right) == int(total)


def test_a_picture_shows_its_shapes(drawing):
    scene = tuple(zip(["red", "blue"] * 3, ["rectangle"] * 6, strict=True))
    picture = drawing.draw(scene, random.Random(0))
    assert isinstance(picture, Image.Image) and picture.size == (48, 32)
    red, _, blue = picture.getpixel((8, 8))
    assert red > 200 and blue < 60
    red, _, blue = picture.getpixel((24, 8))
    assert blue > 200 and red < 60


def test_the_config_of_the_tutorial_is_valid_and_reads_what_is_drawn():
    cfg = load_config(str(ROOT / "docs/tutorial/shapes.yaml"))
    assert cfg.data.train.path == "my_data/train.jsonl" and cfg.rounds == 2
