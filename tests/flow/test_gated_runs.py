"""A round that fails its gates: older weights are kept, the run ends or goes on, kills or not."""

import json
from functools import partial
from pathlib import Path

import pytest
from flow_fakes import (
    BASE,
    SMALL,
    TINY,
    FakeVerifiers,
    Fuse,
    Killed,
    Process,
    end_state,
    small_config,
    stored,
)

from virgo_ray.errors import GateError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.dropped import is_dropped
from virgo_ray.monitor.summary import write_report
from virgo_ray.records import Judged, Problem, Status, Verdict
from virgo_ray.report.pages import read_data
from virgo_ray.report.writing import write_report as write_pages
from virgo_ray.run import main

USUAL = (
    "explore.num_problems=2", "evaluate.k=1", "gates.min_length_ratio=null",
    "gates.max_length_ratio=null", "gates.margin=1",  # two held-out problems prove little
)  # fmt: skip
GO_ON = "gates.on_failure=continue"
PREVIOUS = "train.restart_from=previous"
HELDOUT = [Problem(f"h{i}", "What was it?", "9") for i in range(2)]


def config(folder, *overrides):
    return small_config(folder, *USUAL, *overrides)


def collapsing(*versions):
    """Verifiers that find no held-out answer of these versions, and all of the others."""

    class Collapsing(FakeVerifiers):
        def judge(self, rollouts):
            for judged in super().judge(rollouts):
                rollout = judged.rollout
                if rollout.problem in HELDOUT:
                    is_bad = rollout.weights_version in versions
                    status = Status.NO_ANSWER if is_bad else Status.CORRECT
                    judged = Judged(rollout, Verdict(status, "" if is_bad else "9", "fake"))
                yield judged

    return Collapsing


def process(cfg, bad, fuse=None, order_seed=0):
    return Process(cfg, fuse or Fuse(), order_seed, verifiers=collapsing(*bad), heldout=HELDOUT)


def ledger_of(cfg):
    return Ledger.reopen(Path(cfg.run_dir))


def start_versions(cfg):
    """{version: the version its fit started from}."""
    plans = Path(cfg.run_dir).glob("weights/*/plan.json")
    return {int(p.parent.name[1:]): json.loads(p.read_text())[2] for p in plans}


# -- weights that are kept while newer ones are rejected -------------------------------------------


@pytest.mark.parametrize("step", range(0, 12, 3))
def test_rejections_drop_nothing_that_the_run_goes_on_from(folder, step):
    """The fakes refuse weights that are not whole, wherever they are pushed or trained from."""
    cfg = config(folder, GO_ON, PREVIOUS, "rounds=3", "weights.keep_last=1")
    bad = [2, 3]
    steps = process(cfg.model_copy(update={"run_dir": f"{folder}/a"}), bad).run().fuse.steps
    after_rejection = steps.index("before the note of v0002")
    with pytest.raises(Killed):
        process(cfg, bad, Fuse(after_rejection + step)).run()
    process(cfg, bad, order_seed=1).run()
    assert start_versions(cfg) == {1: 0, 2: 1, 3: 1, 4: 1}
    names = (d.name for d in (Path(cfg.run_dir) / "weights").glob("v*") if is_dropped(d))
    assert sorted(names) == ["v0001", "v0002", "v0003"]


# -- stop ------------------------------------------------------------------------------------------


def test_a_failed_gate_stops_the_run_and_keeps_the_weights_before(folder):
    cfg = config(folder)
    run = process(cfg, bad=[2])
    with pytest.raises(GateError, match=r"round 1 failed .*\n  gates\.max_pass_at_1_fall") as error:
        run.run()
    assert "weights/v0001" in str(error.value) and "gates.on_failure=continue" in str(error.value)
    assert run.labels == ["base", 0, 1] and run.trainer.trained == [1, 2]
    ledger = ledger_of(cfg)
    assert ledger.weights.version == 1
    assert [ledger.round(t).is_rejected for t in (0, 1)] == [False, True]
    gates = {failure.gate for failure in ledger.round(1).failures}
    assert gates >= {"max_pass_at_1_fall", "max_maj_at_k_fall", "max_no_answer_share"}


def test_the_same_command_again_says_the_same_and_does_nothing(folder):
    cfg = config(folder)
    with pytest.raises(GateError) as first:
        process(cfg, bad=[2]).run()
    before = end_state(cfg)
    again = process(cfg, bad=[2])
    with pytest.raises(GateError) as second:
        again.run()
    assert str(first.value) == str(second.value)
    assert not again.trainer.trained and not again.rollouts.asked_seeds and not again.labels
    assert end_state(cfg) == before


def test_a_last_round_that_fails_is_no_good_end(folder):
    cfg = config(folder)
    with pytest.raises(GateError, match="round 2 failed"):
        process(cfg, bad=[3]).run()
    assert ledger_of(cfg).weights.version == 2


# -- continue --------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["base", "previous"])
def test_a_run_that_goes_on_explores_and_starts_from_the_weights_before(folder, start):
    cfg = config(folder, GO_ON, f"train.restart_from={start}")
    run = process(cfg, bad=[2]).run()
    assert run.labels == ["base", 0, 1, 2] and run.trainer.trained == [1, 2, 3]
    versions = {(t, j.rollout.weights_version) for (t, _, _), j in stored(cfg).items()}
    assert versions == {(1, 1), (2, 1)}
    kept = {"base": 0, "previous": 1}[start]
    assert start_versions(cfg) == {1: 0, 2: kept, 3: kept}
    ledger = ledger_of(cfg)
    assert ledger.weights.version == 3 and ledger.round(1).is_rejected


def test_a_rejected_last_round_leaves_the_round_before_as_the_result(folder):
    cfg = config(folder, GO_ON)
    process(cfg, bad=[3]).run()
    assert ledger_of(cfg).weights.version == 2


def test_a_run_of_which_nothing_is_kept_is_no_good_end(folder):
    cfg = config(folder, GO_ON)
    with pytest.raises(GateError, match="no round was kept"):
        process(cfg, bad=[1, 2, 3]).run()
    ledger = ledger_of(cfg)
    assert ledger.weights == BASE and [ledger.round(t).is_rejected for t in range(3)] == [True] * 3


def test_later_rounds_are_compared_with_accepted_ones_only(folder):
    cfg = config(folder, GO_ON)
    process(cfg, bad=[2]).run()
    assert [r.label for r in ledger_of(cfg).references] == ["base", 0, 2]


def test_without_gates_everything_is_kept(folder):
    cfg = config(folder, "gates=null")
    process(cfg, bad=[2, 3]).run()
    assert ledger_of(cfg).weights.version == 3


# -- another decision ------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_from_the_kept_weights_when_told_to(folder):
    with pytest.raises(GateError):
        process(config(folder), bad=[2]).run()
    cfg = config(folder, GO_ON)
    run = process(cfg, bad=[2]).run()
    assert run.labels == [2] and run.trainer.trained == [3]
    undisturbed = config(folder / "undisturbed", GO_ON)
    process(undisturbed, bad=[2]).run()
    assert end_state(cfg) == end_state(undisturbed)


def test_a_stopped_round_is_judged_again_by_wider_limits(folder):
    with pytest.raises(GateError):
        process(config(folder), bad=[2]).run()
    narrower = config(folder, "gates.max_pass_at_1_fall=null")
    with pytest.raises(GateError, match=r"held-out data:\n  gates\.max_pass_at_k_fall"):
        process(narrower, bad=[2]).run()
    cfg = config(folder, "gates=null")
    process(cfg, bad=[2]).run()
    versions = {(t, j.rollout.weights_version) for (t, _, _), j in stored(cfg).items()}
    assert versions == {(1, 1), (2, 2)} and ledger_of(cfg).weights.version == 3


def test_a_decision_that_a_run_went_on_from_stands(folder):
    process(config(folder, GO_ON), bad=[2]).run()
    cfg = config(folder, GO_ON, "gates.max_pass_at_1_fall=null", "gates.max_no_answer_share=null")
    process(cfg, bad=[2]).run()
    assert ledger_of(cfg).round(1).is_rejected


# -- kills -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "bad"),
    [((), [2]), ((GO_ON, PREVIOUS), [2]), ((GO_ON,), [3])],
    ids=["stop", "continue", "continue-last"],
)
def test_killed_at_any_step_around_the_gates_the_run_ends_the_same(folder, overrides, bad):
    undisturbed = config(folder / "undisturbed", *overrides)
    first = process(undisturbed, bad)
    outcome = ended(first)
    steps = first.fuse.steps
    expected = end_state(undisturbed)
    trained = steps.index(f"after fit of {bad[0]}")
    for step in [*range(0, trained, 7), *range(trained, len(steps))]:
        cfg = config(folder / str(step), *overrides)
        with pytest.raises(Killed) as killed:
            process(cfg, bad, Fuse(step)).run()
        said = ended(process(cfg, bad, order_seed=step))
        assert end_state(cfg) == expected, str(killed.value)
        assert said.replace(str(folder / str(step)), "") == outcome.replace(
            str(folder / "undisturbed"), ""
        )
        assert ledger_of(cfg).weights.version == ledger_of(undisturbed).weights.version


def ended(process):
    """How a run ended, in words."""
    try:
        process.run()
    except GateError as error:
        return str(error)
    return "well"


# -- what a person sees ----------------------------------------------------------------------------


def test_the_reports_name_the_rejected_round_and_why(folder):
    cfg = config(folder)
    with pytest.raises(GateError):
        process(cfg, bad=[2]).run()
    run_dir, ledger = Path(cfg.run_dir), ledger_of(cfg)
    report = write_report(run_dir, ledger.rounds(), ledger.weights)
    assert report["final_checkpoint"].endswith("v0001")
    assert [entry["rejected"] for entry in report["rounds"]] == [False, False, True]
    failure = report["rounds"][2]["gate_failures"][0]
    assert (failure["gate"], failure["value"], failure["reference"]) == (
        "max_pass_at_1_fall", 0.0, 1.0,
    )  # fmt: skip
    shown = read_data(write_pages(run_dir).page.parent, "run")["rounds"][-1]
    assert shown["is_rejected"] and "gates.max_pass_at_1_fall=0.05" in shown["failures"][0]
    missed = [gate["gate"] for gate in shown["gates"] if gate["margin"] < 0]
    assert missed == [f.gate for f in ledger.rounds()[-1].failures]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`python -m virgo_ray.run` on a small run directory, without anything that it could start."""

    def no_work(*args):
        raise AssertionError("engines would have been started")

    monkeypatch.setattr("virgo_ray.run.machinery", no_work)
    small = ("data.train.num=40", "data.heldout.num=4", "data.seed_thoughts.num=4")
    overrides = (*small, "wandb.mode=disabled")
    again = partial(main, [TINY, *SMALL, *USUAL, *overrides, f"run_dir={tmp_path}/run"])
    return config(tmp_path, *overrides), again


def test_the_command_of_a_stopped_run_exits_1_with_its_report_and_starts_no_engine(
    command, tmp_path, capsys
):
    cfg, again = command
    with pytest.raises(GateError):
        process(cfg, bad=[2]).run()
    code = again()
    said = capsys.readouterr()
    assert code == 1 and "GateError: round 1 failed its gates" in said.err
    assert "1 rejected" in said.out and "(round 0)" in said.out and "v0001" in said.out
    assert len(json.loads((tmp_path / "run/report.json").read_text())["rounds"]) == 3


def test_a_last_round_judged_again_by_wider_limits_ends_well_and_its_page_says_so(
    command, tmp_path, capsys
):
    cfg, again = command
    with pytest.raises(GateError):
        process(cfg, bad=[3]).run()
    code = main([*again.args[0], "gates=null"])
    assert code == 0 and "weights/v0003" in capsys.readouterr().out
    shown = read_data(tmp_path / "run/report", "run")
    assert not any(r["is_rejected"] for r in shown["rounds"]) and "v0003" in shown["kept"]


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_finished_run_whose_result_is_damaged_ends_badly(command, tmp_path, capsys, damage):
    cfg, again = command
    process(cfg, bad=[]).run()
    model = tmp_path / "run/weights/v0003/model.safetensors"
    content = model.read_bytes()
    if damage == "gone":
        model.parent.rename(tmp_path / "lost")
    else:
        model.write_bytes(content[:-1] + (b"" if damage == "cut" else b"\x01"))
    assert again() == 1
    said = capsys.readouterr().err
    assert "final checkpoint is not whole" in said and "v0003" in said and "from a copy" in said
    if damage == "gone":
        (tmp_path / "lost").rename(model.parent)
    model.write_bytes(content)
    assert again() == 0
