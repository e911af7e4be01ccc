"""Who is asked and what is trained where a teacher takes the model's place, or no round 0 is."""

import json
from pathlib import Path

import pytest
from flow_fakes import BASE, Process, stored
from test_kill_and_resume import FAITHFUL, config

from virgo_ray.ledger.file import read_state
from virgo_ray.records import TEACHER_VERSION, Rollout

TEACHER = ("teacher.url=http://localhost/v1", "teacher.model=m", "rounds=1")


class KnowsAll:
    """A teacher that is always right."""

    def __init__(self):
        self.asked = []

    def sample(self, requests, sampling):
        for request in requests:
            if request is None:
                yield None
                continue
            self.asked.append(request.key)
            ids = tuple(range(5 + request.sample_index))
            yield Rollout(
                request.problem, request.sample_index, f"{request.problem.answer} so", ids, "stop",
                TEACHER_VERSION, {"teacher": "m"},
            )  # fmt: skip


def plan_of(cfg, version):
    path = Path(cfg.run_dir) / "weights" / f"v{version:04d}" / "plan.json"
    examples, _, start = json.loads(path.read_text())
    return [e["id"] for e in examples], start


def test_a_teacher_is_asked_in_every_round_but_the_screening_is_the_bases(tmp_path):
    cfg = config(tmp_path, *FAITHFUL, *TEACHER)
    teacher = KnowsAll()
    Process(cfg, teacher=teacher).run()
    found = stored(cfg)
    versions = {(key[0], judged.rollout.weights_version) for key, judged in found.items()}
    assert versions == {(0, BASE.version), (1, TEACHER_VERSION)}
    assert sorted(teacher.asked) == sorted(key[1:] for key in found if key[0] == 1)
    assert {j.rollout.sampling["teacher"] for (t, _, _), j in found.items() if t} == {"m"}


def test_without_a_seed_round_the_base_goes_on_and_learns_from_the_teacher_alone(tmp_path):
    cfg = config(tmp_path, *TEACHER, "seed_round=false", "train.seed_share=0", "train.seed_floor=0")
    process = Process(cfg, teacher=KnowsAll()).run()
    assert process.labels == ["base", 0, 1]
    assert process.trainer.trained == [2]
    ids, start = plan_of(cfg, 2)
    assert start == BASE.version and ids and all(id.startswith("1/") for id in ids)
    again = Process(cfg, teacher=KnowsAll()).run()
    assert again.labels == [] and again.trainer.trained == []


def test_no_training_at_all_is_a_run_too(tmp_path):
    cfg = config(tmp_path, "rounds=0", "seed_round=false")
    process = Process(cfg).run()
    assert process.labels == ["base", 0] and process.trainer.trained == []
    assert process.rollouts.version == BASE.version


@pytest.mark.parametrize(("share", "floor", "num_seeds"), [(0, 0, 0), (1, 0, 4), (0, 1, 2)])
def test_a_round_learns_from_own_traces_and_the_seeds_that_share_and_floor_ask_for(
    tmp_path, share, floor, num_seeds
):
    cfg = config(tmp_path, "rounds=1", f"train.seed_share={share}", f"train.seed_floor={floor}")
    Process(cfg).run()
    ids, _ = plan_of(cfg, 2)
    assert sum(id.startswith("s") for id in ids) == num_seeds
    assert len(plan_of(cfg, 1)[0]) == 4 and any(id.startswith("1/") for id in ids)
    trained = read_state(Path(cfg.run_dir) / "ledger.json")["rounds"]["1"]["trained"]
    counts = {kind: portion["num_examples"] for kind, portion in trained["portions"].items()}
    num_traces = len(ids) - num_seeds
    assert counts == {
        "seed_thoughts": num_seeds, "text_traces": num_traces, "picture_traces": 0
    }  # fmt: skip
