"""Extra rollouts, blank-image probes and schedules: killed anywhere, a run ends the same."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from flow_fakes import (
    MATERIAL,
    FakeRollouts,
    Fuse,
    Killed,
    Process,
    end_state,
    small_config,
    stored,
)
from PIL import Image

from virgo_ray.errors import TraceStoreError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.model.blank import BLANK
from virgo_ray.selection import choose_samples
from virgo_ray.store.buffer import ReplayBuffer, request_seed

USUAL = (
    "gates=null",
    "explore.extra={max_samples: 5, until_correct: 3, batch: 2, budget_share: 2.75}",
    "explore.blank_probe=true", "select.blank_solved_weight=0.5", "select.max_overlap=0.9",
    "explore.temperatures=[0.8, 1.1]", "train.seed_share=[0.6, 0.3]", "select.loss_balance=1.0",
    "explore.unsolved_share=0.5", "explore.rate_rounds=1",
)  # fmt: skip


@pytest.fixture
def material(folder):
    """All problems but one have a picture."""
    picture = folder / "picture.png"
    Image.new("RGB", (5, 4), "red").save(picture)
    images = [(), *[(str(picture),)] * (len(MATERIAL.problems) - 1)]
    problems = [replace(p, images=i) for p, i in zip(MATERIAL.problems, images, strict=True)]
    return replace(MATERIAL, problems=problems)


def config(folder, *overrides):
    return small_config(folder, *USUAL, *overrides)


def samples_and_probes(cfg, t):
    """({(id, index): is correct}, {id: is correct}) of a round."""
    found = {key[1:]: j.verdict.is_correct for key, j in stored(cfg).items() if key[0] == t}
    probes = {id.removesuffix(BLANK): c for (id, _), c in found.items() if id.endswith(BLANK)}
    return {key: c for key, c in found.items() if not key[0].endswith(BLANK)}, probes


def test_every_round_asks_what_it_must_and_nothing_else(folder, material):
    cfg = config(folder)
    Process(cfg, material=material).run()
    with_pictures = {p.id for p in material.problems if p.images}
    for t in (1, 2):
        samples, probes = samples_and_probes(cfg, t)
        asked = {id for id, _ in samples}
        assert len(asked) == 4
        wanted = choose_samples(asked, 2, cfg.explore.extra, samples)
        assert set(samples) == set(wanted) and len(wanted) > 8
        solved = {id for (id, _), is_correct in samples.items() if is_correct}
        assert probes.keys() == solved & with_pictures


class Slow(FakeRollouts):
    """Of the first round's first samples one comes last of all: when nothing else can come."""

    kept, num_before = None, None

    def sample(self, requests, sampling):
        for rollout in super().sample(requests, sampling):
            if rollout is not None and self.kept is None and is_of_exploration(rollout):
                self.kept = rollout
            elif rollout is None and self.kept is not None and self.num_before is None:
                self.num_before = len(self.asked)
                yield self.kept
            else:
                yield rollout


def is_of_exploration(rollout):
    return rollout.problem.id.startswith("p") and rollout.weights_version == 1


@pytest.mark.parametrize("share", ["null", "2.75"])
def test_a_slow_rollout_holds_up_no_extra_ones_and_no_probes(folder, material, share, monkeypatch):
    """Where a budget is shared, only those that the slow one might take it from."""
    cfg = config(folder, f"explore.extra.budget_share={share}")
    plain = config(folder / "plain", f"explore.extra.budget_share={share}")
    Process(plain, material=material).run()
    monkeypatch.setattr("flow_fakes.FakeRollouts", Slow)
    slow = Process(cfg, material=material).run()
    assert comparable(end_state(cfg)) == comparable(end_state(plain))
    explored = [key for key in stored(cfg) if key[0] == 1]
    early = slow.rollouts.asked[: slow.rollouts.num_before]
    extra = [a for a in early if a[0] == 1 and not a[1] and a[2].startswith("p") and a[3] > 1]
    probes = [a for a in early if a[0] == 1 and a[2].endswith(BLANK)]
    assert probes and len(extra) > 1 and len(explored) > len(extra)


def test_probes_are_greedy_and_blank_and_in_no_figure(folder, material):
    cfg = config(folder)
    Process(cfg, material=material).run()
    reader = ReplayBuffer.open(cfg.run_dir)
    ledger = Ledger.reopen(Path(cfg.run_dir))
    tallies = {r.number: r.tally for r in ledger.rounds()}
    ledger.close()
    for t, temperature in ((1, 0.8), (2, 1.1)):
        samples, probes = samples_and_probes(cfg, t)
        assert probes
        for judged in reader.judged([t]):
            sampling, problem = judged.rollout.sampling, judged.rollout.problem
            is_probe = problem.id.endswith(BLANK)
            assert sampling["temperature"] == (0.0 if is_probe else temperature)
            for path in problem.images:
                with Image.open(path) as image:
                    assert image.size == (5, 4)
                    white, red = (255, 255, 255), (255, 0, 0)
                    assert image.getpixel((0, 0)) == (white if is_probe else red)
        assert tallies[t].asked == len(samples) and tallies[t].blank_asked == len(probes)
        assert tallies[t].blank_solved == sum(probes.values())
        counts = reader.judged_counts([t])
        assert counts.keys() <= {id for id, _ in samples}
        assert reader.solved(t) == {id for (id, _), is_correct in samples.items() if is_correct}
        for c in reader.candidates([t]):
            assert not c.problem_id.endswith(BLANK)
            assert c.is_blank_solved == probes.get(c.problem_id, False)
            assert (c.num_correct, c.num_judged) == counts[c.problem_id]
        assert not any(o.problem_id.endswith(BLANK) for o in reader.rows(t))


def test_killed_anywhere_the_same_is_asked_and_nothing_twice(folder, material):
    undisturbed = config(folder / "undisturbed")
    whole = Process(undisturbed, material=material).run()
    expected, num_steps = end_state(undisturbed), len(whole.fuse.steps)
    for step in range(0, num_steps, 5):
        cfg = config(folder / str(step))
        with pytest.raises(Killed) as killed:
            Process(cfg, Fuse(step), material=material).run()
        begun = (Path(cfg.run_dir) / "buffer.lance/_versions").exists()
        durable = {request_seed(cfg.seed, *key) for key in stored(cfg)} if begun else set()
        again = Process(cfg, order_seed=step, material=material).run()
        assert comparable(end_state(cfg)) == comparable(expected), str(killed.value)
        assert not durable & set(again.rollouts.asked_seeds), str(killed.value)


def test_killed_again_and_again_the_run_still_ends_the_same(folder, material):
    rng = random.Random(0)
    undisturbed, cfg = config(folder / "a"), config(folder / "b")
    Process(undisturbed, material=material).run()
    for attempt in range(1000):
        try:
            Process(cfg, Fuse(rng.randint(0, 40)), order_seed=attempt, material=material).run()
            break
        except Killed:
            continue
    assert attempt > 3
    assert comparable(end_state(cfg)) == comparable(end_state(undisturbed))


def comparable(state):
    """Blank pictures lie in the run directory, which differs."""
    rollouts = {
        key: replace(j, rollout=replace(j.rollout, problem=replace(j.rollout.problem, images=())))
        for key, j in state["rollouts"].items()
    }
    return {**state, "rollouts": rollouts}


def test_each_round_has_its_share_of_seed_thoughts(folder):
    shares = {}
    for name, share in (("list", "[0.9, 0.0]"), ("number", "0.9")):
        cfg = config(folder / name, f"train.seed_share={share}", "train.seed_floor=0")
        process = Process(cfg).run()
        shares[name] = [
            sum(e["id"].startswith("s") for e in examples(cfg, version))
            for version in process.trainer.trained
        ]
    num = len(MATERIAL.seed_thoughts)
    assert shares == {"list": [num, num, 0], "number": [num, num, num]}


def test_rare_sources_and_bins_count_more_in_the_loss(folder):
    cfg = config(folder, "seed=2")  # one whose traces are of two bins
    Process(cfg).run()
    weights = [e["weight"] for e in examples(cfg, 3) if not e["id"].startswith("s")]
    assert len(set(weights)) > 1 and sum(weights) == pytest.approx(len(weights))


def examples(cfg, version):
    return json.loads((Path(cfg.run_dir) / f"weights/v{version:04d}/plan.json").read_text())[0]


def test_rollouts_that_never_come_back_stop_the_run(folder):
    buffer = ReplayBuffer.open(folder)
    with pytest.raises(TraceStoreError, match="3 rollouts were asked for in round 1 and 0 came"):
        buffer.add_all(1, [], range(3))
