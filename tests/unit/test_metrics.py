"""Metrics over several starts of a run: nothing doubled, nothing lost, one run in W&B."""

import base64
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from round_parts import evaluated, evaluation

from virgo_ray.config import load_config
from virgo_ray.errors import ConfigError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.monitor import sync as wandb_sync
from virgo_ray.monitor.metrics import JsonlSink, Metrics
from virgo_ray.monitor.sync import SyncError, messages, read_lines, sync
from virgo_ray.monitor.watch import Monitor, WatchedTrainer
from virgo_ray.records import (
    Failure,
    FitReport,
    Judged,
    Plan,
    Problem,
    Rollout,
    Round,
    Status,
    Tally,
    Verdict,
    Weights,
)
from virgo_ray.run import log_lost_rounds, log_round, open_sinks

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import bench_memory


class Silent:
    def update(self, progress, phase_changed): ...

    def say(self, text): ...


def start(path, *more):
    jsonl = JsonlSink(path)
    return Monitor("n", 2, Metrics([jsonl, *more]), Silent(), jsonl.before), jsonl


def steps(path):
    lines = [json.loads(x) for x in path.read_text().splitlines() if x.endswith("}")]
    return [(r["train_step"], r["train/loss"]) for r in lines if r["kind"] == "train"]


def test_a_fit_that_goes_on_from_its_checkpoint_logs_every_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first, _ = start(path)
    for step in (1, 2, 3, 4):
        first.step({"step": step, "loss": 10.0 - step})
    with path.open("a") as file:
        file.write('{"kind": "train", "train_st')  # killed; its last checkpoint was after step 2
    again, jsonl = start(path)
    assert (jsonl.num_records, jsonl.before.last_train_step) == (5, 4)
    for step in (3, 4, 5, 6):
        again.step({"step": step, "loss": 10.0 - step})
    assert steps(path) == [(s, 10.0 - s) for s in range(1, 7)]


def test_after_the_interrupted_fit_every_step_is_a_new_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    start(path)[0].step({"step": 3, "loss": 1.0})
    monitor, _ = start(path)

    class Finished:
        def fit(self, plan, start, version, is_again=False):
            return FitReport(Weights(version, "/w"), 3, 1, 1, 1, 2.0, 1.0, 3.0)

    WatchedTrainer(Finished(), monitor).fit(Plan((), ()), Weights(0, "base"), 1)
    monitor.step({"step": 1, "loss": 7.0})
    assert steps(path) == [(3, 1.0), (1, 7.0)]


def test_memory_is_logged_with_its_round_and_not_too_often(tmp_path):
    path = tmp_path / "metrics.jsonl"
    monitor, _ = start(path)
    monitor.log_looks()  # nobody to ask yet
    monitor.watch("memory", lambda: {"rss_driver_mib": 1.5, "rss_trainer_rank_0_mib": 2.5})
    monitor.round(1)
    monitor.step({"step": 1, "loss": 1.0})
    monitor.step({"step": 2, "loss": 1.0})
    monitor.log_looks()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    memory = [r for r in records if r["kind"] == "memory"]
    assert len(memory) == 2
    assert memory[0].items() >= {"round": 1, "rss_driver_mib": 1.5}.items()


# -- W&B, for real and offline ---------------------------------------------------------------------


def offline_records(path):
    return messages(path.read_bytes())


def finished_records(run_dir, num_runs):
    """Of all offline runs, once W&B's own process has written their ends."""
    deadline = time.monotonic() + 60
    while True:
        files = sorted(run_dir.glob("wandb/offline-run-*/*.wandb"))
        assert len(files) <= num_runs
        records = [record for file in files for record in offline_records(file)]
        if sum(record.HasField("exit") for record in records) == num_runs:
            return records
        assert time.monotonic() < deadline, f"not all of {num_runs} runs were written to their end"
        time.sleep(0.2)


def row_of(record):
    items = record.history.item
    return {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in items}


@pytest.mark.parametrize("num_kills", [1, 2])
def test_wandb_after_a_resume_is_the_same_run_and_no_step_is_doubled_or_lost(tmp_path, num_kills):
    from virgo_ray.monitor.wandb_sink import WandbSink

    cfg = load_config("configs/tiny.yaml", [f"run_dir={tmp_path}", "wandb.mode=offline"])
    path = tmp_path / "metrics.jsonl"
    for number in range(num_kills + 1):
        jsonl = JsonlSink(path)
        sink = WandbSink(cfg, "tiny-1234", print, jsonl.before)
        monitor = Monitor("n", 2, Metrics([jsonl, sink]), Silent(), jsonl.before)
        for step in range(max(1, 4 * number - 1), 4 * number + 5):  # two steps are done again
            monitor.step({"step": step, "loss": 1.0 / step})
        monitor.event("round", **{"heldout/pass_at_1": 0.5})
        sink.close()
    records = finished_records(tmp_path, num_kills + 1)
    assert {r.run.run_id for r in records if r.HasField("run")} == {"tiny-1234"}
    rows = [row_of(r) for r in records if r.HasField("history")]
    internal = [row["_step"] for row in rows]
    assert internal == sorted(set(internal)), "W&B drops what comes with a step it has seen"
    train = [(row["train_step"], row["train/loss"]) for row in rows if "train_step" in row]
    assert train == steps(path) and len(train) == 4 * (num_kills + 1)
    assert sum("heldout/pass_at_1" in row for row in rows) == num_kills + 1


def test_no_curve_of_wandb_mixes_two_phases(tmp_path):
    from virgo_ray.monitor.wandb_sink import WandbSink

    cfg = load_config("configs/tiny.yaml", [f"run_dir={tmp_path}", "wandb.mode=offline"])
    sink = WandbSink(cfg, "tiny-4321", print)
    for phase, seconds in (("start engines", 9.0), ("train", 5.0)):
        sink.write(
            {"kind": "phase", "time": 0.0, "round": 1, "phase": phase, "phase_seconds": seconds}
        )
    sampled = {"phase": "evaluate", "tokens_per_s": 7.0, "rollouts_total": 90}
    sink.write({"kind": "sampling", "round": None, **sampled})
    sink.write({"kind": "memory", "round": 1, "time": 1800.0, "rss_driver_mib": 300.0})
    sink.close()
    records = finished_records(tmp_path, 1)
    rows = [row_of(r) for r in records if r.HasField("history")]
    assert [{k: v for k, v in row.items() if k[0] != "_"} for row in rows] == [
        {"round": 1, "phase/start_engines/phase_seconds": 9.0},
        {"round": 1, "phase/train/phase_seconds": 5.0},
        {
            "round": -1,  # the base: not round 0
            "sampling/evaluate/tokens_per_s": 7.0,
            "sampling/evaluate/rollouts_total": 90,
        },
        {"round": 1, "hours": 0.5, "memory/rss_driver_mib": 300.0},
    ]
    axes = {r.metric.glob_name: r.metric.step_metric for r in records if r.HasField("metric")}
    assert axes["phase/*"] == axes["heldout/*"] == axes["sources/*"] == "round"
    assert axes["memory/*"] == axes["engines/*"] == axes["pools/*"] == "hours"
    assert axes["train/*"] == "train_step"
    for own in ("sampling/sample", "sampling/evaluate"):
        assert axes[f"{own}/*"] == f"{own}/rollouts_total"
    assert not any(r.metric.options.step_sync for r in records if r.HasField("metric"))


def test_a_wandb_that_breaks_is_reported_once_and_stops_nothing(tmp_path):
    from virgo_ray.monitor.wandb_sink import WandbSink

    cfg = load_config("configs/tiny.yaml", [f"run_dir={tmp_path}", "wandb.mode=offline"])
    said = []
    sink = WandbSink(cfg, "tiny-5678", said.append)
    sink._run.finish()  # what is logged from here on is an error
    for step in (1, 2):
        sink.write({"kind": "train", "train_step": step, "loss": 1.0})
    sink.close()
    assert "W&B is off until the next start" in said[0]
    assert len(said) == 2 and "W&B never took 2 records" in said[1]


def test_a_wandb_that_does_not_start_is_said_and_stops_nothing(tmp_path, monkeypatch):
    import wandb

    class ServerResponseError(Exception):
        """W&B's own of that name is no `wandb.Error`; it comes where a killed run is not over."""

    def init(**settings):
        raise ServerResponseError(f"run ID {settings['id']} is in use")

    monkeypatch.setattr(wandb, "init", init)
    cfg = load_config("configs/tiny.yaml", [f"run_dir={tmp_path}", "wandb.mode=offline"])
    said = []
    ledger, screen = SimpleNamespace(wandb_id="tiny-9012"), SimpleNamespace(say=said.append)
    jsonl = JsonlSink(tmp_path / "metrics.jsonl")
    first, *_ = open_sinks(cfg, ledger, screen, jsonl)
    assert first is jsonl
    assert "W&B is off until the next start: run ID tiny-9012 is in use" in said[0]


def test_a_wandb_that_nobody_answers_for_is_offline_soon_and_says_so(tmp_path, monkeypatch):
    from virgo_ray.monitor import wandb_sink

    assert wandb_sink.ANSWER_S <= 15
    monkeypatch.setattr(wandb_sink, "ANSWER_S", 2.0)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    cfg = load_config("configs/tiny.yaml", [f"run_dir={tmp_path}", "wandb.mode=auto"])
    said = []
    sink = wandb_sink.WandbSink(cfg, "tiny-2222", said.append)
    sink.write({"kind": "train", "train_step": 1, "loss": 1.0})
    sink.close()
    assert len(said) == 1 and "so this start is offline" in said[0] and "virgo-ray sync" in said[0]
    rows = [row_of(r) for r in finished_records(tmp_path, 1) if r.HasField("history")]
    assert [row["train_step"] for row in rows] == [1]


def test_sync_sends_every_record_once_also_those_that_wandb_never_took(tmp_path):
    from virgo_ray.monitor.wandb_sink import WandbSink

    cfg = load_config("configs/tiny.yaml", [f"run_dir={tmp_path}", "wandb.mode=offline"])
    ledger = Ledger.open(cfg, Weights(0, "base"))
    path, run_id = tmp_path / "metrics.jsonl", ledger.wandb_id
    ledger.close()
    for is_off in (False, True):  # W&B breaks in the second start
        jsonl = JsonlSink(path)
        sink = WandbSink(cfg, run_id, lambda text: None, jsonl.before)
        if is_off:
            sink._run.finish()
        monitor = Monitor("n", 2, Metrics([jsonl, sink]), Silent(), jsonl.before)
        for step in (3, 4) if is_off else (1, 2):
            monitor.step({"step": step, "loss": 1.0 / step})
        sink.close()
        assert sink.num_unsent == 2 * is_off
    with path.open("a") as file:
        file.write('{"kind": "train", "train_st')  # killed
    sent = []

    def upload(directory, id):
        (file,) = directory.glob("*.wandb")
        rows = [row_of(r) for r in offline_records(file) if r.HasField("history")]
        sent.extend((id, row["train_step"], row["train/loss"]) for row in rows)

    def refuse(directory, id):
        raise SyncError("no network")

    with pytest.raises(SyncError):
        sync(tmp_path, refuse)
    sync(tmp_path, upload)
    assert sorted(sent) == [(run_id, s, 1.0 / s) for s in (1, 2, 3, 4)]
    sync(tmp_path, upload)
    assert len(sent) == 4 and len(list(read_lines(path))) == 5
    with pytest.raises(ConfigError, match="expected the run_dir of a run"):
        sync(tmp_path / "wandb", upload)


def test_an_upload_that_hangs_or_fails_is_a_named_error(tmp_path, monkeypatch):
    """W&B's own command on a directory without a run; then given no time at all."""
    with pytest.raises(SyncError, match="W&B did not take"):
        wandb_sync.upload_run(tmp_path / "nothing", "an-id")
    monkeypatch.setattr(wandb_sync, "UPLOAD_DEADLINE_S", 0.01)
    with pytest.raises(SyncError, match=r"within 0\.01 s"):
        wandb_sync.upload_run(tmp_path, "an-id")


GOES_ON = """
import sys
from pathlib import Path
from virgo_ray.config import load_config
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.monitor.metrics import JsonlSink, Metrics
from virgo_ray.monitor.wandb_sink import WandbSink
from virgo_ray.records import Weights
cfg = load_config("configs/tiny.yaml", [f"run_dir={sys.argv[1]}", "wandb.mode=offline"])
ledger = Ledger.open(cfg, Weights(0, "base"))
jsonl = JsonlSink(Path(cfg.run_dir) / "metrics.jsonl")
metrics = Metrics([jsonl, WandbSink(cfg, ledger.wandb_id, print)])
metrics.log("train", train_step=1, **{"train/loss": 1.0})
print("logged", flush=True)
sys.stdin.readline()
metrics.log("train", train_step=2, **{"train/loss": 0.5})
metrics.close()
ledger.close()
"""


def test_sync_of_a_run_that_goes_on_sends_what_is_there_and_the_rest_later_once(tmp_path):
    sent = []

    def upload(directory, id):
        (file,) = directory.glob("*.wandb")
        rows = [row_of(r) for r in offline_records(file) if r.HasField("history")]
        sent.extend(row["train_step"] for row in rows)

    words = [sys.executable, "-c", GOES_ON, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as run:
        assert run.stdout.readline() == "logged\n"
        for _ in range(2):
            sync(tmp_path, upload)
            assert sent == [1]
        run.communicate("go on\n", timeout=60)
    for _ in range(2):
        sync(tmp_path, upload)
        assert sent == [1, 2]


def test_wandb_shows_a_round_with_pictures_references_and_alerts(tmp_path):
    from PIL import Image

    from virgo_ray.monitor.wandb_rounds import MAX_CHARS, MAX_ROWS
    from virgo_ray.monitor.wandb_sink import WandbSink

    cfg = load_config(
        "configs/tiny.yaml",
        [f"run_dir={tmp_path}", "wandb.mode=offline", "wandb.group=seeds", "wandb.tags=[a, b]"],
    )
    for name in ("weights/v0002", "buffer.lance"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "data").write_text("x")
    Image.new("RGB", (900, 600)).save(tmp_path / "big.png")
    problem = Problem("p", "?", "7", (str(tmp_path / "big.png"),))
    lost = replace(problem, images=(str(tmp_path / "lost.png"),))
    verdict = Verdict(Status.WRONG, "8")
    judged = [
        Judged(Rollout(p, 0, "x" * 9000, (1,), "stop", 1), verdict) for p in [problem, lost] * 40
    ]
    weights = Weights(2, str(tmp_path / "weights/v0002"))
    fit = FitReport(weights, 1, 1, 1, 1, 2.0, 1.0, 3.0)
    sink = WandbSink(cfg, "tiny-7777", print)
    sink.write({"kind": "round", "round": 1, "time": 5.0, "heldout/pass_at_1": 0.5})
    sink.write({"kind": "gate", "round": 1, "time": 5.0, "gate/gate": "max_truncated"})
    sink.end_round(Round(1, weights, Tally(asked=4, accepted=1), fit), judged)
    sink.close()
    records = finished_records(tmp_path, 1)
    (run,) = [r.run for r in records if r.HasField("run")]
    assert (run.run_group, list(run.tags)) == ("seeds", ["a", "b"])
    (alert,) = [r.alert for r in records if r.HasField("alert")]
    assert "round 1 is rejected" in alert.title and "max_truncated" in alert.text
    artifacts = [r.artifact for r in records if r.HasField("artifact")]
    made = {a.name: a for a in artifacts if a.type in ("model", "dataset")}
    assert sorted(made) == ["traces-tiny-7777", "weights-tiny-7777"]
    for artifact in made.values():
        (content,) = artifact.manifest.contents
        assert content.ref.startswith(f"file://{tmp_path}") and "round-1" in artifact.aliases
        of_content = base64.b64encode(hashlib.md5(b"x").digest()).decode()
        assert content.digest != of_content, "no tensor is read for its checksum"
    (shown,) = [a for a in artifacts if a.type == "run_table"]
    (file,) = [c.local_path for c in shown.manifest.contents if c.path.endswith(".table.json")]
    table = json.loads(Path(file).read_text())
    cells = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert len(cells) == MAX_ROWS and all(len(c["thought"]) == MAX_CHARS for c in cells)
    assert (cells[0]["picture"]["width"], cells[0]["picture"]["height"]) == (256, 171)
    assert cells[1]["picture"] is None
    rows = [row_of(r) for r in records if r.HasField("history")]
    assert [row["round"] for row in rows if "examples/rollouts.path" in row] == [1]


def test_what_is_sampled_in_an_evaluation_is_named_so_and_counted_over_all_starts(tmp_path):
    path = tmp_path / "metrics.jsonl"

    def one_start(num_sampled, num_evaluated):
        monitor, _ = start(path)
        monitor.sampling(9)
        for _ in range(num_sampled):
            monitor.sampled(rollout, 9)
        monitor.log_sampling()
        with monitor.evaluation():
            monitor.sampling(3)
            for _ in range(num_evaluated):
                monitor.sampled(rollout, 3)
            monitor.log_sampling()
        monitor.sampling(9)
        monitor.sampled(rollout, 9)
        monitor.log_sampling()

    rollout = SimpleNamespace(token_ids=(1, 2))
    one_start(4, 2)
    one_start(1, 3)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    found = [(r["phase"], r["rollouts_total"]) for r in records if r["kind"] == "sampling"]
    assert found == [
        ("sample", 4), ("evaluate", 2), ("sample", 5),
        ("sample", 6), ("evaluate", 5), ("sample", 7),
    ]  # fmt: skip


# -- scripts/bench_memory.py -----------------------------------------------------------------------


def test_growth_is_found_after_the_warm_up_and_a_single_peak_is_none():
    records = [
        {
            "round": t,
            "rss_driver_mib": 100.0 + (50 * t if t < 10 else 500),
            "rss_trainer_rank_0_mib": 900.0 + 2 * t,
            "rss_rollout_worker_0_mib": 3000.0 if t == 30 else 1500.0,
        }
        for t in range(50)
    ]
    records.append({"round": 49, "rss_driver_mib": 1.0})  # the highest of a round counts
    lines = {line.name: line for line in bench_memory.measured(records, 10)}
    assert lines["driver"].slope_mib == lines["rollout_worker_0"].slope_mib == 0
    assert lines["trainer_rank_0"].slope_mib == pytest.approx(2.0)
    assert (lines["trainer_rank_0"].first_mib, lines["trainer_rank_0"].last_mib) == (920, 998)
    assert bench_memory.slope({3: 1.0}) == 0


def test_a_fit_that_is_done_again_for_its_tensors_is_no_fit_of_this_round(tmp_path):
    path = tmp_path / "metrics.jsonl"
    monitor, _ = start(path)

    class Training:
        def fit(self, plan, start, version, is_again=False):
            monitor.step({"step": 1, "loss": float(version)})
            return FitReport(Weights(version, "/w"), 1, 1, 1, 1, 2.0, 1.0, 3.0)

    trainer, base = WatchedTrainer(Training(), monitor), Weights(0, "base")
    trainer.fit(Plan((), ((),)), base, 7, is_again=True)
    assert not steps(path) and '"fit"' not in path.read_text()
    trainer.fit(Plan((), ((),)), base, 8)
    assert steps(path) == [(1, 8.0)]


def test_a_second_call_of_an_evaluation_counts_on(tmp_path):
    monitor, _ = start(tmp_path / "metrics.jsonl")
    rollout = SimpleNamespace(token_ids=(1, 2))
    with monitor.evaluation():
        for num, total in ((3, 3), (2, 5)):
            monitor.sampling(num)
            for _ in range(num):
                monitor.sampled(rollout, num)
            assert (monitor.progress.done, monitor.progress.total) == (total, total)
            assert monitor.progress.seconds_left == 0.0
    monitor.sampling(2)
    monitor.sampled(rollout, 2)
    assert (monitor.progress.done, monitor.progress.total) == (1, 2)


def test_what_a_killed_start_did_not_log_of_a_round_is_logged_by_the_next_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    failure = Failure("max_pass_at_1_fall", "pass_at_1", 0.0, 0.7, 0.05, 0.0, True)
    base, two = evaluated("base", evaluation()), evaluated(2, None)
    one = replace(evaluated(1, evaluation()), failures=(failure,))
    ledger = SimpleNamespace(rounds=lambda: [base, one, two])
    first, _ = start(path)
    log_round(first, base)
    first.round(1)
    first.event("round", **{"heldout/pass_at_1": 0.5})  # and killed
    for _ in range(2):
        monitor, jsonl = start(path)
        log_lost_rounds(ledger, monitor, jsonl.before)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    found = [(r["kind"], r["round"]) for r in records if r["kind"] != "sources"]
    assert found == [("round", None), ("round", 1), ("gate", 1)]
    path.unlink()
    monitor, jsonl = start(path)
    log_lost_rounds(ledger, monitor, jsonl.before)
    again = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(r["kind"] for r in again if r["kind"] != "sources") == ["gate", "round", "round"]
