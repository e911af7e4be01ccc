"""Samples the answers of an evaluation: only those that are missing, and the same of every model.

Every judged answer is on disk before the next one is read. An evaluation consists of passes (greedy
answers, samples). A pass is one stream over all its problems, so that slow thoughts of one problem
do not hold up the next. Runs and the evaluation command ask in the same way; a model whose answers
are complete starts no engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from virgo_ray.config import SamplingConfig
from virgo_ray.errors import RolloutError, VerifierError
from virgo_ray.evaluate.answers import GREEDY, NOBODY, SAMPLED, Answer, AnswerFile, Key
from virgo_ray.evaluate.progress import Progress
from virgo_ray.ports import Rollouts, Verifiers
from virgo_ray.records import Judged, Problem, Request

# Engines and verifiers that serve a model, as long as the block lasts.
Serving = Callable[[], AbstractContextManager[tuple[Any, Verifiers]]]


@dataclass(frozen=True)
class Pass:
    """Requests that are sampled in the same way; `how` is its name in the answers."""

    how: str
    sampling: SamplingConfig
    requests: Sequence[Request]

    @property
    def keys(self) -> Iterator[Key]:
        return ((r.problem.id, self.how, r.sample_index) for r in self.requests)


@dataclass(frozen=True)
class SamplingPlan:
    """How every problem is asked: once greedily (or not), and `num_samples` times by `sampling`."""

    sampling: SamplingConfig
    num_samples: int
    has_greedy: bool
    seed: int

    def passes(self, problems: Sequence[Problem]) -> list[Pass]:
        greedy = make_greedy(self.sampling)
        every = [(GREEDY, greedy, int(self.has_greedy)), (SAMPLED, self.sampling, self.num_samples)]
        return [
            Pass(how, sampling, requests_of(problems, num, f"{self.seed}/benchmark"))
            for how, sampling, num in every
            if num
        ]


def make_greedy(sampling: SamplingConfig) -> SamplingConfig:
    """Set the temperature to 0, with the same limits."""
    return sampling.model_copy(update={"temperature": 0.0})


def requests_of(problems: Sequence[Problem], num: int, series: str) -> list[Request]:
    """Make `num` requests of each problem; seeds follow from series, problem and index alone."""
    return [Request(p, i, _seed_of(f"{series}/{p.id}/{i}")) for p in problems for i in range(num)]


def _seed_of(key: str) -> int:
    """A seed of 31 bits, the same for every model."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def keys_of(passes: Sequence[Pass]) -> set[Key]:
    return {key for one in passes for key in one.keys}


def find_unanswered(passes: Sequence[Pass], answers: AnswerFile) -> list[Pass]:
    """Reduce the passes to what is not answered yet; complete passes are left out."""
    left = []
    for one in passes:
        pairs = zip(one.keys, one.requests, strict=True)
        if requests := [request for key, request in pairs if key not in answers]:
            left.append(replace(one, requests=requests))
    return left


def ask_pass(
    one: Pass, answers: AnswerFile, rollouts: Rollouts, verifiers: Verifiers
) -> Iterator[Judged]:
    """Ask one pass; every answer is kept before it is yielded.

    Raises:
        RolloutError: the engines gave up; what came before is kept.
        VerifierError: too much could not be judged. What could be judged is kept, the rest is
            asked again by the next start.
    """
    try:
        for judged in verifiers.judge(rollouts.sample(one.requests, one.sampling)):
            answers.add(one.how, judged)
            yield judged
    except VerifierError:
        answers.forget(_has_failed)
        raise


def refuse_missing(passes: Sequence[Pass], answers: AnswerFile, whose: str) -> None:
    """
    Raises:
        RolloutError: not everything that was asked came back.
    """
    wanted = keys_of(passes)
    num = sum(key in answers for key in wanted)
    if num != len(wanted):
        raise RolloutError(
            f"only {num} of {len(wanted)} answers of {whose} came back; run the same command again "
            "for the rest"
        )


def ask(passes: Sequence[Pass], answers: AnswerFile, serving: Serving, progress: Progress) -> None:
    """Ask everything that is missing in `answers`.

    Raises:
        RolloutError, VerifierError: the engines or verifiers gave up; what came before is kept.
    """
    missing = find_unanswered(passes, answers)
    if not missing:
        return
    progress.say("starting engines")
    with serving() as (rollouts, verifiers):
        for one in missing:
            progress.begin(one.how, len(one.requests))
            for judged in ask_pass(one, answers, rollouts, verifiers):
                progress.count(judged)
        progress.end()


def _has_failed(answer: Answer) -> bool:
    return answer.decided_by == NOBODY
