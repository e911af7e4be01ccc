"""scripts/compare_recipes.py on run directories made by hand."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import compare_recipes

FIELDS = {
    "problem_hash": "0", "status": "correct", "answer": "1", "num_tokens": 5, "guess_chance": 0.0,
    "decided_by": "rules", "text": "",
}  # fmt: skip
START = {"easy": "1 11", "middle": "0 10", "hard": "0 00"}  # greedy, then the samples


def run(directory, last, start=START, weights=b"same"):
    """A run of one round after round 0; `last` is what its last weights answered."""
    (directory / "weights/v0001").mkdir(parents=True)
    (directory / "weights/v0001/model.safetensors").write_bytes(weights)
    rounds = {
        str(r): {"explored": {"num_tokens": 10 * r}, "trained": {"num_tokens": 7}} for r in (0, 1)
    }
    (directory / "ledger.json").write_text(json.dumps({"rounds": rounds}))
    for version, answers in (1, start), (2, last):
        path = directory / f"heldout/v{version:04d}/answers.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(lines(answers)))
    return directory


def lines(answers):
    for problem, marks in answers.items():
        greedy, samples = marks.split()
        asked = [("greedy", greedy), *(("sampled", mark) for mark in samples)]
        for index, (how, mark) in enumerate(asked):
            row = {**FIELDS, "id": problem, "how": how, "sample": index, "is_correct": mark == "1"}
            yield json.dumps(row) + "\n"
    yield json.dumps({**FIELDS, "id": "a probe", "how": "greedy", "sample": 0, "is_correct": True})


def test_problems_are_as_hard_as_the_common_start_found_them(tmp_path):
    better = run(tmp_path / "a", {"easy": "1 11", "middle": "1 11", "hard": "1 01"})
    worse = run(tmp_path / "b", {"easy": "1 11", "middle": "1 01", "hard": "0 00"})
    paired = compare_recipes.compared(better, worse)
    assert {p.num_samples for p in paired} == {2}
    assert [(p.bin, p.first, p.second) for p in paired] == [
        (2, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        (1, (1.0, 1.0, 1.0), (1.0, 0.5, 1.0)),
        (0, (1.0, 0.5, 1.0), (0.0, 0.0, 0.0)),
    ]


def test_the_table_has_cost_bins_and_differences(tmp_path, monkeypatch, capsys):
    a = run(tmp_path / "a", {"easy": "1 11", "middle": "1 11", "hard": "1 01"})
    b = run(tmp_path / "b", {"easy": "1 11", "middle": "1 01", "hard": "0 00"})
    monkeypatch.setattr(sys, "argv", ["compare_recipes.py", f"{a},{b}"])
    assert compare_recipes.main() == 0
    printed = capsys.readouterr().out
    assert "a: 10 tokens sampled, [7, 7] tokens trained on" in printed
    assert "| all | 3 | greedy | 100.0 | 66.7 | +33.3" in printed
    assert "| 0 of 2 times (hardest) | 1 | pass@k | 100.0 | 0.0 | +100.0" in printed


def test_runs_of_another_start_or_other_problems_are_refused(tmp_path):
    a, b = run(tmp_path / "a", START), run(tmp_path / "b", START, weights=b"other")
    with pytest.raises(SystemExit, match="differ after round 0"):
        compare_recipes.compared(a, b)
    with pytest.raises(SystemExit, match="not asked the same"):
        compare_recipes.compared(a, run(tmp_path / "c", {"easy": "1 11"}))
    with pytest.raises(SystemExit, match="two run directories"):
        compare_recipes.pair_of(f"{a}")
