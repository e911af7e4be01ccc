"""The checks behind scripts/chaos.py notice what they are for; it finds only its own processes."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import lance
import psutil
import pytest
from round_parts import evaluation
from test_buffer import judged

from virgo_ray.config import StoreConfig, load_config
from virgo_ray.evaluate.answers import SAMPLED, AnswerFile
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import FitReport, Tally, Weights
from virgo_ray.store.buffer import ReplayBuffer

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import chaos
import chaos_checks
import chaos_kills
import chaos_run
from chaos_checks import Snapshot


@pytest.fixture
def run(tmp_path):
    """Round 1 explored (2 problems, 2 samples), round 0 trained, the base evaluated; a store of its
    own place."""
    store = StoreConfig(path=str(tmp_path / "elsewhere.lance"))
    cfg = load_config("configs/tiny.yaml", [f"run_dir={tmp_path}/run", f"store.path={store.path}"])
    ledger = Ledger.open(cfg, Weights(0, "base"))
    buffer = ReplayBuffer.open(cfg.run_dir, store=store)
    for problem in "ab":
        for index in (0, 1):
            buffer.add(1, judged(problem, index))
    ledger.commit_tally(0, 1, Tally(asked=0, accepted=0))
    ledger.commit_fit(0, FitReport(Weights(1, "/w"), 1, 1, 1, 1, 2.0, 1.0, 3.0))
    ledger.commit_evaluation(None, evaluation(pass_at_1=0.25))
    ledger.commit_tally(1, buffer.seal(), Tally(asked=4, accepted=4))
    ledger.close()
    return cfg


def look(cfg):
    return chaos_checks.snapshot(Path(cfg.run_dir), cfg.store)


def test_a_sound_run_has_no_problems_and_may_grow(run):
    before = look(run)
    assert before.num_rows == 4 and set(before.committed) == {
        "0/explored", "0/trained", "1/explored", "evaluated/base",
    }  # fmt: skip
    assert chaos_checks.broken(Snapshot(), before) == []
    assert chaos_checks.incomplete(before, num_samples=2) == []
    buffer = ReplayBuffer.open(run.run_dir, store=run.store)
    buffer.add(2, judged("a", 0))
    buffer.flush()
    assert chaos_checks.broken(before, look(run)) == [] and look(run).num_rows == 5


def test_what_is_lost_changed_or_doubled_is_named(run):
    good = look(run)
    rows = dict(good.rollouts)
    key = (1, "a", 0)
    lost = Snapshot(good.committed, {k: v for k, v in rows.items() if k != key})
    assert chaos_checks.broken(good, lost) == ["1 stored rollouts were lost: (1, 'a', 0)"]
    assert chaos_checks.incomplete(lost, 2) == [
        "round 1 has 3 rollouts, its tally 4",
        "1 asked rollouts are missing: (1, 'a', 0)",
    ]
    other = Snapshot(good.committed, {**rows, key: ["another"]})
    assert chaos_checks.broken(good, other) == ["1 stored rollouts were changed: (1, 'a', 0)"]
    twice = Snapshot(good.committed, {**rows, key: [*rows[key], "again"]})
    assert chaos_checks.broken(good, twice) == ["1 keys are stored more than once: (1, 'a', 0)"]
    torn = Snapshot({**good.committed, "0/trained": {"weights": "others"}}, rows)
    assert chaos_checks.broken(good, torn) == ["committed 0/trained changed or vanished"]


def test_kept_answers_of_an_evaluation_may_grow_and_nothing_else(run):
    path = Path(run.run_dir) / "heldout/v0001/answers.jsonl"
    file = AnswerFile(path, [judged(p, 0).rollout.problem for p in "abc"])
    file.add(judged("a", 0))
    good = look(run)
    assert set(good.answers) == {("v0001", "a", SAMPLED, 0)}
    file.add(judged("b", 0))
    with open(path, "a") as torn:
        torn.write('{"id": "c", "how": "sam')
    assert chaos_checks.broken(good, look(run)) == []
    path.write_text(path.read_text().splitlines()[1] + "\n")
    key = "('v0001', 'a', 'sampled', 0)"
    assert chaos_checks.broken(good, look(run)) == [f"1 kept answers were lost: {key}"]
    file.add(judged("a", 0))
    file.add(judged("a", 0))
    assert chaos_checks.doubled(look(run)) == [f"1 answers are kept more than once: {key}"]


def test_a_key_that_is_in_the_store_twice_is_read_twice(run):
    buffer = ReplayBuffer.open(run.run_dir, store=run.store)
    buffer._enter(1)
    buffer._keys.clear()  # as a faulty buffer would
    buffer.add(1, judged("a", 0))
    buffer.flush()
    assert chaos_checks.doubled(look(run)) == ["1 keys are stored more than once: (1, 'a', 0)"]


def test_many_problems_of_a_kind_are_one_line():
    many = {(1, f"p{i}", 0): ["a", "b"] for i in range(9)}
    (line,) = chaos_checks.doubled(Snapshot({}, many))
    assert line.startswith("9 keys") and line.endswith("...") and line.count("'p") == 5


def test_doubled_train_steps_are_found_and_torn_lines_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"kind": "train", "train_step": s}) for s in (1, 2, 3)]
    path.write_text("\n".join([*lines, '{"kind": "train", "tra', lines[1]]) + "\n")
    records = chaos_checks.read_records(path)
    assert len(records) == 4
    assert chaos_checks.doubled_steps(records) == ["1 train steps are logged more than once: 2"]
    assert chaos_checks.doubled_steps(records[:3]) == []


def test_accuracies_agree_within_the_noise_of_their_sizes():
    def of(p):
        return {"pass_at_1": p, "num_problems": 200}

    assert chaos_checks.accuracy_gap(of(0.50), of(0.55)) == []
    assert chaos_checks.accuracy_gap(of(1.0), of(1.0)) == []
    (gap,) = chaos_checks.accuracy_gap(of(0.30), of(0.55))
    assert "0.300" in gap and "0.550" in gap


def test_runs_are_compared_at_the_last_round_that_both_have():
    ours = dict.fromkeys(["evaluated/base", "evaluated/9", "evaluated/10", "3/trained"])
    other = dict.fromkeys(["evaluated/base", *(f"evaluated/{t}" for t in range(12))])
    assert chaos_checks.last_common_evaluation(ours, other) == "evaluated/10"
    assert chaos_checks.last_common_evaluation(ours, {"evaluated/base": 1}) is None


def test_phases_and_limits_are_read_from_what_a_run_prints():
    text = "x  round base/2  start engines\nx  round 1/2  sample  3/16  9 tok/s\nother\n"
    assert chaos_run.PHASE.findall(text) == [("base", "start engines"), ("1", "sample")]
    assert chaos.LIMITS.search("expected at least rollout.min_workers=1: worker 0 died")
    assert chaos.LIMITS.search("error: DiskError: a.png could not be written: File too large")
    assert not chaos.LIMITS.search("error: TrainingError: loss is nan")


def test_targets_are_parsed_and_chosen_among_what_is_there(capsys):
    args = chaos.parse_args(["--targets", "rollout,cluster", "c.yaml", "a=1"])
    assert args.targets == ("rollout", "cluster") and args.overrides == ["a=1"]
    with pytest.raises(SystemExit):
        chaos.parse_args(["--targets", "judge", "c.yaml"])
    assert "'judge': expected some of driver" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        chaos.parse_args(["--targets", "raylet", "c.yaml"])
    assert "--targets raylet needs --nodes" in capsys.readouterr().err
    assert not {"raylet", "memory"} & set(chaos.parse_args(["c.yaml"]).targets)
    assert set(chaos.parse_args(["--nodes", "3", "--ballast", "99", "c.yaml"]).targets) == set(
        chaos_kills.KINDS
    )
    assert chaos_kills.present(args.targets, []) == []
    own = [psutil.Process()]
    assert chaos_kills.present(args.targets, own) == ["cluster"]
    assert chaos_kills.present(chaos_kills.KINDS, own) == ["driver", "cluster", "disk"]
    assert chaos_kills.parts(own, "rollout") == []


def test_parts_are_found_by_the_names_ray_gives_them_among_descendants_only(tmp_path):
    title = "import ray._raylet, ray._private.worker, time; ray._raylet.setproctitle"
    code = f"{title}('ray::TrainerWorker.fit'); print('named', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "named\n"
        found = chaos_kills.parts(psutil.Process().children(recursive=True), "trainer")
        assert [p.pid for p in found] == [child.pid]
        assert chaos_kills.parts(found, "rollout") == []
    finally:
        child.kill()
        child.wait(10)


def test_one_stored_row_that_is_removed_by_hand_is_missed(run):
    good = look(run)
    assert chaos_checks.broken(good, look(run)) == []
    lance.dataset(run.store.path).delete("problem_id = 'a' and sample_index = 1")
    after = look(run)
    assert chaos_checks.broken(good, after) == ["1 stored rollouts were lost: (1, 'a', 1)"]
    assert "1 asked rollouts are missing: (1, 'a', 1)" in chaos_checks.incomplete(after, 2)


def test_tallies_are_those_of_the_reference_in_every_common_round(run):
    ours = look(run).committed
    other = {**ours, "1/explored": {**ours["1/explored"], "accepted": 3}, "2/explored": {}}
    assert chaos_checks.tally_gaps(ours, ours) == []
    (gap,) = chaos_checks.tally_gaps(ours, other)
    assert gap.startswith("1/explored counts [4, 4]") and gap.endswith("reference [4, 3]")


def test_the_rarest_kind_of_a_phase_is_struck_and_a_shortfall_is_told():
    struck = Counter({("driver", "sample"): 1, ("engine", "train"): 3, ("disk", "train"): 1})
    rng = random.Random(0)
    assert chaos_kills.choose(rng, ["driver", "engine", "disk"], "sample", struck) == "disk"
    assert chaos_kills.choose(rng, ["driver", "engine", "disk"], "train", struck) == "driver"
    assert chaos_kills.shortfall(struck, ["driver", "engine"], 1, 1) == []
    (told,) = chaos_kills.shortfall(struck, ["engine"], 3, 2)
    assert told == "engine was struck 3 times in 1 phases, expected 3 in 2"


def test_a_phase_in_which_every_kind_was_struck_is_let_pass():
    kinds = ("driver", "engine")
    struck = Counter({("driver", "train"): 2, ("engine", "train"): 1})
    assert chaos_kills.lacking(kinds, "train", struck, kinds, 4, 3) == ["engine"]
    assert chaos_kills.lacking(kinds[:1], "train", struck, kinds, 4, 3) == []
    assert chaos_kills.lacking(kinds, "sample", struck, kinds, 4, 3) == list(kinds)
    assert chaos_kills.lacking(kinds[:1], "train", struck, kinds, 0, 0) == ["driver"]
    struck += Counter({(kind, phase): 2 for kind in kinds for phase in ("sample", "push")})
    assert chaos_kills.lacking(kinds, "sample", struck, kinds, 4, 3) == list(kinds)


def test_a_process_with_a_full_disk_can_write_no_file_further_until_it_is_freed(tmp_path):
    code = """
import sys
for line in sys.stdin:
    try:
        with open(line.strip(), "wb") as file:
            file.write(b"x" * 10000)
        print("written", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask():
        child.stdin.write(f"{tmp_path}/file\n")
        child.stdin.flush()
        return child.stdout.readline().strip()

    try:
        assert ask() == "written"
        free = chaos_kills.fill_disk(psutil.Process(child.pid))
        assert ask() == "File too large"
        free()
        assert ask() == "written"
    finally:
        child.kill()
        child.wait(10)


def test_an_engine_is_stopped_in_a_push_that_is_waited_for():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    phases = iter(["1 train", "1 train", "2 push"])
    seen = []

    def phase():
        seen.append(next(phases))
        return seen[-1]

    class Always(random.Random):
        def random(self):
            return 0.0

    try:
        victim = psutil.Process(child.pid)
        assert chaos_kills.hang(Always(0), lambda: [victim], phase, lambda: False)
        assert seen[-1] == "2 push"
        deadline = time.monotonic() + 10
        while victim.status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not chaos_kills.hang(Always(0), lambda: [], lambda: "3 push", lambda: False)
    finally:
        child.kill()
        child.wait(10)
