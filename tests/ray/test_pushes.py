"""Weights from a trainer's memory to engines: two real ranks, two real engines, the tiny model."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import ray
from PIL import Image

from virgo_ray.actors.placement import make_placement
from virgo_ray.actors.rollouts.pool import RolloutPool
from virgo_ray.actors.rollouts.slot import State
from virgo_ray.actors.trainers.group import TrainerGroup
from virgo_ray.config import Config, load_config
from virgo_ray.model.files import resolve_model
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Plan, Problem, PushReport, Weights
from virgo_ray.train.pack import pack
from virgo_ray.train.probing import choose_start
from virgo_ray.weights.manifest import check_weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BASE = Weights(0, resolve_model("tiny"))


class Pair:
    """Engines and trainers that push to each other, one version after the other."""

    def __init__(self, cfg: Config, plan: Plan, stack: ExitStack) -> None:
        self.said: list[str] = []
        self.version = 0
        self._cfg, self._plan = cfg, plan
        self.placement = make_placement(cfg)
        self.pool = stack.enter_context(closing(RolloutPool(cfg, self.placement)))
        self.group = stack.enter_context(closing(TrainerGroup(cfg, self.placement)))
        self.pool.come_up()
        self.group.come_up()
        problems = [Problem("a", "How many squares?", "1"), Problem("b", "What is 2 + 2?", "4")]
        items = choose_start(
            200, cfg.model.max_length, Prompter(cfg.model, cfg.prompt), problems, [],
            Path(cfg.run_dir) / "probe",
        )  # fmt: skip
        self.group.probe_base(BASE, items)
        self.pool.push(BASE)

    def push(self, transport: str, harm: Callable[[], None] | None = None) -> PushReport:
        """Fit a new version and push it; `harm` is done when the sender has been told to send."""
        self.version += 1
        push = self._cfg.push.model_copy(update={"transport": transport})
        self.pool._cfg = self._cfg.model_copy(update={"push": push})
        source: Any = self.group if harm is None else Harmful(self.group, harm)
        self.pool.draw_from(source, self.said.append)
        fit = self.group.fit(self._plan, BASE, self.version)
        report = self.pool.push(fit.weights)
        self.group.settle()
        check_weights(fit.weights.path)
        assert [slot.state for slot in self.pool.slots] == [State.SERVING, State.SERVING]
        assert report.version == self.version
        assert max(report.max_diff_text, report.max_diff_image) < 1e-3
        return report


class Harmful:
    """A source whose sending meets with an accident."""

    def __init__(self, group: TrainerGroup, harm: Callable[[], None]) -> None:
        self._group, self._harm = group, harm
        self.nodes, self.settle = group.nodes, group.settle
        self.was_trained_again = group.was_trained_again

    def offer(self, *args: Any) -> Any:
        push = self._group.offer(*args)
        assert push is not None
        start = push.start

        def start_and_harm(offer: Any) -> None:
            start(offer)
            self._harm()

        push.start = start_and_harm  # type: ignore[method-assign]
        return push


def config(run_dir: Path, *more: str) -> Config:
    overrides = (
        f"run_dir={run_dir}", "rollout.max_in_flight=4", "rollout.enforce_eager=true",
        "rollout.kv_cache_gib=0.1", "train.num_epochs=1", "train.batch_size=4", "train.lr=1e-3",
        "push.probe_tokens=200", *more,
    )  # fmt: skip
    return load_config(str(ROOT / "configs/tiny.yaml"), overrides)


def make_plan(cfg: Config, directory: Path) -> Plan:
    prompter = Prompter(cfg.model, cfg.prompt)
    examples = []
    for i in range(8):
        path = directory / f"{i}.png"
        Image.new("RGB", (64, 64), (30 * i, 90, 200)).save(path)
        problem = Problem(str(i), f"What is {i} + 3?", str(i + 3), (str(path),) if i % 2 else ())
        examples.append(prompter.example(problem.id, problem, f"{i} + 3 = {i + 3}" + " so" * 40))
    return pack(examples, cfg.train, random.Random(0))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("virgo_ray.actors.restarts.PAUSE_S", 0.2)
        ray.init(
            address="local", num_cpus=8, include_dashboard=False, log_to_driver=False,
            object_store_memory=100 * 1024**2,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )  # fmt: skip
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def pair(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pushes")
    cfg = config(directory / "run")
    with ExitStack() as stack:
        yield Pair(cfg, make_plan(cfg, directory), stack)


@pytest.mark.parametrize("transport", ["ipc", "broadcast"])
def test_engines_prove_weights_that_are_on_no_disk_yet(pair: Pair, transport: str) -> None:
    report = pair.push(transport)
    assert report.transport == transport
    assert report.gather_seconds > 0 and report.wire_seconds > 0
    assert report.load_seconds > 0 and report.probe_seconds > 0
    for slot in pair.pool.slots:
        assert slot.evidence is not None and set(slot.evidence.read) == {"stream"}
    assert pair.pool.push(Weights(pair.version, report_path(pair))).transport == "disk"
    assert f"weights reach the engines by {transport}: push.transport={transport}" in pair.said


def report_path(pair: Pair) -> str:
    target = pair.pool._workers.target
    assert target is not None
    return target.weights.path


def test_weights_whose_sender_is_killed_are_trained_again_and_come_from_disk(pair: Pair) -> None:
    report = pair.push("auto", lambda: os.kill(pair.group.pids[0], signal.SIGKILL))
    assert report.wire_seconds == 0
    assert "push by ipc failed" in pair.said[-1] and "all later pushes" in pair.said[-1]
    for slot in pair.pool.slots:
        assert slot.evidence is not None and "model.safetensors" in slot.evidence.read
    assert pair.pool.metrics()["rollout_worker_restarts"] == 0


def test_an_engine_that_is_killed_in_a_push_catches_up_from_disk(pair: Pair) -> None:
    def kill() -> None:
        process_id = pair.pool.slots[1].process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)

    pair.push("broadcast", kill)
    assert pair.pool.metrics()["rollout_worker_restarts"] == 1
    evidence = pair.pool.slots[1].evidence
    assert evidence is not None and "model.safetensors" in evidence.read


def test_adapters_are_merged_by_the_engines_into_what_is_published(
    cluster: None, pair: Pair, tmp_path: Path
) -> None:
    pair.pool.close()
    pair.group.close()
    pair.placement.release()
    cfg = config(tmp_path / "run", "train.lora.rank=4", "train.restart_from=previous", "rounds=1")
    with ExitStack() as stack:
        lora = Pair(cfg, make_plan(cfg, tmp_path), stack)
        report = lora.push("adapter")
        lora.placement.release()
    assert report.transport == "adapter" and report.wire_seconds > 0
