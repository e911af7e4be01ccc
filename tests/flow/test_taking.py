"""A new run that begins with the rollouts of another one (`store.from`)."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lance
import pytest
from flow_fakes import (
    BASE,
    MATERIAL,
    FakeVerifiers,
    Fuse,
    Killed,
    Process,
    end_state,
    small_config,
    stored,
)

from virgo_ray.errors import ConfigError, LedgerError
from virgo_ray.ledger.file import read_state
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Problem
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.store.dataset import StoreLocation
from virgo_ray.store.reader import TraceReader
from virgo_ray.traces.taking import find_taking


@pytest.fixture
def origin(folder):
    """A finished run with two rounds of eight rollouts."""
    cfg = small_config(folder / "old", "gates=null")
    Process(cfg).run()
    return cfg


def config(folder, origin, *overrides):
    return small_config(folder / "new", "gates=null", f"store.from={origin.run_dir}", *overrides)


def taken(cfg):
    """{(round, problem id, sample index): Judged} of the rounds before the first."""
    buffer = ReplayBuffer.open(cfg.run_dir)
    return {(t, *j.rollout.key): j for t in (-2, -1) for j in buffer.judged([t])}


def ledger_of(cfg):
    return read_state(Path(cfg.run_dir) / "ledger.json")


class Strict(FakeVerifiers):
    """A verifier of a later version."""

    def judge(self, rollouts):
        for judged in super().judge(rollouts):
            yield replace(judged, verdict=replace(judged.verdict, verifier_version="strict"))


def test_rollouts_are_taken_once_judged_again_and_keep_whose_they_are(folder, origin):
    cfg = config(folder, origin, "seed=7")
    process = Process(cfg, verifiers=Strict).run()
    found, old = taken(cfg), stored(origin)
    assert {(t + 3, id, n) for t, id, n in found} == old.keys()
    for (t, id, n), judged in found.items():
        before = old[t + 3, id, n].rollout
        assert (judged.rollout.text, judged.rollout.token_ids) == (before.text, before.token_ids)
        assert judged.rollout.weights_version == before.weights_version
        assert judged.rollout.sampling["from_run"] == ledger_of(origin)["wandb_id"]
        assert judged.verdict.verifier_version == "strict"
    assert ledger_of(cfg)["taken"]["rollouts"] == {"-2": 8, "-1": 8}
    assert Counter(t for t, _, _ in stored(cfg)) == {1: 8, 2: 8}  # its own rounds are whole
    assert process.labels == ["base", 0, 1, 2]
    plan = json.loads((Path(cfg.run_dir) / "weights/v0002/plan.json").read_text())
    assert any(example["id"].startswith("-") for example in plan[0])  # round 1 learns from them


def test_what_does_not_fit_the_new_data_is_left_aside_and_counted(folder, origin):
    first, second, *others = MATERIAL.problems
    problems = [replace(first, answer="another"), *others, Problem("new", "What?", "1")]
    cfg = config(folder, origin)
    Process(cfg, material=replace(MATERIAL, problems=problems)).run()
    old = Counter(id for _, id, _ in stored(origin))
    assert {id for _, id, _ in taken(cfg)} <= {p.id for p in others}
    assert ledger_of(cfg)["taken"]["aside"] == {
        "problem changed": old[first.id], "problem not in the data": old[second.id],
    }  # fmt: skip


def test_killed_anywhere_while_it_takes_the_run_ends_the_same(folder, origin):
    undisturbed = config(folder / "undisturbed", origin)
    steps = Process(undisturbed).run().fuse.steps
    expected, all_taken = end_state(undisturbed), taken(undisturbed)
    for step in range(0, steps.index("before push of 0") + 1, 6):
        cfg = config(folder / str(step), origin)
        with pytest.raises(Killed):
            Process(cfg, Fuse(step)).run()
        Process(cfg, order_seed=step).run()
        assert (end_state(cfg), taken(cfg)) == (expected, all_taken), steps[step]


def test_it_cannot_change_on_a_run_that_has_begun_and_must_be_there(folder, origin):
    with pytest.raises(ConfigError, match="no directory"):
        Process(small_config(folder / "new", "store.from=/nowhere")).run()
    cfg = config(folder, origin)
    with pytest.raises(LedgerError, match=r"store\.from: '/nowhere' -> "):
        Process(cfg).run()


def grown(origin, rounds):
    Process(origin.model_copy(update={"rounds": rounds})).run()


def start_taking(folder, growing):
    """A new run that died when a part of what `growing` has was stored."""
    steps = Process(config(folder / "undisturbed", growing)).run().fuse.steps
    cfg = config(folder, growing)
    with pytest.raises(Killed):
        Process(cfg, Fuse(steps.index("after append") + 1)).run()
    return cfg


@pytest.fixture
def growing(folder):
    """A run of one round so far."""
    cfg = small_config(folder / "old", "gates=null", "rounds=1")
    Process(cfg).run()
    return cfg


@pytest.mark.parametrize("is_cleaned", [False, True])
def test_what_another_run_gains_while_it_is_taken_in_is_not_taken(folder, growing, is_cleaned):
    cfg = start_taking(folder, growing)
    grown(growing, 2)
    if is_cleaned:  # the version that was begun with is there no more
        ReplayBuffer.open(growing.run_dir).clean([], older_than=timedelta(0))
        for tag in (dataset := lance.dataset(f"{growing.run_dir}/buffer.lance")).tags.list():
            dataset.tags.delete(tag)
        dataset.cleanup_old_versions(older_than=timedelta(0))
        reader = TraceReader.open(StoreLocation(dataset.uri))
        assert reader.at(ledger_of(cfg)["taking"]["version"]) is None
    Process(cfg).run()
    expected = config(folder / "undisturbed", growing)
    assert (end_state(cfg), taken(cfg)) == (end_state(expected), taken(expected))
    assert ledger_of(cfg)["taken"]["rollouts"] == {"-1": 8} and "taking" not in ledger_of(cfg)


def test_another_run_in_the_place_of_one_that_is_half_taken_is_refused(folder, growing):
    cfg = start_taking(folder, growing)
    shutil.rmtree(growing.run_dir)
    Process(growing).run()
    with pytest.raises(ConfigError, match=r"store\.from=.* of which this run has taken a part"):
        Process(cfg).run()


def test_a_store_at_an_address_is_opened_with_the_storage_options(folder, monkeypatch):
    opened, empty = [], ReplayBuffer.open(folder)
    monkeypatch.setattr(TraceReader, "open", lambda place: opened.append(place) or empty)
    options = "store.storage_options={region: eu-west-1}"
    cfg = small_config(folder, "store.from=s3://bucket/old.lance", options)
    ledger = Ledger.open(cfg, BASE)
    assert find_taking(cfg, [], None, ledger) is not None
    ledger.close()
    assert opened == [StoreLocation("s3://bucket/old.lance", {"region": "eu-west-1"})]
