"""The driver of the trainer's kit: what a bad row costs, and what the exit code says."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import check_train
from train_checks.scale import REAL, SMALL
from train_checks.table import Driver, Group, Result, append_json

TOY = str(Path(__file__).with_name("toy_worker.py"))


def run(tmp_path: Path, rows: Sequence[str], budget_s: float = 60.0, limit_s: float = 20.0):
    driver = Driver([sys.executable, TOY], tmp_path / "worker.log", budget_s)
    return list(driver.results([Group("toy", tuple(rows), limit_s)]))


def test_every_row_is_reported_in_order(tmp_path):
    results = run(tmp_path, ["a", "b"])
    assert [(r.row, r.status, dict(r.figures)) for r in results] == [
        ("a", "ok", {"x": 1.5}),
        ("b", "ok", {"x": 1.5}),
    ]


def test_a_row_that_fails_costs_only_itself(tmp_path):
    results = run(tmp_path, ["a", "fails", "b"])
    assert [(r.row, r.status, r.error) for r in results] == [
        ("a", "ok", ""),
        ("fails", "failed", "a bad figure"),
        ("b", "ok", ""),
    ]


def test_a_row_that_ends_its_process_says_what_it_printed_last(tmp_path):
    results = run(tmp_path, ["a", "dies", "b"])
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    assert results[1].error == "the process ended (7): out of everything"


def test_a_row_that_hangs_is_killed_at_its_limit(tmp_path):
    results = run(tmp_path, ["a", "hangs", "b"], limit_s=0.5)
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    assert results[1].error == "not done within its 0.5 s: killed"
    assert 0.5 <= results[1].seconds < 10


def test_the_whole_ends_within_its_time_and_says_what_was_not_reached(tmp_path):
    results = run(tmp_path, ["is_slow", "hangs", "b"], budget_s=2.0)
    assert [r.status for r in results] == ["ok", "not run", "not run"]
    assert "--seconds" in results[1].error and "--seconds" in results[2].error


def test_where_no_worker_starts_the_rest_is_not_tried(tmp_path):
    results = run(tmp_path, ["never_starts", "a", "b"])
    assert [r.status for r in results] == ["failed", "not run", "not run"]
    assert "no device" in results[0].error


def test_a_report_of_another_row_is_not_taken_for_this_one(tmp_path):
    assert [r.status for r in run(tmp_path, ["reports_another", "a"])] == ["failed", "ok"]


def test_a_result_is_a_line_of_json_and_a_line_to_read(tmp_path):
    result = Result("head/64", "ok", 1.25, {"ms": 0.123456, "gb": None})
    append_json(tmp_path / "rows.jsonl", result)
    append_json(tmp_path / "rows.jsonl", result)
    first, second = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert first == second
    assert json.loads(first)["figures"] == {"ms": 0.123456, "gb": None}
    assert "ms=0.1235" in result.line and result.line.startswith("head/64")


def test_rows_are_chosen_by_pattern_and_keep_their_order():
    chosen = check_train.chosen(SMALL.groups, ["noise/*", "card"])
    assert [group.module for group in chosen] == ["card", "noise"]
    assert check_train.main(["--small", "--rows", "nothing/*"]) == 2


def test_real_and_small_scale_have_the_same_kinds_of_rows():
    def kinds(scale):
        return [(group.module, len(group.rows)) for group in scale.groups]

    assert kinds(REAL) == kinds(SMALL)
    names = [row for group in REAL.groups for row in group.rows]
    assert len(names) == len(set(names))
