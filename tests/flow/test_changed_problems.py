"""Problems that change under a run: what was sampled about the old ones is left aside, once."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lance
import pytest
from flow_fakes import BASE, MATERIAL, Fuse, Killed, Process, small_config

from virgo_ray.data.contents import Change, CheckedContents
from virgo_ray.ledger.file import read_state
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.blank import BLANK
from virgo_ray.records import Judged, Problem, Rollout, Status, Verdict
from virgo_ray.run import take_in_changes
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.store.dataset import locate_store

CHANGED = [
    replace(p, question=f"Another question about {p.id}?") if p.id in ("p0", "p1") else p
    for p in MATERIAL.problems
    if p.id != "p2"
]
CONTENTS = CheckedContents(
    {},
    [Change("data.train", "p0", "a", "b"), Change("data.train", "p1", "a", "b"),
     Change("data.train", "p2", "a", None), Change("data.seed_thoughts", "p3", "a", "b")],
)  # fmt: skip


@pytest.fixture
def cfg(tmp_path):
    return small_config(tmp_path, "explore.num_problems=5", "gates=null")


def run_until(cfg, step, times=1, **parts):
    """Kill a run when `step` comes for the `times`-th time."""
    fuse = Fuse(None)
    process = Process(cfg, fuse=fuse, **parts)
    tick = fuse.tick

    def watch(name):
        if name.startswith(step) and sum(s.startswith(step) for s in fuse.steps) == times - 1:
            raise Killed(name)
        tick(name)

    fuse.tick = watch
    with pytest.raises(Killed):
        process.run()
    return process


def take_in(cfg, contents=CONTENTS):
    ledger = Ledger.open(cfg, BASE)
    take_in_changes(cfg, ledger, contents)
    ledger.close()


def rows_of(cfg):
    return {
        (t, j.rollout.problem.id): j.rollout.problem.question
        for t in range(cfg.rounds + 1)
        for j in ReplayBuffer.open(cfg.run_dir).judged([t])
    }


def trained(cfg, version):
    path = Path(cfg.run_dir) / "weights" / f"v{version:04d}" / "plan.json"
    examples = json.loads(path.read_text())[0]
    return {e["id"]: "".join(map(chr, e["prompt_ids"])) for e in examples if "/" in e["id"]}


def rounds_in(cfg):
    return read_state(Path(cfg.run_dir) / "ledger.json")["rounds"]


def finish(cfg):
    return Process(cfg, material=replace(MATERIAL, problems=CHANGED)).run()


def test_traces_of_changed_problems_are_not_trained_on_and_counted_no_more(cfg):
    run_until(cfg, "before fit of 2")  # round 1 is explored, not trained
    before = rounds_in(cfg)["1"]["explored"]
    assert {(1, "p0"), (1, "p1"), (1, "p2")} <= rows_of(cfg).keys()
    take_in(cfg)
    store = ReplayBuffer.open(cfg.run_dir)
    assert set(store.judged_counts([1])) <= {"p3", "p4"}
    assert {c.problem_id for c in store.candidates([1])} <= {"p3", "p4"}
    finish(cfg)
    explored = rounds_in(cfg)["1"]["explored"]
    assert (before["num_problems"], explored["num_problems"]) == (5, 4), "they are asked again"
    for version in (2, 3):
        for id, prompt in trained(cfg, version).items():
            problem = id.split("/")[1]
            assert problem != "p2"
            assert prompt.startswith("Another question") == (problem in ("p0", "p1"))
    assert {q for (_, id), q in rows_of(cfg).items() if id in ("p0", "p1")} == {
        "Another question about p0?", "Another question about p1?"
    }  # fmt: skip


def test_in_an_open_round_changed_problems_are_asked_again(cfg):
    run_until(cfg, "after append", times=3)
    assert not rounds_in(cfg).get("1"), "it is still being explored"
    take_in(cfg)
    finish(cfg)
    found = {id: q for (t, id), q in rows_of(cfg).items() if t == 1}
    assert found["p0"].startswith("Another question") and "p2" not in found


def test_a_trained_round_stays_what_it_is_when_a_change_is_taken_in(cfg):
    run_until(cfg, "before fit of 3")
    before = rounds_in(cfg)["1"]
    take_in(cfg)
    assert rounds_in(cfg) == {"0": rounds_in(cfg)["0"], "1": before}
    finish(cfg)
    assert rounds_in(cfg)["1"] == before
    assert {id for (t, id) in rows_of(cfg) if t == 1} <= {"p3", "p4"}


def test_the_ledger_relies_on_the_store_without_what_was_left_aside(cfg):
    run_until(cfg, "before fit of 2")
    num = len([1 for t, id in stored_ids(cfg) if id in ("p0", "p1", "p2")])
    take_in(cfg)
    (aside,) = read_state(Path(cfg.run_dir) / "ledger.json")["asides"]
    version = ReplayBuffer.open(cfg.run_dir).version
    assert aside == {"after": version, "problems": 3, "rollouts": num}


def stored_ids(cfg):
    return [(t, o.problem_id) for t, o in ReplayBuffer.open(cfg.run_dir).outcomes()]


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (Ledger, "reopen_round"), (ReplayBuffer, "set_aside"), (ReplayBuffer, "seal"),
        (Ledger, "commit_set_aside"), (CheckedContents, "keep"),
    ],
)  # fmt: skip
def test_killed_anywhere_while_a_change_is_taken_in_the_round_asks_again(
    cfg, monkeypatch, kind, step
):
    def kill(*_):
        raise Killed(step)

    run_until(cfg, "before fit of 2")
    ledger = Ledger.open(cfg, BASE)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(kind, step, kill)
        take_in_changes(cfg, ledger, CONTENTS)
    ledger.close()
    take_in(cfg)
    finish(cfg)
    assert rounds_in(cfg)["1"]["explored"]["num_problems"] == 4
    assert {id for (t, id) in rows_of(cfg) if t == 1} == {"p0", "p1", "p3", "p4"}


def test_what_was_left_aside_stays_in_a_version_that_is_never_removed(cfg):
    run_until(cfg, "before fit of 2")
    before = rows_of(cfg)
    take_in(cfg)
    store = ReplayBuffer.open(cfg.run_dir)
    store.clean([], older_than=timedelta(0))
    uri = locate_store(cfg.run_dir, cfg.store).uri
    (tag,) = (t for t in lance.dataset(uri).tags.list() if t.startswith("aside-"))
    kept = lance.dataset(uri, version=tag).to_table(columns=["round", "problem_id"]).to_pylist()
    assert {(r["round"], r["problem_id"]) for r in kept} == before.keys()


def test_a_change_of_seed_thoughts_alone_leaves_the_store_as_it_is(cfg):
    run_until(cfg, "before fit of 2")
    version = ReplayBuffer.open(cfg.run_dir).version
    take_in(cfg, CheckedContents({}, [Change("data.seed_thoughts", "p0", "a", "b")]))
    assert ReplayBuffer.open(cfg.run_dir).version == version


def test_probes_go_with_their_problem_whatever_its_name(tmp_path):
    store = ReplayBuffer.open(tmp_path)
    for id in ("it's", "it's" + BLANK, "it", "its" + BLANK):
        rollout = Rollout(Problem(id, "?", "1"), 0, "1", (1,), "stop", 0)
        store.add(1, Judged(rollout, Verdict(Status.CORRECT, "1", "fake")))
    assert store.set_aside(["it's", "nobody"]) == 2
    assert {j.rollout.problem.id for j in store.judged([1])} == {"it", "its" + BLANK}
    assert [r.key for r in store.still_missing(1, [(Problem("it's", "!", "1"), 0)], 0)]
