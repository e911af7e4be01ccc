"""Broken copies of every real sample with pictures are caught row by row, and good rows stay."""

import json
import shutil
from pathlib import Path

import pytest

from virgo_ray.config import SourceConfig
from virgo_ray.data.problems import read_problems

DATA = Path(__file__).parents[1] / "data"
SAMPLES = {
    "puzzlevqa": "jsonl",
    "algopuzzlevqa": "jsonl",
    "easyvqa": "jsonl",
    "logicvista": "jsonl",
    "mathv": "mathvision",
}


def copies(folder):
    """The first row whole, then broken in one way each: (rows, kinds by row number)."""
    good = json.loads((folder / "data.jsonl").read_text().splitlines()[0])
    key = "image" if "image" in good else "images"
    whole = good[key] if isinstance(good[key], str) else good[key][0]
    picture = (folder / whole).read_bytes()
    contents = {"image truncated": picture[: len(picture) // 2], "image empty": b""}
    contents["image corrupt"] = b"<html>not found</html>"
    rows, kinds = [good], {}

    def broken(kind, **fields):
        rows.append({**good, **({"id": f"copy-{len(rows)}"} if "id" in good else {}), **fields})
        kinds[len(rows)] = kind

    for kind, content in contents.items():
        name = f"{kind}{Path(whole).suffix}"
        (folder / name).write_bytes(content)
        broken(kind, **{key: name if isinstance(good[key], str) else [name]})
    gone = "images/gone.png"
    broken("image missing", **{key: gone if isinstance(good[key], str) else [gone]})
    broken("empty question", question=" ")
    broken("empty answer", answer="")
    broken("duplicate question" if "id" in good else "duplicate id")
    return rows, kinds


@pytest.mark.parametrize("name", SAMPLES)
def test_every_broken_copy_is_named_and_the_whole_row_is_used(tmp_path, name):
    folder = shutil.copytree(DATA / name, tmp_path / name)
    rows, kinds = copies(folder)
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceConfig(reader=SAMPLES[name], path=str(path), split=rows[0].get("split", ""))
    (reading,) = read_problems(source, 0, tmp_path / "cache")
    assert [row for row, _ in reading.taken] == [1]
    assert {fault.row: fault.kind for fault in reading.faults} == kinds
