"""The short form of scripts/chaos.py: real Ray, vLLM and DeepSpeed on the bundled model."""

import os
import subprocess
import sys

import pytest
from test_whole_run import DEADLINE_S, REPO, SHORT


@pytest.mark.timeout(3 * DEADLINE_S)
def test_chaos_in_a_short_form(tmp_path):
    chaos = [
        sys.executable, "scripts/chaos.py", "--kills", "2", "--between", "10", "20", "--targets",
        "rollout,verifier,trainer", "configs/tiny.yaml", *SHORT,
        f"run_dir={tmp_path}/run",
    ]  # fmt: skip
    done = subprocess.run(
        chaos, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True,
        text=True, timeout=3 * DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills, 0 problems" in done.stdout
