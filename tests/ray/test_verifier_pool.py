"""The verifier pool on a real local Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from virgo_ray.actors.verifiers.pool import VerifierPool
from virgo_ray.config import VerifyConfig
from virgo_ray.errors import RolloutError, VerifierError
from virgo_ray.records import Problem, Rollout, Status

ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Sockets of Ray must have short paths.
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": ROOT}},
    )  # fmt: skip
    yield
    ray.shutdown()


def rollout(text: str, index: int = 0, gold: str = "12", finish: str = "stop") -> Rollout:
    problem = Problem(id=f"p{index}", question="?", answer=gold)
    return Rollout(problem, 0, text, (1, 2), finish, weights_version=0)


def make_pool(**changes: object) -> VerifierPool:
    return VerifierPool(
        VerifyConfig(**{"deadline_s": 2.0, "batch_size": 4, **changes}), {"num_cpus": 0.1}
    )


def test_every_rollout_is_judged_once(cluster: None) -> None:
    pool = make_pool()
    rollouts = [rollout(rf"\boxed{{{i}}}", i) for i in range(100)]
    judged = list(pool.judge(iter(rollouts)))
    assert sorted(j.rollout.key for j in judged) == sorted(r.key for r in rollouts)
    assert [j.rollout.key for j in judged if j.verdict.is_correct] == [("p12", 0)]
    metrics = pool.metrics()
    assert metrics["verifier_judged"] == 100 and metrics["verifier_share_wrong"] == 0.99
    pool.close()


def test_second_opinions_come_with_the_verdicts_and_are_counted(cluster: None) -> None:
    pool = make_pool(second_opinions=("steps",))
    texts = [r"7 + 5 = 13. \boxed{12}", r"7 + 5 = 12. \boxed{12}", r"7 + 5 = 13. \boxed{13}"]
    judged = list(pool.judge(iter([rollout(text, i) for i, text in enumerate(texts)])))
    doubted = {j.rollout.key: j.verdict.is_doubted for j in judged}
    assert doubted == {("p0", 0): True, ("p1", 0): False, ("p2", 0): False}
    metrics = pool.metrics()
    said = [metrics[f"verifier_opinion_steps_{opinion}"] for opinion in ("doubts", "agrees")]
    assert said == [1, 1]
    pool.close()


def test_results_stream_out_while_the_stream_of_rollouts_goes_on(cluster: None) -> None:
    pool = make_pool()
    may_go_on = threading.Event()

    def stream() -> Iterator[Rollout]:
        yield rollout(r"\boxed{12}", 1)
        assert may_go_on.wait(60), "the first verdict never came out"
        yield rollout(r"\boxed{13}", 2)

    judged = pool.judge(stream())
    first = next(judged)
    may_go_on.set()
    assert [first.verdict.status, next(judged).verdict.status] == [Status.CORRECT, Status.WRONG]
    assert list(judged) == []
    pool.close()


def test_a_slow_consumer_holds_the_stream_back(cluster: None) -> None:
    pool = make_pool(batch_size=2, num_workers=1)
    pulled = []

    def stream() -> Iterator[Rollout]:
        for i in range(1000):
            pulled.append(i)
            yield rollout(r"\boxed{12}", i)

    judged = pool.judge(stream())
    next(judged)
    time.sleep(1)
    assert len(pulled) < 20
    judged.close()
    deadline = time.monotonic() + 20
    while any(t.name == "verifier-pull" for t in threading.enumerate()):
        assert time.monotonic() < deadline, "the pulling thread did not end"
        time.sleep(0.05)
    pool.close()


def test_a_killed_worker_is_replaced_and_its_rollouts_judged_again(cluster: None) -> None:
    pool = make_pool()
    pids = ray.get([w.actor.pid.remote() for w in pool._workers], timeout=60)

    def stream() -> Iterator[Rollout]:
        for i in range(60):
            if i == 30:
                os.kill(pids[0], signal.SIGKILL)
            yield rollout(r"\boxed{12}", i)

    judged = list(pool.judge(stream()))
    assert len({j.rollout.key for j in judged}) == len(judged) == 60
    assert all(j.verdict.is_correct for j in judged)
    # The other worker may have judged all that was left before a new one was needed.
    deadline = time.monotonic() + 60
    while not pool.metrics()["verifier_worker_restarts"]:
        assert time.monotonic() < deadline
        assert len(list(pool.judge(rollout(r"\boxed{12}", i) for i in range(60, 124)))) == 64
    assert pool.metrics()["verifier_worker_restarts"] == 1
    pool.close()


def test_a_worker_that_hangs_is_replaced_and_its_rollouts_judged_again(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virgo_ray.actors.verifiers.pool.START_GRACE_S", 15.0)
    pool = make_pool(num_workers=1, deadline_s=0.5, batch_size=2)  # late after 15 + 10 + 2 s
    pid = ray.get(pool._workers[0].actor.pid.remote(), timeout=60)

    def stream() -> Iterator[Rollout]:
        for i in range(12):
            if i == 6:
                os.kill(pid, signal.SIGSTOP)
            yield rollout(r"\boxed{12}", i)

    judged = list(pool.judge(stream()))
    assert len({j.rollout.key for j in judged}) == len(judged) == 12
    assert all(j.verdict.is_correct for j in judged)
    assert pool.metrics()["verifier_worker_restarts"] == 1
    pool.close()
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGCONT)  # it hears now that it was to end


def test_a_hanging_item_times_out_and_the_others_are_judged(cluster: None) -> None:
    pool = make_pool(custom="tests.verify.hanging:grade", deadline_s=1.0)
    texts = [r"\boxed{12}"] * 5 + [r"\boxed{hang}"] + [r"\boxed{die}"] + [r"\boxed{12}"] * 5
    judged = list(pool.judge(rollout(t, i) for i, t in enumerate(texts)))
    status = {j.rollout.problem.id: j.verdict.status for j in judged}
    assert status.pop("p5") is Status.TIMEOUT and status.pop("p6") is Status.ERROR
    assert set(status.values()) == {Status.CORRECT}
    assert pool.metrics()["verifier_judge_restarts"] == 2
    pool.close()


def test_too_many_failures_to_judge_stop_the_round(cluster: None) -> None:
    pool = make_pool(custom="tests.verify.hanging:grade")
    with pytest.raises(VerifierError, match=r"could not be judged.*cannot grade this"):
        list(pool.judge(rollout(r"\boxed{raise}", i) for i in range(200)))
    judged = list(pool.judge(iter([rollout(r"\boxed{12}")])))  # the pool itself is unharmed
    assert judged[0].verdict.is_correct
    pool.close()


def test_an_error_of_the_rollout_stream_reaches_the_caller(cluster: None) -> None:
    pool = make_pool()

    def stream() -> Iterator[Rollout]:
        yield rollout(r"\boxed{12}")
        raise RolloutError("no workers left")

    with pytest.raises(RolloutError, match="no workers left"):
        list(pool.judge(stream()))
    pool.close()
