"""A run is told to stop in every phase, and its cluster is lost: real Ray, vLLM and DeepSpeed.

Slow (`scripts/test.sh -m slow tests/ray/test_interrupted.py`). What every change must hold is in
test_whole_run.py, which stops its run in two phases, and in tests/unit/test_interrupts.py.
"""

import re
import signal

import psutil
import pytest
from test_whole_run import (
    DEADLINE_S,
    SLACK_S,
    in_phase,
    ray_cluster,
    shared_memory,
    stopped,
    stored_keys,
)

from virgo_ray.interrupts import END_DEADLINE_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5 * DEADLINE_S)]
HOW_TO_GO_ON = re.compile(r"the same command (resumes this run|goes on)")


def connecting(log):
    """The data are read; Ray's processes are coming up, and nothing was printed since."""
    own = psutil.Process().children(recursive=True)
    return any("gcs_server" in p.name() for p in own) and "Ray dashboard" not in log


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_is_heard_in_every_phase_and_leaves_nothing(tmp_path, how):
    run_dir, before = tmp_path / "run", shared_memory()
    phases = (connecting, in_phase("start engines"), in_phase("evaluate"), in_phase("train"))
    for number, reached in enumerate((*phases, lambda _: stored_keys(run_dir))):
        start = stopped(run_dir, how, reached)
        print(f"phase {number}: {start.seconds:.1f} s")
        assert start.code == (-how if number == 0 and how == signal.SIGTERM else 130), start.log
        assert HOW_TO_GO_ON.search(start.log.splitlines()[-1]) and "Traceback" not in start.log
        assert start.seconds < END_DEADLINE_S + SLACK_S
        assert not start.outlived(5.0 if start.code < 0 else 1.0), f"phase {number}"
    assert not shared_memory() - before


def lose_cluster(driver):
    """Everything of the cluster dies at once, as if its machine had been taken away."""
    for process in reversed(driver.children(recursive=True)):
        process.kill()


@pytest.mark.parametrize("phase", ["start engines", "evaluate", "train"])
def test_a_run_whose_own_cluster_dies_says_so_and_that_the_same_command_goes_on(tmp_path, phase):
    start = stopped(tmp_path / "run", lose_cluster, in_phase(phase))
    print(f"{phase}: {start.seconds:.1f} s")
    told = start.log.partition(phase)[2]
    assert start.code == 1 and re.search("cluster is gone.* the same command goes on", told), told
    assert "Traceback" not in told and "rollout.kv_cache_gib" not in told
    assert start.seconds < 30 and not start.outlived(1.0)


def test_a_run_on_a_cluster_whose_head_dies_says_so(tmp_path):
    def lose_head(driver):
        for process in psutil.Process(heads[0]).children(recursive=True):
            process.kill()

    with ray_cluster(tmp_path) as env:
        heads = [p.pid for p in psutil.Process().children() if "start" in p.cmdline()]
        env = {**env, "RAY_ADDRESS": "127.0.0.1:26379"}
        start = stopped(tmp_path / "run", lose_head, in_phase("evaluate"), env)
    print(f"head: {start.seconds:.1f} s")
    assert start.code == 1 and "the Ray cluster is gone" in start.log.splitlines()[-1]
    assert "Traceback" not in start.log
