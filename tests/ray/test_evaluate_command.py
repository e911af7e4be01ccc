"""The evaluation command for real, in a short form: Ray, vLLM and the bundled model.

It is stopped once it has judged something, and the same command finishes. Both models are the same
weights, so their greedy answers must not differ.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from virgo_ray.evaluate.answers import read_answers
from virgo_ray.model.files import TINY_DIRECTORY

REPO = Path(__file__).parents[2]
DEADLINE_S = 400
NUM = 24


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """(directory, answers before the stop, what the second start printed)."""
    home = tmp_path_factory.mktemp("evaluation")
    twin = shutil.copytree(TINY_DIRECTORY, home / "twin")
    out = home / "out"
    command = [
        sys.executable, "-m", "virgo_ray.evaluate", str(twin), "--base", "tiny",
        "--config", "configs/tiny.yaml", "--limit", str(NUM), "-n", "2", "--max-tokens", "64",
        "--out", str(out), "rollout.num_workers=1", "rollout.max_in_flight=4",
        "verify.num_workers=1",
    ]  # fmt: skip
    log = open(home / "first.log", "w")  # noqa: SIM115
    first = subprocess.Popen(command, cwd=REPO, stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + DEADLINE_S
    while not list(read_answers(out / "answers/tiny.jsonl")):
        assert first.poll() is None, (home / "first.log").read_text()
        assert time.monotonic() < deadline, "no answer came"
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(60) == 130, (home / "first.log").read_text()
    before = [answer.key for answer, _ in read_answers(out / "answers/tiny.jsonl")]
    second = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert second.returncode == 0, second.stdout + second.stderr
    return out, before, second.stdout


def test_every_answer_is_there_once_after_a_stop(evaluated):
    out, before, _ = evaluated
    for name in ("tiny", "twin"):
        keys = [answer.key for answer, _ in read_answers(out / f"answers/{name}.jsonl")]
        assert len(keys) == len(set(keys)) == NUM * 3
    assert before and len(before) < NUM * 3


def test_equal_weights_answer_equally_and_the_report_says_so(evaluated):
    out, _, printed = evaluated
    report = json.loads((out / "report.json").read_text())
    base, twin = (model["benchmarks"]["heldout"] for model in report["models"])
    assert base["outcomes"] == twin["outcomes"] and base["num_problems"] == NUM
    assert twin["difference"]["value"] == 0 and twin["difference"]["p_value"] == 1
    assert twin["not_judged_share"] == 0 and set(twin["pass_at"]) == {"1", "2"}
    assert "| twin |" in printed and "# Evaluation" in printed
    assert (out / "predictions/twin_heldout.tsv").is_file()
