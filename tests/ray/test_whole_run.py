"""The main job for real, in a short form: Ray, vLLM, DeepSpeed and the bundled model.

One run is stopped twice, by SIGKILL and Ctrl-C, in two phases, and started again each time, at last
through `ray job submit` on a cluster of its own. The short form proves the machinery, not the
learning, with one worker of each kind: several are in test_real_samples.py. Only processes that
these runs started count. SIGTERM is in test_evaluate_command.py, signals in every phase are in
test_interrupted.py, SIGKILL at every step of a round in tests/flow/test_kill_and_resume.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import psutil
import pytest

from virgo_ray.evaluate.answers import read_answers
from virgo_ray.interrupts import END_DEADLINE_S
from virgo_ray.monitor.catalog import KINDS, find, undeclared

REPO = Path(__file__).parents[2]
DEADLINE_S = 600
pytestmark = pytest.mark.timeout(3 * DEADLINE_S)  # the first test pays for three starts
SLACK_S = 5.0  # of a machine that does other things too
LEFT_DEADLINE_S = 30.0  # for what other tests have in /dev/shm
ORPHAN_DEADLINE_S = 180.0  # after SIGKILL; what Ray starts looks for its driver now and then
SHORT = (
    "rounds=1",
    "data.train.num=16",
    "data.heldout.num=8",
    "data.seed_thoughts.num=64",
    "explore.num_problems=12",
    "explore.num_samples=3",
    "train.num_epochs=1",
    "train.batch_size=16",
    "evaluate.k=2",
    "wandb.mode=offline",
    "gates=null",  # 64 thoughts teach no format that a gate would pass
    "rollout.num_workers=1",  # each worker takes seconds to start
    "train.num_workers=1",
    "verify.num_workers=1",
)


def command(run_dir, *overrides):
    return [
        sys.executable, "-m", "virgo_ray.run", "configs/tiny.yaml",
        *SHORT, f"run_dir={run_dir}", *overrides,
    ]  # fmt: skip


def stored_keys(run_dir):
    if not (run_dir / "buffer.lance").exists():
        return Counter()
    table = lance.dataset(str(run_dir / "buffer.lance")).to_table(
        columns=["round", "problem_id", "sample_index"]
    )
    return Counter(zip(*(table[c].to_pylist() for c in table.column_names), strict=True))


def answered(run_dir, weights):
    """The keys of an evaluation's judged answers, in their order."""
    return [a.key for a, _ in read_answers(run_dir / "heldout" / weights / "answers.jsonl")]


def shared_memory():
    """Names in /dev/shm; Ray's own store is unlinked as soon as it is open."""
    return {name for name in os.listdir("/dev/shm") if "plasma" not in name}


@dataclass(frozen=True)
class Start:
    """One start of the run that was stopped, and what it had started."""

    code: int
    log: str
    family: list[psutil.Process]
    seconds: float  # from the signal to its end

    def outlived(self, seconds):
        """What is still alive after so long."""
        _, alive = psutil.wait_procs(self.family, timeout=seconds)
        return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def stopped(run_dir, how, reached, env=None):
    """Start the run and send it this signal (or do `how(its process)`) once `reached(what it
    printed)`."""
    log = run_dir.parent / "log"
    # Whatever a shell starts in the background ignores Ctrl-C, and so would the run.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "w") as file:
        run = subprocess.Popen(
            command(run_dir), cwd=REPO, env=env, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not reached(log.read_text()):
            assert run.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"not reached within {DEADLINE_S} s"
            time.sleep(0.1)
        family = psutil.Process(run.pid).children(recursive=True)
        told = time.monotonic()
        if callable(how):
            how(psutil.Process(run.pid))
        elif how == signal.SIGKILL:
            run.kill()
        else:  # as `timeout` does it: Ray's own processes hear it too, and may be gone first
            os.killpg(run.pid, how)
        code = run.wait(90)
        seconds = time.monotonic() - told
    finally:
        if run.poll() is None:
            run.kill()
            run.wait(30)
    return Start(code, log.read_text(), family, seconds)


def in_phase(name):
    return lambda log: re.search(rf"round \w+/\d+  {name}", log)


@contextmanager
def ray_cluster(tmp_path):
    """A head started as the README says, with token authentication, on ports of its own."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VIRGO_RAY_HOME": str(tmp_path),
    }
    head = subprocess.Popen(
        [
            "ray", "start", "--head", "--block", "--port=26379", "--dashboard-port=28265",
            "--dashboard-agent-listen-port=28365",  # jobs go through it, one cluster per port
            "--ray-client-server-port=20001", "--object-store-memory=200000000",
            f"--temp-dir=/tmp/ray-{os.getpid()}",
        ],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield {**env, "RAY_ADDRESS": "http://127.0.0.1:28265"}
    finally:
        head.terminate()
        head.wait(60)


def submitted(directory, *entrypoint):
    """The same command as a job, from the repository: the finished submission, and what Ray's list
    of jobs says of it."""
    with ray_cluster(directory) as env:
        deadline = time.monotonic() + 60
        while subprocess.run(
            ["ray", "job", "list"], env=env, capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < deadline, "the dashboard of the test cluster did not answer"
            time.sleep(1)
        done = subprocess.run(
            ["ray", "job", "submit", "--working-dir", ".", "--", "python", *entrypoint],
            cwd=REPO, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        jobs = subprocess.run(
            ["ray", "job", "list"], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        return done, jobs.stdout


@dataclass(frozen=True)
class Resumed:
    """A run that was stopped again and again, and what was there before."""

    run_dir: Path
    killed: Start
    answers: list[Any]  # keys, when the first evaluation was killed
    interrupted: Start
    keys: Counter  # of the rollouts, when sampling was interrupted
    output: str  # of the last start
    jobs: str  # what Ray says of it
    shared_memory: set[str]  # before all of it


@pytest.fixture(scope="module")
def resumed_run(tmp_path_factory):
    """SIGKILL in the first evaluation, Ctrl-C after the first stored rollouts; then the same
    command to the end, as a job on a cluster."""
    run_dir, memory = tmp_path_factory.mktemp("runs") / "tiny", shared_memory()
    killed = stopped(run_dir, signal.SIGKILL, lambda _: answered(run_dir, "v0000"))
    answers = answered(run_dir, "v0000")
    interrupted = stopped(run_dir, signal.SIGINT, lambda _: stored_keys(run_dir))
    assert not interrupted.outlived(SLACK_S)
    keys = stored_keys(run_dir)
    last, jobs = submitted(run_dir.parent, *command(run_dir)[1:])
    assert last.returncode == 0, last.stdout + last.stderr
    return Resumed(run_dir, killed, answers, interrupted, keys, last.stdout, jobs, memory)


def records_of(run, kind):
    lines = (run.run_dir / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def test_a_signal_ends_a_run_in_time_with_its_own_code_and_says_how_to_go_on(resumed_run):
    start = resumed_run.interrupted
    assert start.code == 130, start.log
    assert "the same command resumes this run" in start.log and "Traceback" not in start.log
    assert start.seconds < END_DEADLINE_S + SLACK_S


def test_no_process_outlives_a_killed_driver(resumed_run):
    start = resumed_run.killed
    assert start.code == -signal.SIGKILL and not start.outlived(ORPHAN_DEADLINE_S)


def test_stopped_runs_leave_no_shared_memory_behind(resumed_run):
    deadline = time.monotonic() + LEFT_DEADLINE_S  # others may be opening and closing theirs
    while left := shared_memory() - resumed_run.shared_memory:
        assert time.monotonic() < deadline, f"left in /dev/shm: {left}"
        time.sleep(0.5)


def test_a_stopped_run_ends_with_every_key_once(resumed_run):
    before, keys = resumed_run.keys, stored_keys(resumed_run.run_dir)
    assert before and before <= keys
    assert len(keys) == 36 and set(keys.values()) == {1}


def test_a_killed_evaluation_keeps_its_answers_and_asks_the_others_once(resumed_run):
    before, answers = resumed_run.answers, answered(resumed_run.run_dir, "v0000")
    assert before and answers[: len(before)] == before
    assert len(answers) == len(set(answers)) >= len(before)


def test_every_optimizer_step_is_logged_once(resumed_run):
    steps = [r["train_step"] for r in records_of(resumed_run, "train")]
    assert steps == list(range(1, len(steps) + 1))


def test_memory_of_driver_and_actors_is_a_metric(resumed_run):
    assert {key for r in records_of(resumed_run, "memory") for key in r} >= {
        "rss_driver_mib", "rss_rollout_worker_0_mib", "rss_verifier_worker_0_mib",
        "rss_trainer_rank_0_mib",
    }  # fmt: skip


def test_the_run_directory_holds_what_others_rely_on(resumed_run):
    run_dir = resumed_run.run_dir
    for name in ("config.yaml", "ledger.json", "metrics.jsonl", "report.json", "buffer.lance"):
        assert (run_dir / name).exists(), name
    assert (run_dir / "weights/v0001").is_dir() and (run_dir / "weights/v0002").is_dir()
    columns = {
        "round",
        "problem_id",
        "sample_index",
        "status",
        "weights_version",
        "token_ids",
        "text",
    }
    assert columns <= set(lance.dataset(str(run_dir / "buffer.lance")).schema.names)
    report = json.loads((run_dir / "report.json").read_text())
    assert [r["round"] for r in report["rounds"]] == ["base", 0, 1]
    for entry in report["rounds"]:
        assert 0 <= entry["pass_at_1"] <= 1 and entry["k"] == 2 and entry["not_judged_share"] == 0
    assert report["rounds"][2]["asked"] == 36


def test_the_console_tells_what_happened(resumed_run):
    for words in (
        "held-out problems",
        "pass@1",
        "run directory",
        "final checkpoint",
        "Ray dashboard",
    ):
        assert words in resumed_run.output


def test_the_list_of_jobs_says_how_far_the_run_is(resumed_run):
    assert re.search(r"'virgo_ray': 'tiny: round 1 of 1, ", resumed_run.jobs), resumed_run.jobs


def test_every_push_matched_the_trainer(resumed_run):
    pushes = records_of(resumed_run, "push")
    assert {p["weights_version"] for p in pushes} == {0, 1, 2}
    assert all(p["max_diff_text"] < 1e-3 and p["max_diff_image"] < 1e-3 for p in pushes)
    assert all("train/loss" in r for r in records_of(resumed_run, "train"))


def test_a_run_logs_every_metric_that_the_docs_list(resumed_run):
    """But those that need a GPU, an option or a gate; and no other."""
    lines = (resumed_run.run_dir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]
    seen = {(r["kind"], m.name) for r in records for n in r if (m := find(r["kind"], n))}
    kinds = [kind for kind in KINDS if kind.name not in ("gate", "groups", "warning")]
    wanted = {(kind.name, m.name) for kind in kinds for m in kind.metrics if not m.when}
    assert wanted <= seen, f"never logged: {sorted(wanted - seen)}"
    assert not [(r["kind"], name) for r in records for name in undeclared(r["kind"], r)]


def test_a_fit_says_which_parameters_it_trains_and_on_what(resumed_run):
    said = resumed_run.output
    assert re.search(r"language model +[1-9][\d,]+ +[1-9][\d,]+", said), said
    assert re.search(r"round 1 trains on \d+ seed thoughts \([\d,]+ tokens\), ", said), said


def test_a_finished_run_started_again_only_prints_its_results(resumed_run):
    run_dir = resumed_run.run_dir
    before = json.loads((run_dir / "ledger.json").read_text())["rounds"]
    again = subprocess.run(
        command(run_dir), cwd=REPO, capture_output=True, text=True, timeout=120, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "final checkpoint" in again.stdout and "Ray dashboard" not in again.stdout
    assert json.loads((run_dir / "ledger.json").read_text())["rounds"] == before


def test_a_changed_config_is_refused_on_an_existing_run(resumed_run):
    run_dir = resumed_run.run_dir
    refused = subprocess.run(
        command(run_dir, "seed=9"), cwd=REPO, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1 and "seed: 0 -> 9" in refused.stderr


def test_the_notebook_reads_the_run(resumed_run, monkeypatch, capsys):
    """Its cells as a notebook runs them, one after the other in one namespace."""
    monkeypatch.setenv("RUN", str(resumed_run.run_dir))
    cells = json.loads((REPO / "docs/notebooks/reading_a_run.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "reading_a_run.ipynb", "exec"), names)
    said = capsys.readouterr().out
    for words in (" base  pass@1", "optimizer steps", "round 1  ", ", sample ", "v0000 to v0002"):
        assert words in said


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_the_final_checkpoint_answers_in_plain(engine, resumed_run):
    path = json.loads((resumed_run.run_dir / "report.json").read_text())["final_checkpoint"]
    command = [sys.executable, "scripts/answer.py", path, "--engine", engine]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "question:" in done.stdout
    said = done.stdout.rpartition("gold answer:")[2]
    assert "<|begin_of_thought|>" in said or "\\boxed" in said
