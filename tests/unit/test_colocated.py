"""Engines and trainer on the same GPUs take turns; no cluster is needed to see in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from virgo_ray.actors.cluster import ColocatedTrainer
from virgo_ray.actors.rollouts.worker import RolloutWorker
from virgo_ray.config import load_config
from virgo_ray.records import Plan, Weights

BASE = Weights(0, "/base")


class Recorder:
    """Stands for both pools: notes what it is told, in order."""

    def __init__(self, error: Exception | None = None, is_settled: bool = True) -> None:
        self.told: list[str] = []
        self._error = error
        self._is_settled = is_settled

    def try_settle(self) -> bool:
        self.told.append("try_settle")
        return self._is_settled

    def __getattr__(self, name: str) -> Any:
        def note(*_: Any) -> str:
            self.told.append(name)
            if self._error is not None and name in ("fit", "probe_base"):
                raise self._error
            return name

        return note


def test_the_engines_sleep_while_the_trainer_fits_and_wake_after_it_let_go() -> None:
    both: Any = Recorder()
    ColocatedTrainer(both, both).fit(Plan((), ()), BASE, 1)
    assert both.told == ["sleep", "fit", "release", "wake"]


def test_the_engines_also_sleep_while_the_base_is_probed() -> None:
    both: Any = Recorder()
    assert ColocatedTrainer(both, both).probe_base(BASE, []) == "probe_base"
    assert both.told == ["sleep", "probe_base", "release", "wake"]


def test_a_trainer_that_fails_ends_the_run_and_wakes_nobody() -> None:
    both: Any = Recorder(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        ColocatedTrainer(both, both).fit(Plan((), ()), BASE, 1)
    assert both.told == ["sleep", "fit"]


def test_publishing_needs_no_gpu_and_a_fit_that_was_lost_with_its_rank_needs_all() -> None:
    both: Any = Recorder()
    ColocatedTrainer(both, both).settle()
    assert both.told == ["try_settle"]
    lost: Any = Recorder(is_settled=False)
    ColocatedTrainer(lost, lost).settle()
    assert lost.told == ["try_settle", "sleep", "settle", "release", "wake"]


class Sleeper:
    """An engine that was woken for its weights alone."""

    version, was_killed, read = 1, False, {"model.safetensors": "ab"}

    def __init__(self, is_cache_asleep: bool) -> None:
        self.is_cache_asleep = is_cache_asleep
        self.told: list[str] = []

    async def load(self, *_: Any) -> None:
        self.told.append("load")

    async def score(self, items: Any) -> list[list[float]]:
        return []

    async def score_cached(self, items: Any) -> list[float]:
        self.told.append("cached")
        return []


@pytest.mark.parametrize("is_cache_asleep", [False, True])
def test_a_sleeping_cache_is_not_woken_before_the_weights_are_in(is_cache_asleep: bool) -> None:
    engine: Any = Sleeper(is_cache_asleep)
    worker = RolloutWorker(load_config("configs/tiny.yaml", []), 0)
    worker._engine = engine
    asyncio.run(worker.load(Weights(2, "v0002"), [], []))
    assert engine.told == ["cached"] * (not is_cache_asleep) + ["load", "cached"]


def test_what_was_lost_is_trained_again_before_it_is_written_and_nobody_is_awake() -> None:
    lost: Any = Recorder(is_settled=False)
    ColocatedTrainer(lost, lost).write_now(1)
    assert lost.told == ["try_settle", "sleep", "settle", "release", "wake", "write_now"]
