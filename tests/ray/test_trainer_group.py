"""The trainer group on Ray: two real ranks on the bundled tiny model, killed and stuck."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from PIL import Image

from virgo_ray.actors.trainers import group as group_module
from virgo_ray.actors.trainers.group import TrainerGroup
from virgo_ray.actors.trainers.worker import TrainerWorker
from virgo_ray.config import Config, parse_config
from virgo_ray.errors import TrainingError
from virgo_ray.model.files import resolve_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import FitReport, Plan, Problem, Weights
from virgo_ray.train.pack import pack
from virgo_ray.weights.manifest import check_weights
from virgo_ray.weights.probe import ProbeItem

START = Weights(0, resolve_model("tiny"))
NUM_STEPS = 12
GONE_DEADLINE_S = 30.0

OnStep = Callable[[int, list[int]], None]


def config(run_dir: Path, **train: Any) -> Config:
    sampling = {"sampling": {"max_tokens": 100}}
    source = {"reader": "tiny"}
    usual = {"batch_size": 4, "lr": 1e-3, "num_epochs": NUM_STEPS / 2, "checkpoint_every_s": 1e-9}
    return parse_config(
        {
            "name": "group",
            "run_dir": str(run_dir),
            "model": {"path": "tiny", "dtype": "float32", "max_length": 384},
            "data": {"train": source, "heldout": source, "seed_thoughts": source},
            "explore": {"num_problems": 1, "num_samples": 1, **sampling},
            "evaluate": sampling,
            "train": {"num_workers": 2, **usual, **train},
        }
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as directory:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            namespace="trainer-group",
            log_to_driver=False,
            _temp_dir=directory,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    directory = tmp_path_factory.mktemp("plan")
    cfg = config(directory)
    prompter = Prompter(cfg.model, cfg.prompt)
    examples = []
    for i in range(8):
        path = directory / f"{i}.png"
        Image.new("RGB", (64, 64), (30 * i, 90, 200)).save(path)
        problem = Problem(str(i), f"What is {i} + 3?", str(i + 3), (str(path),) if i % 2 else ())
        examples.append(prompter.example(problem.id, problem, f"{i} + 3 = {i + 3}" + " so" * i))
    made = pack(examples, cfg.train, random.Random(0))
    assert len(made.steps) == NUM_STEPS
    return made


class Watched:
    """The group of most tests, which lost a rank while it started; what it reports of a fit."""

    def __init__(self, cfg: Config) -> None:
        self.group = TrainerGroup(cfg, on_step=self._listen)
        self.losses: list[float] = []
        self._on_step: OnStep | None = None

    def fit(
        self, plan: Plan, version: int, on_step: OnStep | None = None
    ) -> tuple[FitReport, list[float]]:
        """A whole fit; `on_step(step, pids)` may harm the ranks, which end then."""
        before = self.group.pids
        self.losses, self._on_step = [], on_step
        report = self.group.fit(plan, START, version)
        self.group.settle()
        if on_step is not None:
            assert_gone(before)
        return report, self.losses

    def _listen(self, values: dict[str, float]) -> None:
        self.losses.append(values["loss"])
        assert int(values["step"]) == len(self.losses), "every step is reported once, in order"
        if self._on_step is not None:
            self._on_step(len(self.losses), list(self.group.pids))


def assert_gone(pids: list[int]) -> None:
    """The ranks' processes end, soon if not at once."""
    deadline = time.monotonic() + GONE_DEADLINE_S
    while alive := [p for p in pids if psutil.pid_exists(p) and not is_zombie(p)]:
        assert time.monotonic() < deadline, f"processes {alive} outlived their group"
        time.sleep(0.1)


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def restarted(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A group that lost a rank while it started; starting one takes most of a test's time."""
    before = rank_pids()
    watched = Watched(config(tmp_path_factory.mktemp("group")))
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(watched.group.come_up)
        deadline = time.monotonic() + GONE_DEADLINE_S
        while not (started := rank_pids() - before):
            assert time.monotonic() < deadline, "no rank was started"
            time.sleep(0.05)
        killed = min(started)
        os.kill(killed, signal.SIGKILL)
        starting.result(timeout=120)
    assert len(watched.group.pids) == 2 and killed not in watched.group.pids
    yield watched
    watched.group.close()


@pytest.fixture(scope="module")
def undisturbed(restarted: Watched, plan: Plan) -> list[float]:
    report, losses = restarted.fit(plan, 1)
    check_weights(report.weights.path)
    assert report.num_steps == len(losses) == NUM_STEPS
    assert report.last_loss < report.first_loss
    return losses


def test_a_rank_killed_while_the_group_starts_is_replaced(restarted, undisturbed):
    assert restarted.group.metrics() == {"trainer_restarts": 1}, "and nothing was lost since"


def test_a_killed_rank_costs_time_but_changes_no_loss(restarted, undisturbed, plan):
    def kill_second_rank(step: int, pids: list[int]) -> None:
        if step == 3:
            os.kill(pids[1], signal.SIGKILL)

    report, losses = restarted.fit(plan, 2, kill_second_rank)
    assert report.resumed_from_step >= 1
    assert losses == pytest.approx(undisturbed, abs=1e-5)


def test_a_stuck_rank_is_found_by_the_step_deadline(restarted, undisturbed, plan, monkeypatch):
    def stop_second_rank(step: int, pids: list[int]) -> None:
        if step == 3:
            os.kill(pids[1], signal.SIGSTOP)

    cfg = restarted.group._cfg
    soon = cfg.train.model_copy(update={"step_deadline_s": 15.0})
    monkeypatch.setattr(restarted.group, "_cfg", cfg.model_copy(update={"train": soon}))
    report, losses = restarted.fit(plan, 3, stop_second_rank)
    assert report.resumed_from_step >= 1
    assert losses == pytest.approx(undisturbed, abs=1e-5)


def rank_pids() -> set[int]:
    """Trainer ranks of this test's own cluster."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if "TrainerWorker" in process.name() + " ".join(process.cmdline()):
                found.add(process.pid)
    return found


def test_a_non_finite_loss_arrives_as_a_training_error_and_a_later_fit_works(
    restarted, undisturbed, plan
):
    bad = replace(plan, examples=tuple(replace(e, weight=float("nan")) for e in plan.examples))
    with pytest.raises(TrainingError, match="loss is nan at optimizer step 1"):
        restarted.fit(bad, 4)
    report, _ = restarted.fit(plan, 4)
    assert report.last_loss == pytest.approx(undisturbed[-1], abs=1e-5)


def test_a_closed_group_is_gone_and_says_so(restarted, plan):
    group = restarted.group
    path = group.probe_base(START, [ProbeItem((5, 6), (7, 8))])
    assert Path(path).parts[-3:] == ("weights", "v0000", "probe.json")
    group.close()
    group.close()
    assert_gone(group.pids)
    with pytest.raises(TrainingError, match="the trainer group was closed"):
        group.fit(plan, START, 1)


class ShortOfMemory(TrainerWorker):
    """Its second rank finds no memory in the second optimizer step."""

    def join(self, address: str, port: int, deadline_s: float) -> tuple[str, int]:
        import torch

        from virgo_ray.train.zero import ZeroEngine

        whole, calls = ZeroEngine.backward, []

        def backward(engine: Any, loss: Any) -> None:
            calls.append(1)
            if self._rank == 1 and len(calls) == 3:  # the longest one first, then a step
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            whole(engine, loss)

        ZeroEngine.backward = backward  # type: ignore[method-assign]
        return super().join(address, port, deadline_s)


def test_out_of_memory_on_one_of_two_ranks_ends_the_fit_at_once_and_by_name(
    cluster, plan, tmp_path, monkeypatch
):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(group_module, "TrainerWorker", ShortOfMemory)
    steps: list[int] = []
    group = TrainerGroup(config(tmp_path), on_step=lambda values: steps.append(values["step"]))
    try:
        group.come_up()
        pids = group.pids
        with pytest.raises(
            TrainingError, match=r"out of memory in micro-batch 1 of 1 .* on rank 1"
        ):
            group.fit(plan, START, 1)
        assert steps in ([], [1]), "nothing was tried again"
        assert_gone(pids)
    finally:
        group.close()
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
