"""`virgo-ray runs`: what is listed of finished, stopped, running and broken runs."""

import io
import json

import pytest
from rich.console import Console
from round_parts import evaluation

from virgo_ray.cli import main
from virgo_ray.config import load_config, read_stored
from virgo_ray.config.describing import published
from virgo_ray.ledger.file import read_state
from virgo_ray.ledger.history import History
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.monitor.runs import differing_keys, find_runs, print_runs, read_run
from virgo_ray.records import Failure, FitReport, Tally, Weights
from virgo_ray.report.overview import describe_run

FAILURE = Failure("max_pass_at_1_fall", "pass_at_1", 0.0, 0.7, 0.05, 0.0, True)


def make_run(folder, name, accuracies, *overrides, failures=()):
    """A run of one round whose evaluations have these accuracies, the base's first."""
    words = [f"run_dir={folder}/{name}", "rounds=1", *overrides]
    ledger = Ledger.open(load_config("configs/tiny.yaml", words), Weights(0, "base"))
    for t, accuracy in enumerate(accuracies, -1):
        if t >= 0:
            ledger.commit_tally(t, t + 1, Tally(accepted=0))
            weights = Weights(t + 1, f"w{t}")
            ledger.commit_fit(t, FitReport(weights, 1, 1, 1, 1, 2.0, 1.0, 1.0))
        number = None if t < 0 else t
        is_last = t == len(accuracies) - 2
        measured = evaluation(pass_at_1=accuracy)
        ledger.commit_evaluation(number, measured, failures if is_last else ())
    return ledger


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path, "a", (0.1, 0.4, 0.5)).close()
    make_run(tmp_path, "b", (0.1, 0.4, 0.0), "train.lr=1e-3", failures=(FAILURE,)).close()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ledger.json").write_text("{")
    secret = ["teacher.url=https://me:hunter2@host/v1", "teacher.model=m"]
    going_on = make_run(tmp_path, "c", (0.1,), *secret)
    yield tmp_path
    going_on.close()


def test_every_run_is_listed_with_its_state_and_results(runs):
    found = {run.run: run for run in map(read_run, find_runs(runs))}
    assert {name: run.state for name, run in found.items() if name != "broken"} == {
        "a": "done", "b": "done", "c": "running",
    }  # fmt: skip
    assert found["broken"].state.startswith("not readable")
    a, b = found["a"], found["b"]
    assert (a.rounds, a.base_pass_at_1, a.kept_round, a.kept_pass_at_1) == ("1/1", 0.1, 1, 0.5)
    assert a.interval is not None and a.interval[0] < 0.5 < a.interval[1]
    assert (b.kept_round, b.kept_pass_at_1) == (0, 0.4)  # round 1 was rejected


def test_keys_that_differ_are_named_and_secrets_are_not_shown(runs, capsys):
    assert main(["runs", str(runs), "--json"]) == 0
    said = capsys.readouterr().out
    found = json.loads(said)["differing"]
    assert found["train.lr"] == {"a": 5e-4, "b": 1e-3, "c": 5e-4}
    assert "run_dir" not in found and "seed" not in found
    assert found["teacher.url"]["c"] == "https://***@host/v1" and "hunter2" not in said


def test_the_tables_fit_80_columns(runs):
    out = io.StringIO()
    found = [read_run(path) for path in find_runs(runs) if path.name != "broken"]
    print_runs(Console(file=out, width=80), found, differing_keys(found))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in out.getvalue()
    assert any("50.0% (1)" in line and line.lstrip().startswith("a ") for line in lines)
    assert "hunter2" not in out.getvalue()


def test_codes_in_names_and_values_do_not_reach_the_terminal(tmp_path, capsys):
    for name, project in (("x", "p"), ("z", "\u009b31mq\u202e")):
        make_run(tmp_path, name, (0.1, 0.4, 0.5), f"wandb.project={json.dumps(project)}").close()
    (tmp_path / "x").rename(tmp_path / "x\x1b[2Jy")
    for options in ([], ["--json"]):
        assert main(["runs", str(tmp_path), *options]) == 0
        said = capsys.readouterr().out
        assert not {"\x1b", "\x9b", "\u202e"} & set(said) and "31mq" in said


def test_a_report_and_a_sink_are_given_no_password_of_an_address(runs):
    cfg = read_stored(runs / "c")
    history = History(runs / "c", read_state(runs / "c" / "ledger.json"))
    history._state["changes"] = [
        {"key": "teacher.url", "before": "http://u:p@ss@h/", "after": None}
    ]
    shown = json.dumps(describe_run(cfg, history))
    assert "hunter2" not in shown and "p@ss" not in shown and "https://***@host/v1" in shown
    assert published(cfg)["teacher"]["url"] == "https://***@host/v1"


def test_a_directory_without_runs_is_refused(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
