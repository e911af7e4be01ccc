"""Rounds that are not evaluated: judged with the next that is; nothing breaks without figures."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from flow_fakes import Fuse, Killed, end_state
from rich.console import Console
from test_gated_runs import GO_ON, PREVIOUS, config, ledger_of, process, start_versions

from virgo_ray.errors import GateError
from virgo_ray.monitor.console import describe_round, result_tables, summary
from virgo_ray.monitor.summary import write_report

EVERY = (GO_ON, PREVIOUS, "rounds=4", "evaluate.every=2")


def rounds_of(cfg):
    with closing(ledger_of(cfg)) as ledger:
        return ledger.rounds(), ledger.weights.version


def test_every_kth_round_and_the_last_are_evaluated(folder):
    cfg = config(folder, GO_ON, PREVIOUS, "rounds=4", "evaluate.every=3")
    done = process(cfg, bad=[])
    done.run()
    rounds, _ = rounds_of(cfg)
    assert [r.label for r in rounds if r.evaluation is not None] == ["base", 0, 3, 4]
    assert done.labels == ["base", 0, 1, 2, 3, 4]
    longer = config(folder, GO_ON, PREVIOUS, "rounds=6", "evaluate.every=3")
    process(longer, bad=[]).run()
    rounds, _ = rounds_of(longer)
    assert [r.label for r in rounds if r.evaluation is not None] == ["base", 0, 3, 4, 6]


def test_a_rejected_round_takes_those_before_it_along(folder):
    """Round 2 fails: round 1, which nobody looked at, is no place to go on from."""
    cfg = config(folder, *EVERY)
    process(cfg, bad=[3]).run()
    rounds, kept = rounds_of(cfg)
    assert [r.label for r in rounds if r.is_rejected] == [1, 2] and kept == 5
    assert start_versions(cfg) == {1: 0, 2: 1, 3: 2, 4: 1, 5: 4}


def test_wider_limits_accept_them_together(folder):
    stopping = (PREVIOUS, "rounds=4", "evaluate.every=2")
    with pytest.raises(GateError):
        process(config(folder, *stopping), bad=[3]).run()
    wide = config(folder, *stopping, "gates=null")
    process(wide, bad=[3]).run()
    rounds, kept = rounds_of(wide)
    assert not any(r.is_rejected for r in rounds) and kept == 5
    assert start_versions(wide)[4] == 3


def test_killed_anywhere_the_same_is_evaluated_and_kept(folder):
    undisturbed = config(folder / "undisturbed", *EVERY)
    steps = process(undisturbed, bad=[3]).run().fuse.steps
    for step in range(len(steps) // 2, len(steps), 25):
        cfg = config(folder / str(step), *EVERY)
        with pytest.raises(Killed):
            process(cfg, [3], Fuse(step), order_seed=step).run()
        process(cfg, [3], order_seed=step + 1).run()
        assert end_state(cfg) == end_state(undisturbed), steps[step]


def test_reports_and_tables_do_without_figures(folder):
    cfg = config(folder, *EVERY)
    process(cfg, bad=[3]).run()
    rounds, _ = rounds_of(cfg)
    said = [describe_round(r) for r in rounds]
    assert said[2].startswith("round 1: not evaluated (evaluate.every), accepted ")
    console = Console(width=120, record=True, file=io.StringIO())
    for table in result_tables(rounds, 120):
        console.print(table)
    assert "1 rejected" in console.export_text() and "round 4" in summary(rounds)
    report = write_report(Path(cfg.run_dir), rounds, rounds[-1].weights)
    assert json.loads(json.dumps(report))["rounds"][2]["pass_at_1"] is None
