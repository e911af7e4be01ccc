"""Rounds of reinforcement: what they learn from, and that a killed run ends the same."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from flow_fakes import MATERIAL, Fuse, Killed, Process, end_state, small_config, stored
from test_gated_runs import HELDOUT, collapsing

from virgo_ray.errors import DataError, NoProgressError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Problem, Status
from virgo_ray.run import find_complete, reported
from virgo_ray.selection import choose_for_round

GRPO = (
    "gates=null", "train.restart_from=previous", "explore.num_samples=4",
    "train.objective={name: grpo, num_steps: 2, max_refills: 2, grpo: {importance: none}}",
    "train.seed_share=0.2", "train.seed_floor=0", "explore.temperatures=[0.8, 1.1]",
    "train.num_workers=2",
)  # fmt: skip
TWO = "explore.num_samples=2"  # many groups have no signal
DPO = ("train.objective={name: dpo}", "gates=null", "explore.num_samples=4")


@pytest.fixture
def material():
    problems = [Problem(f"p{i}", f"What is {i}?", str(i), source="s") for i in range(14)]
    return replace(MATERIAL, problems=problems)


def learned(cfg, version):
    """The examples and the start of a fit."""
    path = Path(cfg.run_dir) / "weights" / f"v{version:04d}" / "plan.json"
    examples, _, start = json.loads(path.read_text())
    return examples, start


def statuses(cfg, t):
    return {key[1:]: j.verdict.status for key, j in stored(cfg).items() if key[0] == t}


def test_a_round_learns_from_its_own_groups_and_goes_on_from_the_weights_that_sampled(
    folder, material
):
    cfg = small_config(folder, *GRPO)
    Process(cfg, material=material).run()
    seeds, start = learned(cfg, 1)
    assert start == 0 and not any(e["group"] for e in seeds)
    for t in (1, 2):
        examples, start = learned(cfg, t + 1)
        own = [e for e in examples if e["group"]]
        assert start == t and own and {e["id"].split("/")[0] for e in own} == {str(t)}
        assert {e["temperature"] for e in own} == {choose_for_round((0.8, 1.1), t)}
        judged = statuses(cfg, t)
        groups = {}
        for e in own:
            _, problem, index = e["id"].split("/")
            assert judged[problem, int(index)] not in (Status.TIMEOUT, Status.ERROR)
            is_correct = judged[problem, int(index)] is Status.CORRECT
            assert (e["weight"] > 0) is is_correct and e["weight"] != 0
            groups.setdefault(e["group"], []).append(e["weight"])
        assert all(abs(sum(weights)) < 1e-9 for weights in groups.values())
        assert 0 < sum(not e["group"] and e["weight"] for e in examples) <= 0.2 * len(examples) + 1


def test_problems_without_signal_are_followed_by_others_up_to_the_bound(folder, material):
    cfg = small_config(folder, *GRPO, TWO)
    Process(cfg, material=material).run()
    plain = small_config(folder / "plain", *GRPO, TWO, "train.objective.max_refills=0")
    Process(plain, material=material).run()
    asked = {id for id, _ in statuses(plain, 1)}
    refilled = {id for id, _ in statuses(cfg, 1)}
    dead = [id for id in asked if not has_signal(plain, id)]
    assert len(asked) == 4 and asked <= refilled and dead
    assert len(asked) + len(dead) <= len(refilled) <= len(asked) + 2 * len(dead)


def has_signal(cfg, id):
    found = [s for (own, _), s in statuses(cfg, 1).items() if own == id]
    return len({s is Status.CORRECT for s in found if not s.is_failure_to_judge}) == 2


def test_pairs_of_a_correct_and_a_wrong_rollout_are_learned_from(folder, material):
    cfg = small_config(folder, *DPO)
    Process(cfg, material=material).run()
    examples, start = learned(cfg, 2)
    pairs = [e for e in examples if e["group"]]
    assert start == 0 and pairs and len(pairs) % 2 == 0
    judged = statuses(cfg, 1)
    for chosen, rejected in zip(pairs[::2], pairs[1::2], strict=True):
        assert (chosen["role"], rejected["role"]) == ("chosen", "rejected")
        assert chosen["group"] == rejected["group"]
        kinds = [judged[p, int(i)] for _, p, i in (e["id"].split("/") for e in (chosen, rejected))]
        assert kinds[0] is Status.CORRECT and kinds[1] is not Status.CORRECT


def test_a_round_in_which_no_group_has_signal_says_so(folder):
    material = replace(MATERIAL, problems=[replace(p, answer="x") for p in MATERIAL.problems])

    class AllRight(Process.__dataclass_fields__["verifiers"].default):
        def judge(self, rollouts):
            for judged in super().judge(rollouts):
                right = replace(judged.verdict, status=Status.CORRECT)
                yield replace(judged, verdict=right)

    cfg = small_config(folder, *GRPO)
    with pytest.raises(NoProgressError, match="none of the 5 groups of round 1 has signal"):
        Process(cfg, material=material, verifiers=AllRight).run()


def test_killed_anywhere_the_same_is_asked_and_learned(folder, material):
    undisturbed = small_config(folder / "undisturbed", *GRPO, TWO)
    whole = Process(undisturbed, material=material).run()
    expected, num_steps = end_state(undisturbed), len(whole.fuse.steps)
    for step in range(3, num_steps, 29):
        cfg = small_config(folder / str(step), *GRPO, TWO)
        with pytest.raises(Killed) as killed:
            Process(cfg, Fuse(step), material=material).run()
        Process(cfg, order_seed=step, material=material).run()
        assert end_state(cfg) == expected, str(killed.value)
        assert learned(cfg, 3) == learned(undisturbed, 3)


class KilledIn(Fuse):
    """Dead at the `nth` judgement after round 0 was trained: in the middle of round 1."""

    def __init__(self, nth):
        super().__init__()
        self.nth = nth

    def tick(self, step):
        is_late = "after fit of 1" in self.steps and step.startswith("judge ('p")
        self.nth -= is_late
        if is_late and self.nth == 0:
            raise Killed(step)
        super().tick(step)


def interrupted(cfg, material):
    with pytest.raises(Killed):
        Process(cfg, KilledIn(5), material=material).run()
    assert statuses(cfg, 1)


def test_a_begun_round_asks_as_its_objective_said_when_it_began(folder, material):
    undisturbed = small_config(folder / "undisturbed", *GRPO, TWO)
    Process(undisturbed, material=material).run()
    interrupted(small_config(folder, *GRPO, TWO), material)
    changed = small_config(folder, *GRPO, TWO, "train.objective.max_refills=0", "rounds=1")
    Process(changed, material=material).run()
    assert statuses(changed, 1) == statuses(undisturbed, 1)


def test_a_round_begun_with_extra_rollouts_is_not_reinforced(folder, material):
    begun = ("gates=null", "train.restart_from=previous", "explore.num_samples=2")
    interrupted(
        small_config(folder, *begun, "explore.extra={max_samples: 2, until_correct: 2}"), material
    )
    cfg = small_config(folder, *begun, "train.objective={name: grpo, grpo: {importance: none}}")
    with pytest.raises(DataError, match=r"from 2 to 4 rollouts of a problem"):
        Process(cfg, material=material).run()


def test_a_decision_stands_once_its_weights_are_asked_on_policy(folder, material):
    """Round 0 is rejected and round 1 has begun with the base: wider limits cannot change from
    which weights its fit starts."""
    gated = (*GRPO[1:], "gates.on_failure=continue", "gates.margin=1", "evaluate.k=1")
    bad = (1,)

    def process(cfg, fuse=None):
        return Process(
            cfg, fuse or Fuse(), material=material, verifiers=collapsing(*bad), heldout=HELDOUT
        )

    steps = process(small_config(folder / "whole", *gated)).run().fuse.steps
    begun = next(n for n, step in enumerate(steps) if step == "after append")
    cfg = small_config(folder, *gated)
    with pytest.raises(Killed):
        process(cfg, Fuse(begun + 1)).run()
    process(small_config(folder, *gated[:-3], "gates=null", "evaluate.k=1")).run()
    assert [learned(cfg, version)[1] for version in (2, 3)] == [0, 2]


def test_a_run_without_signal_ends_with_its_newest_round_evaluated(folder, material):
    """Round 1 is between evaluations when round 2 finds no signal; the gates see it all the
    same."""

    class AllRightFromRound2(collapsing(2)):
        def judge(self, rollouts):
            for judged in super().judge(rollouts):
                if judged.rollout.weights_version >= 2 and judged.rollout.problem not in HELDOUT:
                    right = replace(judged.verdict, status=Status.CORRECT)
                    judged = replace(judged, verdict=right)
                yield judged

    gated = (*GRPO[1:], "gates.on_failure=continue", "gates.margin=1", "evaluate.k=1")
    cfg = small_config(folder, *gated, "rounds=9", "evaluate.every=5")
    for labels in (["base", 0, 1, 1], []):
        run = Process(cfg, material=material, verifiers=AllRightFromRound2, heldout=HELDOUT)
        with pytest.raises(NoProgressError, match="groups of round 2 has signal"):
            run.run()
        assert run.labels == labels
    ledger = Ledger.reopen(Path(cfg.run_dir))
    assert ledger.newest.number == 1 and ledger.newest.evaluation and ledger.newest.is_rejected
    ledger.close()


def test_a_run_without_progress_leaves_its_report(folder, material):
    cfg = small_config(folder, *GRPO, "rounds=1")
    Process(cfg, material=material).run()
    ledger = Ledger.reopen(Path(cfg.run_dir))
    written = []
    with (
        pytest.raises(NoProgressError, match="no signal"),
        reported(cfg, ledger, SimpleNamespace(finish=lambda: written.append(True))),
    ):
        raise NoProgressError("no signal")
    ledger.close()
    assert written and (Path(cfg.run_dir) / "report.json").is_file()


def test_rounds_between_evaluations_are_complete(folder, material):
    cfg = small_config(folder, *GRPO, "evaluate.every=2")
    whole = Process(cfg, material=material).run()
    ledger = Ledger.reopen(Path(cfg.run_dir))
    assert [r.label for r in find_complete(cfg, ledger)] == whole.labels == ["base", 0, 1, 2]
    ledger.close()
