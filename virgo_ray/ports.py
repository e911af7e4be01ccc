"""The seams through which the loop sees the machinery, and through which metrics leave.

`loop.py` knows only these Protocols, so the whole flow also runs with fakes. The Ray-backed
implementations live in `virgo_ray/actors/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from virgo_ray.config import SamplingConfig
from virgo_ray.records import (
    FitReport,
    Judged,
    Plan,
    PushReport,
    Request,
    Rollout,
    Weights,
)

Value = float | int | str | bool | None
Record = Mapping[str, Value]  # of metrics: a flat mapping


class Sink(Protocol):
    """Somewhere a record of metrics goes."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


class Sampler(Protocol):
    """Samples long thoughts: the model that learns, or a teacher."""

    def sample(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Rollout]:
        """Yield one rollout per request, in the order they finish.

        Requests are drawn lazily: at most the configured number is in flight, so a consumer that
        is slow to take results slows generation down (back-pressure).

        Raises:
            RolloutError: too few workers are left, or nothing finished for the configured time.
        """
        ...


class Rollouts(Sampler, Protocol):
    """Samples with the weights it was last given."""

    def push(self, weights: Weights) -> PushReport:
        """Load `weights` into every worker and prove it.

        Idempotent: a worker that already serves this version is left alone.

        Raises:
            PushError: a worker did not finish in time, or its log-probabilities differ.
        """
        ...


class Verifiers(Protocol):
    """Judges rollouts as they stream in."""

    def judge(self, rollouts: Iterable[Rollout]) -> Iterator[Judged]:
        """Yield one Judged per rollout, in the order they finish.

        Raises:
            VerifierError: the share of TIMEOUT and ERROR rose above the configured limit.
        """
        ...


class Trainer(Protocol):
    """Fine-tunes a model on packed examples and publishes the result."""

    def fit(self, plan: Plan, start: Weights, version: int) -> FitReport:
        """Train from `start` on `plan` and publish the result as `version`.

        Re-running an interrupted fit continues from its last checkpoint; re-running a finished one
        returns the published weights without training.

        Raises:
            TrainingError: non-finite loss or gradient norm, or a rank that keeps dying.
        """
        ...


@dataclass(frozen=True)
class Ports:
    """The machinery behind a run: Ray actors in `run.py`, fakes in the flow tests."""

    rollouts: Rollouts
    verifiers: Verifiers
    trainer: Trainer
    teacher: Sampler | None = None  # asked in place of `rollouts` from round 1 on
