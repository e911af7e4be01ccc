"""An interrupted exploration is finished as it was begun, whatever changed in between."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from flow_fakes import (
    MATERIAL,
    FakeVerifiers,
    Fuse,
    Killed,
    Process,
    end_state,
    small_config,
    stored,
)

from virgo_ray.ledger.file import read_state
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.monitor.console import describe_round
from virgo_ray.records import Judged, Problem, Status, Verdict
from virgo_ray.store.buffer import ReplayBuffer

MANY = replace(
    MATERIAL, problems=[Problem(f"p{i}", f"What is {i}?", str(i), source="s") for i in range(40)]
)
HELDOUT = [Problem(f"h{i}", "What was it?", "9") for i in range(2)]
GO_ON = "gates.on_failure=continue"


def config(folder, *overrides):
    return small_config(folder, "explore.num_problems=8", *overrides)


class DiesAt(Fuse):
    """Dead at the `nth` of the steps that begin so, after the fit of version 2."""

    def __init__(self, start, nth):
        super().__init__()
        self.start, self.nth = start, nth

    def tick(self, step):
        is_late = "after fit of 2" in self.steps and step.startswith(self.start)
        self.nth -= is_late
        if is_late and self.nth == 0:
            raise Killed(step)
        super().tick(step)


def interrupted(cfg, **options):
    """A run that was killed in the middle of round 2's exploration."""
    with pytest.raises(Killed):
        Process(cfg, DiesAt("judge ('p", 10), material=MANY, **options).run()
    assert 0 < Counter(t for t, _, _ in stored(cfg))[2] < 16


def explored_2(cfg):
    return read_state(Path(cfg.run_dir) / "ledger.json")["rounds"]["2"]["explored"]


def test_a_regrade_in_the_middle_of_a_round_changes_nothing_of_what_it_asks(folder):
    cfg, undisturbed = config(folder, "gates=null"), config(folder / "undisturbed", "gates=null")
    Process(undisturbed, material=MANY).run()
    interrupted(cfg)
    reject_all_of_round_1(cfg)
    Process(cfg, material=MANY).run()
    asked = {key for key in stored(cfg) if key[0] == 2}
    assert asked == {key for key in stored(undisturbed) if key[0] == 2}
    assert (explored_2(cfg)["num_problems"], explored_2(cfg)["asked"]) == (8, 16)


def reject_all_of_round_1(cfg):
    names = ("round", "problem_id", "sample_index")
    rows = [{**dict(zip(names, key, strict=True)), "status": "wrong"} for key in stored(cfg)]
    schema = pa.schema(
        [("round", pa.int32()), ("problem_id", pa.string()), ("sample_index", pa.int32()),
         ("status", pa.string())]
    )  # fmt: skip
    table = pa.Table.from_pylist([row for row in rows if row["round"] == 1], schema=schema)
    buffer = ReplayBuffer.open(cfg.run_dir)
    buffer.replace_columns(pa.RecordBatchReader.from_batches(schema, table.to_batches()))


def test_a_changed_exploration_holds_from_the_next_round_on(folder):
    cfg = config(folder, "gates=null")
    interrupted(cfg)
    more = config(folder, "gates=null", "explore.num_samples=3", "rounds=3")
    Process(more, material=MANY).run()
    num = Counter(t for t, _, _ in stored(more))
    assert (num[1], num[2], num[3]) == (16, 16, 24)
    (change,) = read_state(Path(more.run_dir) / "ledger.json")["changes"]
    assert (change["key"], change["before"], change["round"]) == ("explore.num_samples", 2, 3)


class Collapsing(FakeVerifiers):
    """Finds no held-out answer of version 2, and all of the others."""

    def judge(self, rollouts):
        for judged in super().judge(rollouts):
            rollout = judged.rollout
            if rollout.problem in HELDOUT:
                is_bad = rollout.weights_version == 2
                status = Status.NO_ANSWER if is_bad else Status.CORRECT
                judged = Judged(rollout, Verdict(status, "" if is_bad else "9", "fake"))
            yield judged


def test_a_round_that_is_judged_again_does_not_change_who_is_asked_in_the_next(folder):
    """Round 1 is rejected, so round 2 asks M_0; then wider limits accept round 1 after all."""
    options = {"heldout": HELDOUT, "verifiers": Collapsing}
    strict = config(folder, GO_ON)
    interrupted(strict, **options)
    before = Ledger.reopen(Path(strict.run_dir))
    assert before.round(1).is_rejected and before.begun(2).weights.version == 1
    before.close()
    wide = config(folder, "gates=null", "train.restart_from=previous")
    Process(wide, material=MANY, **options).run()
    after = Ledger.reopen(Path(wide.run_dir))
    assert not after.round(1).is_rejected and after.begun(3) is None
    rollouts = [j.rollout for (t, _, _), j in stored(wide).items() if t == 2]
    assert Counter(r.weights_version for r in rollouts) == {1: 16}
    _, _, start = json.loads((Path(wide.run_dir) / "weights/v0003/plan.json").read_text())
    assert start == 2  # the fit goes on from the round that was accepted


def test_an_exploration_of_which_nothing_is_stored_is_begun_anew(folder):
    cfg, undisturbed = config(folder, "gates=null"), config(folder / "undisturbed", "gates=null")
    Process(undisturbed, material=MANY).run()
    with pytest.raises(Killed):
        Process(cfg, DiesAt("sample ('p", 1), material=MANY).run()
    ledger = Ledger.reopen(Path(cfg.run_dir))
    assert ledger.begun(2) is None
    ledger.close()
    Process(cfg, material=MANY).run()
    assert end_state(cfg) == end_state(undisturbed)


def test_a_verifier_that_changes_inside_a_round_is_counted_and_said(folder):
    class Newer(FakeVerifiers):
        def judge(self, rollouts):
            for judged in super().judge(rollouts):
                yield replace(judged, verdict=replace(judged.verdict, verifier_version="fake-2"))

    def older(judged):
        return replace(judged, verdict=replace(judged.verdict, verifier_version="fake-1"))

    class Older(FakeVerifiers):
        def judge(self, rollouts):
            return map(older, super().judge(rollouts))

    cfg = config(folder, "gates=null")
    interrupted(cfg, verifiers=Older)
    num = Counter(t for t, _, _ in stored(cfg))[2]
    Process(cfg, material=MANY, verifiers=Newer).run()
    ledger = Ledger.reopen(Path(cfg.run_dir))
    assert ledger.round(1).tally.verifiers is None
    done = ledger.round(2)
    assert done.tally.verifiers == {"fake-1": num, "fake-2": 16 - num}
    assert f"verifiers fake-1 ({num}), fake-2 ({16 - num})" in describe_round(done)
