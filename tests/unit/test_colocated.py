"""Engines and trainer on the same GPUs take turns; no cluster is needed to see in which order."""

from __future__ import annotations

from typing import Any

import pytest

from virgo_ray.actors.cluster import ColocatedTrainer
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
