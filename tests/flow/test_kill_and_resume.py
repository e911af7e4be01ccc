"""Killed at any step and started again, a run ends as if nothing had happened."""

import json
import random
import re
from pathlib import Path

import pytest
from flow_fakes import MATERIAL, Fuse, Killed, Process, end_state, small_config, stored

from virgo_ray.errors import LedgerError, TraceStoreError
from virgo_ray.store.buffer import request_seed

FAITHFUL = ("select.policy=faithful", "select.min_pass_rate=0.5", "explore.screen=true")
PREVIOUS = ("train.restart_from=previous", "select.last_rounds=1", "select.max_traces=3")


def config(folder, *overrides):
    return small_config(folder, "gates=null", *overrides)


# -- an undisturbed run ----------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [(), FAITHFUL, PREVIOUS])
def test_a_run_samples_every_key_once_and_yields_every_round(folder, overrides):
    cfg = config(folder, *overrides)
    process = Process(cfg).run()
    assert process.labels == ["base", 0, 1, 2]
    assert process.trainer.trained == [1, 2, 3]
    rounds = [key[0] for key in stored(cfg)]
    assert rounds.count(0) == (len(MATERIAL.problems) if cfg.explore.screen else 0)
    for t in (1, 2):
        ids = {id for round, id, _ in stored(cfg) if round == t}
        assert 0 < len(ids) <= cfg.explore.num_problems
        assert rounds.count(t) == len(ids) * cfg.explore.num_samples


def test_the_faithful_recipe_never_asks_what_the_base_solved(folder):
    cfg = config(folder, *FAITHFUL)
    Process(cfg).run()
    found = stored(cfg)
    solved = {id for (t, id, _), j in found.items() if t == 0 and j.verdict.is_correct}
    asked = {id for t, id, _ in found if t > 0}
    assert solved and asked and not solved & asked


def test_the_order_in_which_rollouts_finish_changes_nothing(folder):
    states = []
    for seed in range(3):
        cfg = config(folder / str(seed))
        Process(cfg, order_seed=seed).run()
        states.append(end_state(cfg))
    assert states[0] == states[1] == states[2]


def test_another_seed_gives_another_run(folder):
    runs = [config(folder / str(seed), f"seed={seed}") for seed in (0, 1)]
    for cfg in runs:
        Process(cfg).run()
    assert end_state(runs[0])["rollouts"] != end_state(runs[1])["rollouts"]


def test_rollouts_carry_the_version_of_the_round_before(folder):
    cfg = config(folder, *FAITHFUL)
    Process(cfg).run()
    assert {(t, j.rollout.weights_version) for (t, _, _), j in stored(cfg).items()} == {
        (0, 0), (1, 1), (2, 2),
    }  # fmt: skip


def test_a_finished_run_started_again_does_nothing(folder):
    cfg = config(folder)
    Process(cfg).run()
    before = end_state(cfg)
    again = Process(cfg, order_seed=1).run()
    assert not again.labels and not again.trainer.trained and not again.rollouts.asked_seeds
    assert end_state(cfg) == before


# -- kills -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides", [(), FAITHFUL, PREVIOUS], ids=["improved", "faithful", "previous"]
)
def test_killed_at_every_single_step_the_run_ends_the_same(folder, overrides):
    undisturbed = config(folder / "undisturbed", *overrides)
    num_steps = len(Process(undisturbed).run().fuse.steps)
    expected = end_state(undisturbed)
    # Every step of the default recipe; the variants share most steps and take every fourth.
    for step in range(0, num_steps, 4 if overrides else 1):
        cfg = config(folder / str(step), *overrides)
        with pytest.raises(Killed) as killed:
            Process(cfg, Fuse(step)).run()
        durable = durable_seeds(cfg)
        published = {int(p.parent.name[1:]) for p in Path(cfg.run_dir).glob("weights/*/DONE")}
        again = Process(cfg, order_seed=step).run()
        message = str(killed.value)
        assert end_state(cfg) == expected, message
        assert not durable & set(again.rollouts.asked_seeds), message
        assert not published & set(again.trainer.trained), message


def durable_seeds(cfg):
    if not (Path(cfg.run_dir) / "buffer.lance/_versions").exists():
        return set()
    return {request_seed(cfg.seed, *key) for key in stored(cfg)}


@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again_the_run_still_ends_the_same(folder, seed):
    rng = random.Random(seed)
    undisturbed, cfg = config(folder / "a"), config(folder / "b")
    Process(undisturbed).run()
    for attempt in range(1000):
        try:
            Process(cfg, Fuse(rng.randint(0, 25)), order_seed=attempt).run()
            break
        except Killed:
            continue
    assert attempt > 3
    assert end_state(cfg) == end_state(undisturbed)


# -- what may change between two starts ------------------------------------------------------------


def test_a_changed_config_is_refused_by_its_key_and_the_run_can_go_on_with_the_old_one(folder):
    cfg = config(folder)
    with pytest.raises(Killed):
        Process(cfg, Fuse(40)).run()
    before = stored(cfg)
    with pytest.raises(LedgerError, match=r"seed: 0 -> 3"):
        Process(config(folder, "seed=3")).run()
    assert stored(cfg) == before
    Process(cfg).run()
    undisturbed = config(folder / "undisturbed")
    Process(undisturbed).run()
    assert end_state(cfg) == end_state(undisturbed)


def test_more_rounds_and_other_workers_may_be_asked_for_later(folder):
    Process(config(folder, "rounds=1")).run()
    longer = config(folder, "rollout.num_workers=1", "rollout.min_workers=1")
    process = Process(longer).run()
    assert process.labels == [2] and process.trainer.trained == [3]
    undisturbed = config(folder / "undisturbed")
    Process(undisturbed).run()
    assert end_state(longer) == end_state(undisturbed)


@pytest.mark.parametrize("num_workers", [1, 4])
def test_a_killed_run_goes_on_with_fewer_or_more_of_everything(folder, num_workers):
    """Rollouts by request seed, steps by example: neither depends on who does the work."""
    undisturbed = config(folder / "undisturbed")
    num_steps = len(Process(undisturbed).run().fuse.steps)
    expected = end_state(undisturbed)
    del expected["plans"]
    others = [f"{part}.num_workers={num_workers}" for part in ("train", "rollout", "verify")]
    for step in range(3, num_steps, 5):
        with pytest.raises(Killed) as killed:
            Process(config(folder / str(step)), Fuse(step)).run()
        cfg = config(folder / str(step), *others)
        Process(cfg, order_seed=step).run()
        state = end_state(cfg)
        del state["plans"]
        assert state == expected, str(killed.value)
        assert batches(cfg) == batches(undisturbed), str(killed.value)


def batches(cfg):
    """{version: [the examples of each optimizer step, whichever rank has them]}."""
    found = {}
    for path in sorted(Path(cfg.run_dir).glob("weights/*/plan.json")):
        examples, steps, _ = json.loads(path.read_text())
        found[path.parent.name] = [
            sorted(examples[i]["id"] for rank in step for micro in rank for i in micro)
            for step in steps
        ]
    return found


def test_a_store_that_lost_committed_rollouts_stops_the_run(folder):
    cfg = config(folder)
    Process(cfg).run()
    (Path(cfg.run_dir) / "buffer.lance").rename(folder / "lost")
    cfg = cfg.model_copy(update={"rounds": 3})
    with pytest.raises(TraceStoreError, match="the ledger relies on"):
        Process(cfg).run()


@pytest.mark.parametrize("step", ["sample ('p", "judge ('p", "before fit of 2"])
def test_after_a_failure_of_a_port_the_run_can_be_continued(folder, step):
    class Failure(Fuse):
        def tick(self, name):
            if name.startswith(step):
                raise RuntimeError(name)
            super().tick(name)

    cfg = config(folder / "failed")
    with pytest.raises(RuntimeError, match=re.escape(step)):
        Process(cfg, Failure()).run()
    Process(cfg).run()
    undisturbed = config(folder / "undisturbed")
    Process(undisturbed).run()
    assert end_state(cfg) == end_state(undisturbed)
