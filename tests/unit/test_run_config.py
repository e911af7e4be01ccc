"""Runs from Python: what is opened, what is yielded, and that leaving ends the run.

With a stand-in for the run itself; the whole of it is in tests/flow and tests/ray.
"""

from types import SimpleNamespace

import pytest

import virgo_ray
from virgo_ray import run
from virgo_ray.config import load_config
from virgo_ray.errors import ConfigError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Evaluation, FitReport, Portion, Round, Weights
from virgo_ray.report.background import ReportWriter

BASE = Weights(0, "base")


class Kept:
    """Contents of data that did not change."""

    stale_problems = ()

    def keep(self, run_dir):
        pass


def make_round(number):
    shares = ["pass_at_k", "maj_at_k", "long_format_share", "truncated_share", "not_judged_share"]
    figures = Evaluation(
        num_problems=200,
        pass_at_1=0.805,
        k=4,
        mean_thought_tokens=9.0,
        **dict.fromkeys(shares, 0.5),
    )
    portions = {"seed_thoughts": Portion(672, 9), "picture_traces": Portion(542, 9)}
    weights = Weights(number + 1, "v")
    fit = FitReport(weights, 3, 9, 9, 9, 1.0, 0.5, 1.0, portions=portions)
    return Round(number, weights, None, fit, figures)


@pytest.fixture
def said(monkeypatch):
    """What happened to the runs that were started."""
    events = []

    def follow(cfg):
        events.append(("start", cfg.seed))
        try:
            for number in range(3):
                yield make_round(number)
        finally:
            events.append("end")

    monkeypatch.setattr(run, "follow", follow)
    return events


@pytest.mark.parametrize(
    "config", ["tiny", {"include": "tiny"}, load_config("tiny"), {"include": ["tiny"], "seed": 0}]
)
def test_a_config_is_a_name_a_mapping_or_an_object(config, said, tmp_path):
    rounds = virgo_ray.run_config(config, ["seed=3", f"run_dir={tmp_path}"])
    assert rounds.config.seed == 3 and rounds.run_dir == tmp_path and said == []
    done = next(rounds)
    assert done.number == 0 and done.selected == {"seed_thoughts": 672, "picture_traces": 542}
    low, high = done.intervals["pass_at_1"]
    assert low < 0.805 < high and said == [("start", 3)]
    assert [d.number for d in rounds] == [1, 2] and said[-1] == "end"


def test_a_round_between_evaluations_has_no_intervals():
    assert virgo_ray.CompletedRound(1, Weights(2, "v0002")).intervals == {}


def test_leaving_ends_the_run(said, tmp_path):
    override = [f"run_dir={tmp_path}"]
    with pytest.raises(KeyError), virgo_ray.run_config("tiny", override) as kept:
        next(kept)
        raise KeyError
    assert said == [("start", 0), "end"] and list(kept) == []
    for _ in virgo_ray.run_config("tiny", override):
        break
    assert said == [("start", 0), "end"] * 2
    kept = virgo_ray.run_config("tiny", override)
    next(kept)
    kept.close()
    kept.close()
    assert said == [("start", 0), "end"] * 3


def test_a_wrong_config_is_refused_at_once():
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        virgo_ray.run_config({"include": "tiny", "sede": 1})
    with pytest.raises(AttributeError, match="no attribute 'run_confg'"):
        virgo_ray.run_confg  # noqa: B018


def test_what_a_run_opened_is_closed_wherever_its_start_breaks(tmp_path, monkeypatch):
    """A traceback that is kept, as a notebook keeps the last one, holds no lock."""
    cfg = load_config("tiny", [f"run_dir={tmp_path}", "wandb.mode=disabled"])
    closed = []

    class First:
        def close(self):
            closed.append("first")
            raise KeyboardInterrupt

    def open_sinks(*_):
        yield First()
        raise OSError("no room")

    def refuse(*_, **__):
        raise OSError("no logs")

    monkeypatch.setattr(run, "refuse_connected", lambda: None)
    monkeypatch.setattr(run, "read_inputs", lambda _: SimpleNamespace(base=BASE, contents=Kept()))
    monkeypatch.setattr(run, "open_sinks", open_sinks)
    with pytest.raises(KeyboardInterrupt) as kept:
        next(run.follow(cfg))
    assert closed == ["first"] and isinstance(kept.value.__context__, OSError)
    monkeypatch.setattr(run, "configure_logging", refuse)
    with pytest.raises(OSError, match="no logs") as also_kept:
        next(run.follow(cfg))
    Ledger.open(cfg, BASE).close()
    assert kept.tb and also_kept.tb


def test_a_report_that_is_being_written_ends_with_its_run(tmp_path):
    reports = ReportWriter(tmp_path, pytest.fail)
    reports.close()
    reports.begin()
    process = reports._process
    reports.close()
    assert process.returncode == -9
