"""scripts/falls.py on run directories made by hand."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import falls


def a_run(directory: Path, *rounds: str) -> Path:
    directory.mkdir()
    evaluations = {str(t): {"solved": {"pass_at_1": flags}} for t, flags in enumerate(rounds)}
    evaluations["base"] = {"solved": {"pass_at_1": "1" * len(rounds[0])}}
    (directory / "ledger.json").write_text(json.dumps({"evaluations": evaluations}))
    return directory


@pytest.mark.parametrize(
    ("rounds", "rc", "said"),
    [
        (("0" * 50 + "1" * 50, "1" * 60 + "0" * 40), 0, "50.0, 60.0 | 0.0"),
        (("1" * 60 + "0" * 40, "1" * 52 + "0" * 48), 1, "8.0 points, p = 0.004"),  # not 3 points
        (("1" * 100 + "0" * 100, "1" * 98 + "0" * 102), 0, "1.0 points, p = 0.250"),
        (("10" * 50, "01" * 40 + "0" * 20), 1, "| 10.0 |"),  # by the mean alone: p is 0.17
    ],
)
def test_a_fall_is_found_by_the_test_or_by_the_mean(
    rounds, rc, said, tmp_path, monkeypatch, capsys
):
    run = a_run(tmp_path / "run", *rounds)
    monkeypatch.setattr(sys, "argv", ["falls.py", f"some={run}"])
    assert falls.main() == rc
    assert said in capsys.readouterr().out


def test_seeds_are_averaged_and_each_is_tested(tmp_path):
    runs = [a_run(tmp_path / "a", "1100", "1110"), a_run(tmp_path / "b", "1110", "1100")]
    assert falls.told(f"two={' '.join(map(str, runs))}") == 0
    worst = falls.falls({run.name: falls.read_rounds(run) for run in runs})[1]
    assert (worst.run, worst.points, worst.p) == ("b", 0.25, 0.5)


def test_runs_of_one_name_are_told_apart_and_one_that_ended_early_is_a_fall(tmp_path, capsys):
    (tmp_path / "x").mkdir(), (tmp_path / "y").mkdir()
    fallen = a_run(tmp_path / "x/n", "1" * 80 + "0" * 20, "1" * 20 + "0" * 80)
    steady = a_run(tmp_path / "y/n", "1" * 80 + "0" * 20, "1" * 80 + "0" * 20)
    assert falls.told(f"both={fallen} {steady}") == 1
    assert "x/n, round 0 to 1: 60.0 points, p = 0.000" in capsys.readouterr().out
    long = a_run(tmp_path / "z", "10", "10", "10")
    assert falls.told(f"both={steady} {long}") == 1
    assert "y/n ended early" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="one round"):
        falls.told(f"one={a_run(tmp_path / 'one', '10')}")
