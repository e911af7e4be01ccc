"""The seams through which the loop sees the machinery, and through which metrics leave.

`loop.py` knows only these Protocols, so the whole flow also runs with fakes. The Ray-backed
implementations live in `virgo_ray/actors/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from virgo_ray.config import Format, SamplingConfig
from virgo_ray.records import (
    Candidate,
    Evaluation,
    FitReport,
    Judged,
    Member,
    Outcome,
    Plan,
    Problem,
    PushReport,
    Request,
    Rollout,
    Round,
    Trace,
    Weights,
)

Value = float | int | str | bool | None
Record = Mapping[str, Value]  # of metrics: a flat mapping


Counts = Literal["", "so far", "in the phase", "since the record before"]


@dataclass(frozen=True)
class Sample:
    """A number of a record as Prometheus takes it; `counts` says how it adds up, "" that it does
    not."""

    name: str
    labels: Mapping[str, str]
    value: float
    meaning: str
    counts: Counts = ""


class Sink(Protocol):
    """Somewhere a record of metrics goes."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class RoundSink(Sink, Protocol):
    """A sink that shows more of a round than numbers."""

    def end_round(self, done: Round, examples: Sequence[Judged]) -> None:
        """After the records of a complete round; `examples` are a few of its rollouts."""
        ...


class Sampler(Protocol):
    """Samples long thoughts: the model that learns, or a teacher."""

    def sample(
        self, requests: Iterable[Request | None], sampling: SamplingConfig
    ) -> Iterator[Rollout | None]:
        """Yield one rollout per request, in the order they finish.

        Requests are drawn lazily: at most the configured number is in flight, so a consumer that
        is slow to take results slows generation down (back-pressure). A request that is greedy is
        sampled at temperature 0, all others as `sampling` says.

        `requests` may say None (never at first): what follows depends on verdicts that are still
        to come. It is drawn from again later. Meanwhile None is yielded now and then, whether
        anything is in flight or not, so that whoever is next hands on what it holds. Where
        `requests` has no None, the result has none.

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
            DroppedWeightsError: nobody has their tensors any more; nothing was changed.
            PushError: a worker did not finish in time, or its log-probabilities differ.
        """
        ...


class Verifiers(Protocol):
    """Judges rollouts as they stream in."""

    def judge(self, rollouts: Iterable[Rollout | None]) -> Iterator[Judged | None]:
        """Yield one Judged per rollout, in the order they finish.

        After a None nothing more comes before all that came was yielded: None is yielded then.

        Raises:
            VerifierError: the share of TIMEOUT and ERROR rose above the configured limit.
        """
        ...


class Trainer(Protocol):
    """Fine-tunes a model on packed examples and publishes the result."""

    def fit(self, plan: Plan, start: Weights, version: int, is_again: bool = False) -> FitReport:
        """Train from `start` on `plan` and begin to publish the result as `version`.

        The directory of the weights is there once `settle` has returned; `Rollouts.push` takes them
        before that, too. Re-running an interrupted fit continues from its last checkpoint;
        re-running a finished one returns the published weights without training. `is_again`:
        `version` was published without tensors; they are trained again and put there.

        Raises:
            TrainingError: non-finite loss or gradient norm, or a rank that keeps dying.
            DroppedWeightsError: `start` has no tensors on disk, and they are not in memory.
            WeightsError: `is_again`, and `version` was trained from, on or with something else.
        """
        ...

    def settle(self) -> None:
        """Wait until the weights of the last fit are published: whole, and on the disk.

        What died with the trainer before that is trained again. Without a fit there is nothing to
        wait for.

        Raises:
            WeightsError, TrainingError: they could not be published.
        """
        ...

    def write_now(self, version: int) -> bool:
        """Put the tensors of `version` on disk, which was published without them, if they are still
        in memory; between fits. Returns whether they are there now."""
        ...


class Store(Protocol):
    """Keeps every judged rollout; the replay buffer."""

    def add_all(self, round: int, judged: Iterable[Judged], asked: Sized) -> None:
        """Store what comes, durably, bit by bit.

        Raises:
            TraceStoreError: fewer came than were asked in the end, or the file system refused.
        """
        ...

    def seal(self) -> int:
        """End a round's exploration; returns the version of the store that holds it."""
        ...

    def clean(self, named: Iterable[int]) -> int:
        """Remove old versions that are not named."""
        ...

    def still_missing(
        self, round: int, wanted: Iterable[tuple[Problem, int]], seed: int
    ) -> list[Request]:
        """Requests for the samples (problem, index) of this round that are not stored yet."""
        ...

    def taken_rounds(self) -> list[int]:
        """The rounds before the first (-2, -1): what another run sampled."""
        ...

    def rows(self, round: int) -> Iterator[Outcome]:
        """The outcomes of a round, for counting."""
        ...

    def num_new(self, round: int) -> int:
        """Accepted thoughts of a round that no earlier round had."""
        ...

    def verifier_versions(self, round: int) -> Mapping[str, int]:
        """{version of the verifier: rollouts of this round that it judged}."""
        ...

    def are_correct(self, round: int) -> Mapping[tuple[str, int], bool]:
        """Of every judged sample (problem id, index) of a round, whether it is correct."""
        ...

    def round_counts(self, rounds: Iterable[int]) -> Mapping[tuple[int, str], tuple[int, int]]:
        """{(round, problem id): (correct, judged)} of what was judged in these rounds."""
        ...

    def solved(self, round: int) -> frozenset[str]:
        """Ids of problems with at least one correct rollout in this round."""
        ...

    def blank_solved(self, rounds: Iterable[int]) -> Mapping[str, bool]:
        """{problem id: whether it was solved without its pictures} of those asked so."""
        ...

    def candidates(
        self, rounds: Iterable[int], formats: Sequence[Format], with_words: bool
    ) -> list[Candidate]:
        """The correct rollouts of these rounds, described, without their text."""
        ...

    def examples(self, round: int, num_per_status: int) -> list[Judged]:
        """The first few of every status that a round had, for people to look at."""
        ...

    def groups(self, round: int) -> Mapping[str, tuple[Member, ...]]:
        """{problem id: all its judged samples of this round}: no greedy rollouts, no probes."""
        ...

    def traces(
        self, chosen: Sequence[Candidate | Member], problems: Sequence[Problem]
    ) -> list[Trace]:
        """What was chosen, right or wrong, with its tokens, in that order."""
        ...


class Evaluator(Protocol):
    """Measures the weights that the rollout workers serve on held-out problems."""

    def evaluate(self, weights: Weights) -> Evaluation:
        """The figures of `weights`; an interrupted evaluation goes on with what is missing.

        Raises:
            RolloutError, VerifierError, TraceStoreError: what was judged before is kept.
        """
        ...


@dataclass(frozen=True)
class Ports:
    """The machinery behind a run: Ray actors in `run.py`, fakes in the flow tests."""

    rollouts: Rollouts
    verifiers: Verifiers
    trainer: Trainer
    store: Store
    evaluator: Evaluator
    teacher: Sampler | None = None  # asked in place of `rollouts` from round 1 on
