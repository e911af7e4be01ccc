"""What interrupts a whole run: Ctrl-C at any time, and the short form of scripts/chaos.py.

Real Ray, vLLM and DeepSpeed on the bundled model. Only processes that these runs started count.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from test_whole_run import DEADLINE_S, REPO, SHORT, command, stored_keys

INTERRUPT_DEADLINE_S = 60.0  # "seconds", on a machine that does other things too
LEFT_DEADLINE_S = 30.0


def shared_memory():
    """Names in /dev/shm; Ray's own store is unlinked as soon as it is open."""
    return {name for name in os.listdir("/dev/shm") if "plasma" not in name}


def interrupted(run_dir, phase):
    """Start the run, send Ctrl-C to its process group in this phase; returns the exit code."""
    log = run_dir.parent / f"{phase}.log"
    # Whatever a shell starts in the background ignores Ctrl-C, and so would the run.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "w") as file:
        run = subprocess.Popen(
            command(run_dir), cwd=REPO, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not re.search(rf"round \w+/\d+  {phase}", log.read_text()):
            assert run.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"no phase {phase!r} within {DEADLINE_S} s"
            time.sleep(0.2)
        time.sleep(1.0)  # in the middle of it
        family = psutil.Process(run.pid).children(recursive=True)
        os.killpg(run.pid, signal.SIGINT)
        code = run.wait(INTERRUPT_DEADLINE_S)
    finally:
        if run.poll() is None:
            run.kill()
            run.wait(30)
    left = psutil.wait_procs(family, timeout=LEFT_DEADLINE_S)[1]
    assert not left, f"outlived the run: {[p.cmdline() for p in left if p.is_running()]}"
    assert "the same command resumes this run" in log.read_text()
    return code


@pytest.mark.timeout(4 * DEADLINE_S)
def test_ctrl_c_ends_everything_in_seconds_and_the_same_command_goes_on(tmp_path):
    before, run_dir = shared_memory(), tmp_path / "run"
    for phase in ("start engines", "sample", "train"):
        assert interrupted(run_dir, phase) == 130
    done = subprocess.run(
        command(run_dir), cwd=REPO, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(stored_keys(run_dir).values()) == {1}
    records = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [r["train_step"] for r in records if r["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1)), "every optimizer step is logged once"
    memory = {key for r in records if r["kind"] == "memory" for key in r}
    assert memory >= {
        "rss_driver_mib", "rss_rollout_worker_0_mib", "rss_rollout_worker_1_mib",
        "rss_verifier_worker_0_mib", "rss_trainer_rank_0_mib", "rss_trainer_rank_1_mib",
    }  # fmt: skip
    deadline = time.monotonic() + LEFT_DEADLINE_S  # others may be opening and closing theirs
    while left := shared_memory() - before:
        assert time.monotonic() < deadline, f"left in /dev/shm: {left}"
        time.sleep(0.5)


@pytest.mark.timeout(3 * DEADLINE_S)
def test_chaos_in_a_short_form(tmp_path):
    chaos = [
        sys.executable, "scripts/chaos.py", "--kills", "2", "--between", "20", "35", "--targets",
        "rollout,verifier,trainer", "configs/tiny.yaml", *SHORT, f"run_dir={tmp_path}/run",
    ]  # fmt: skip
    done = subprocess.run(
        chaos, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True,
        text=True, timeout=3 * DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills, 0 problems" in done.stdout
