"""The main job for real, in a short form: Ray, vLLM, DeepSpeed and the bundled model.

One run is killed once its first rollouts are stored and started again; another goes through
`ray job submit` on a cluster of its own. The short form proves the machinery, not the learning.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import lance
import pytest

REPO = Path(__file__).parents[2]
DEADLINE_S = 600
SHORT = (
    "rounds=1",
    "data.train.num=16",
    "data.heldout.num=8",
    "data.seed_thoughts.num=64",
    "explore.num_problems=12",
    "explore.num_samples=3",
    "select.min_correct=1",
    "train.num_epochs=1",
    "train.batch_size=16",
    "evaluate.k=2",
    "wandb.mode=offline",
    "gates=null",  # 64 thoughts teach no format that a gate would pass
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


def wait_until(condition, process, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode} before {what}"
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def resumed_run(tmp_path_factory):
    """A run that got SIGKILL after its first stored rollouts, then the same command again."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    log = open(run_dir.parent / "first.log", "w")  # noqa: SIM115
    first = subprocess.Popen(command(run_dir), cwd=REPO, stdout=log, stderr=subprocess.STDOUT)
    wait_until(lambda: stored_keys(run_dir), first, "the first stored rollouts")
    os.kill(first.pid, signal.SIGKILL)
    first.wait(30)
    before = stored_keys(run_dir)
    second = subprocess.run(
        command(run_dir), cwd=REPO, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert second.returncode == 0, second.stdout + second.stderr
    return run_dir, before, second.stdout


def test_a_killed_run_ends_with_every_key_once(resumed_run):
    run_dir, before, _ = resumed_run
    keys = stored_keys(run_dir)
    assert before and before <= keys
    assert len(keys) == 36 and set(keys.values()) == {1}


def test_the_run_directory_holds_what_others_rely_on(resumed_run):
    run_dir, _, _ = resumed_run
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
    _, _, output = resumed_run
    for words in (
        "held-out problems",
        "pass@1",
        "run directory",
        "final checkpoint",
        "Ray dashboard",
    ):
        assert words in output


def test_every_push_matched_the_trainer(resumed_run):
    run_dir, _, _ = resumed_run
    records = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines() if x]
    pushes = [r for r in records if r["kind"] == "push"]
    assert {p["weights_version"] for p in pushes} == {0, 1, 2}
    assert all(p["max_diff_text"] < 1e-3 and p["max_diff_image"] < 1e-3 for p in pushes)
    assert all("train/loss" in r for r in records if r["kind"] == "train")


def test_a_finished_run_started_again_only_prints_its_results(resumed_run):
    run_dir, _, _ = resumed_run
    before = (run_dir / "ledger.json").read_text()
    again = subprocess.run(
        command(run_dir), cwd=REPO, capture_output=True, text=True, timeout=120, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "final checkpoint" in again.stdout and "Ray dashboard" not in again.stdout
    assert (run_dir / "ledger.json").read_text() == before


def test_a_changed_config_is_refused_on_an_existing_run(resumed_run):
    run_dir, _, _ = resumed_run
    refused = subprocess.run(
        command(run_dir, "train.lr=0.5"), cwd=REPO, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1 and "train.lr: 0.0005 -> 0.5" in refused.stderr


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_the_final_checkpoint_answers_in_plain(engine, resumed_run):
    path = json.loads((resumed_run[0] / "report.json").read_text())["final_checkpoint"]
    command = [sys.executable, "scripts/answer.py", path, "--engine", engine]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "question:" in done.stdout
    said = done.stdout.rpartition("gold answer:")[2]
    assert "<|begin_of_thought|>" in said or "\\boxed" in said


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


def test_ray_job_submit_runs_the_same_command(tmp_path):
    with ray_cluster(tmp_path) as env:
        submit = [
            "ray", "job", "submit", "--working-dir", ".", "--",
            "python", "-m", "virgo_ray.run", "configs/tiny.yaml",
            *SHORT, "rounds=0", "run_dir=runs/job",
        ]  # fmt: skip
        deadline = time.monotonic() + 60
        while subprocess.run(
            ["ray", "job", "list"], env=env, capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < deadline, "the dashboard of the test cluster did not answer"
            time.sleep(1)
        done = subprocess.run(
            submit,
            cwd=REPO,
            env=env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "runs/job/report.json").read_text())
    assert [r["round"] for r in report["rounds"]] == ["base", 0]
