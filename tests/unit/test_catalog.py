"""Metrics: what is declared is what the code can emit and what the docs list."""

import json
from dataclasses import asdict
from pathlib import Path

from virgo_ray.monitor.catalog import KINDS, find, undeclared
from virgo_ray.monitor.metrics import JsonlSink, Metrics
from virgo_ray.monitor.summary import round_entry
from virgo_ray.monitor.tables import markdown
from virgo_ray.monitor.watch import Monitor
from virgo_ray.records import Evaluation, FitReport, Kind, Round, Status, Tally, Weights
from virgo_ray.selection.advantages import Signal

ROOT = Path(__file__).parents[2]


SHARES = (
    "pass_at_1", "pass_at_k", "maj_at_k", "mean_thought_tokens", "long_format_share",
    "truncated_share", "not_judged_share",
)  # fmt: skip


class Silent:
    def update(self, progress, phase_changed): ...

    def say(self, text): ...


def test_the_docs_list_every_metric_with_its_unit_and_no_other():
    assert (ROOT / "docs/metrics.md").read_text().endswith(markdown()), (
        "write it anew: python -m virgo_ray.monitor.tables"
    )


def test_no_metric_is_declared_twice_and_every_name_is_its_own():
    for kind in KINDS:
        names = [metric.name for metric in kind.metrics]
        assert len(set(names)) == len(names)
        plain = [name for name in names if "{" not in name]
        assert [find(kind.name, name).name for name in plain] == plain


def test_a_metric_that_nobody_declared_is_written_with_one_warning(tmp_path, caplog):
    metrics = Metrics([JsonlSink(tmp_path / "metrics.jsonl")])
    for _ in range(2):
        metrics.log("push", push_seconds=1.0, seconds_lost=2.0)
    metrics.log("pull", push_seconds=1.0)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "push: seconds_lost" in said[0] and "pull: push_seconds" in said[1]


def test_what_a_round_says_is_declared():
    weights = Weights(2, "v0002")
    fit = FitReport(weights, 1, 2, 300, 200, 1.0, 0.5, 9.0)
    done = Round(1, weights, Tally(), fit, Evaluation(**dict.fromkeys(SHARES, 0.5), k=4))
    entry = round_entry(done)
    del entry["round"]  # of every record
    shown = [f"heldout/{k}" for k, v in entry.items() if isinstance(v, int | float)]
    assert len(shown) > 10 and undeclared("round", shown) == []


def test_places_in_a_name_stand_for_what_the_code_fills_in():
    assert undeclared("sampling", [f"status_{status}" for status in Status]) == []
    assert undeclared("fit", [*Kind, *(f"{kind}_tokens" for kind in Kind)]) == []
    assert undeclared("memory", ["rss_trainer_rank_13_mib", "rss_driver_mib"]) == []
    assert undeclared("engines", ["waiting_0", "waiting"]) == ["waiting"]


def test_the_time_of_a_phase_is_logged_once_when_it_ends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    monitor = Monitor("n", 2, Metrics([JsonlSink(path)]), Silent())
    monitor.watch("pools", lambda: {"trainer_restarts": 0})
    monitor.watch("engines", dict)  # nothing to say
    monitor.watch("phase", lambda: {"device_busy_share": 0.75})
    monitor.round(1)
    monitor.phase("train", 1)
    monitor.step({"step": 1, "loss": 1.0, "num_tokens": 500})
    monitor.phase("push")
    monitor.end_phase()
    monitor.end_phase()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    phases = [r for r in records if r["kind"] == "phase"]
    assert [(r["phase"], r["round"]) for r in phases] == [("train", 1), ("push", 1)]
    assert [r["device_busy_share"] for r in phases] == [0.75, 0.75]
    assert phases[0]["phase_tokens_per_s"] > 0 and "phase_tokens_per_s" not in phases[1]
    assert [r["kind"] for r in records] == ["train", "pools", "phase", "phase"]


def test_what_the_groups_of_a_round_say_is_declared():
    signal = asdict(Signal(4, 2, 1, 0, 0.5, 0.1))
    assert undeclared("groups", [*signal, "signal_share"]) == []
