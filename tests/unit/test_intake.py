"""What a fit trains on, in console, metrics, report and table; the warning where it is little."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from round_parts import evaluated, evaluation

from virgo_ray.config import load_config
from virgo_ray.monitor.console import TABLE_WIDTH, result_tables
from virgo_ray.monitor.intake import describe_portions, warn_of_few_tokens
from virgo_ray.monitor.metrics import JsonlSink, Metrics
from virgo_ray.monitor.summary import write_report
from virgo_ray.monitor.watch import Monitor
from virgo_ray.records import Example, FitReport, Plan, Portion, Weights
from virgo_ray.train.pack import count_portions, pack

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import results_table

W = Weights(1, "/w")


def example(id, length=4, images=(), is_trace=False):
    return Example(id, (1,), (2,) * (length - 1), images, length, is_trace=is_trace)


SEEDS = [example(f"s{i}") for i in range(8)]
TEXT = example("1/t/0", 5, is_trace=True)
PICTURE = example("1/p/0", 7, ("a.png",), is_trace=True)


def fit(num_tokens, portions, num_steps=2):
    return FitReport(W, num_steps, 9, num_tokens, 20, 2.0, 1.0, 3.0, portions=portions)


class Screen:
    def __init__(self):
        self.said = []

    def update(self, progress, phase_changed): ...

    def say(self, text):
        self.said.append(text)


def test_every_example_is_counted_once_by_its_kind():
    portions = count_portions([*SEEDS, TEXT, PICTURE, PICTURE])
    assert portions == {
        "seed_thoughts": Portion(8, 32),
        "text_traces": Portion(1, 5),
        "picture_traces": Portion(2, 14),
    }
    assert describe_portions(portions) == (
        "8 seed thoughts (32 tokens), 1 text traces (5 tokens), 2 picture traces (14 tokens)"
    )


@pytest.mark.parametrize(
    ("num_tokens", "examples", "is_few", "what"),
    [
        (96, SEEDS, False, ""),
        (48, SEEDS, False, ""),
        (47, SEEDS, True, "47 tokens in all passes, 49% of the 96"),
        (96, SEEDS[:3], True, "12 tokens of examples, 38% of the 32"),  # repeated eight times
    ],
)
def test_a_fit_with_under_half_of_the_tokens_of_the_one_before_is_warned_of(
    num_tokens, examples, is_few, what
):
    warning = warn_of_few_tokens(
        fit(96, count_portions(SEEDS)), num_tokens, count_portions(examples)
    )
    assert warning.startswith("few_tokens: ") is is_few and what in warning


def test_fits_that_trained_nothing_or_did_not_count_are_no_measure():
    portions = count_portions(SEEDS)
    assert warn_of_few_tokens(None, 1, portions) == ""
    assert warn_of_few_tokens(FitReport(W, 0, 0, 0, 0, 0.0, 0.0, 0.0), 1, portions) == ""
    assert warn_of_few_tokens(fit(96, {}), 90, count_portions(SEEDS[:1])) == ""


def test_the_console_and_the_metrics_hear_of_it_before_the_fit(tmp_path):
    screen, path = Screen(), tmp_path / "metrics.jsonl"
    monitor = Monitor("n", 2, Metrics([JsonlSink(path)]), screen)
    cfg = load_config("configs/tiny.yaml", ["train.batch_size=2", "train.num_epochs=1"]).train
    monitor.round(1, 0, fit(96, count_portions(SEEDS)))
    monitor.fit_begins(pack([TEXT, PICTURE], cfg, random.Random(0)))
    assert screen.said[0] == (
        "round 1 trains on 0 seed thoughts, 1 text traces (5 tokens), 1 picture traces (7 tokens)"
    )
    assert screen.said[1].startswith("warning: few_tokens: it trains on 12 tokens in all passes")
    (record,) = [json.loads(line) for line in path.read_text().splitlines()]
    expected = {"kind": "warning", "round": 1, "warning": "few_tokens", "tokens": 12}
    assert record.items() >= {**expected, "tokens_before": 96}.items()

    return random.Random(0)


def test_every_step_says_how_long_its_ranks_are_expected_to_wait(tmp_path):
    path = tmp_path / "metrics.jsonl"
    monitor = Monitor("n", 2, Metrics([JsonlSink(path)]), Screen())
    plan = Plan((TEXT,), (), idle_shares=(0.25, 0.0))
    monitor.fit_begins(plan)
    for step in (2, 1):
        monitor.step({"step": step, "loss": 1.0})
    monitor.fit_begins(replace(plan, idle_shares=()))
    monitor.step({"step": 3, "loss": 1.0})
    records = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "train"]
    assert [record.get("train/idle_share") for record in steps] == [0.0, 0.25, None]


ROUNDS = [
    evaluated("base", evaluation()),
    evaluated(0, evaluation(), fit=fit(96, count_portions(SEEDS))),
    evaluated(1, evaluation(), fit=fit(24, count_portions([TEXT, PICTURE]))),
    evaluated(2, evaluation(), fit=fit(24, {})),  # of an earlier version
]


def test_report_and_table_show_what_each_round_trained_on(tmp_path, capsys, monkeypatch):
    entries = write_report(tmp_path, ROUNDS, W)["rounds"]
    kinds = ("trained_seed_thoughts", "trained_text_traces", "trained_picture_traces_tokens")
    assert [[entry[kind] for kind in kinds] for entry in entries] == [
        [0, 0, 0], [8, 0, 0], [0, 1, 7], [None] * 3,
    ]  # fmt: skip
    assert [len(entry["warnings"]) for entry in entries] == [0, 0, 1, 0]
    monkeypatch.setattr(sys, "argv", ["results_table.py", f"x={tmp_path}"])
    assert results_table.main() == 0
    lines = capsys.readouterr().out.splitlines()
    place = [cell.strip() for cell in lines[2].split("|")].index("picture traces")
    cells = [[cell.strip() for cell in line.split("|")][place] for line in lines[4:8]]
    assert cells == ["0", "0", "1", "-"]


def test_the_console_table_has_a_column_for_it_within_its_width(capsys):
    big = {"seed_thoughts": Portion(5000, 1), "text_traces": Portion(100, 1)}
    rounds = [*ROUNDS, evaluated(3, evaluation(), fit=fit(1, big), seconds=36000)]
    Console(width=TABLE_WIDTH, highlight=False).print(*result_tables(rounds, TABLE_WIDTH))
    said = capsys.readouterr().out
    assert "8+0+0" in said and "0+1+1" in said and "?+?+?" in said and "5000+100+0" in said
