"""Agreement with labels that others made; what we dispute stands in disputed.md with reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

DATA = Path(__file__).resolve().parents[1] / "data" / "verifier"
FILES = sorted(path.stem for path in DATA.glob("*.jsonl"))


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def disputed() -> set[tuple[str, int]]:
    table = (Path(__file__).parent / "disputed.md").read_text().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in table if line[:1] == "|"]
    return {(row[0], int(row[1])) for row in cells if row[0] in FILES}


@pytest.mark.parametrize("name", FILES)
def test_verdicts_agree_with_the_labels_outside_the_disputed_ones(name: str) -> None:
    disagree = set()
    for number, row in enumerate(rows(name)):
        options = tuple(row.get("options") or row.get("choices") or ())
        verdict = judge_item(Item(gold=row["gold"], text=row["prediction"], options=options))
        if verdict.is_correct != row["expected"]:
            disagree.add((name, number))
    assert disagree == {key for key in disputed() if key[0] == name}


def test_at_most_two_percent_of_the_labels_are_disputed() -> None:
    assert len(disputed()) <= 0.02 * sum(len(rows(name)) for name in FILES)
