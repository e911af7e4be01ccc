"""Asks models problems: only what is not answered yet, and the same of each.

What is judged is on disk before the next is looked at. An evaluation is some passes (greedy
answers, samples), each one stream over all its problems, so that slow thoughts of one do not hold
up the next. Runs and the evaluation command ask in the same way; a model whose answers are complete
starts no engine.
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
class Asked:
    """How every problem is asked: once greedily (or not), and `num_samples` times by `sampling`."""

    sampling: SamplingConfig
    num_samples: int
    has_greedy: bool
    seed: int

    def passes(self, problems: Sequence[Problem]) -> list[Pass]:
        greedy = greedily(self.sampling)
        every = [(GREEDY, greedy, int(self.has_greedy)), (SAMPLED, self.sampling, self.num_samples)]
        return [
            Pass(how, sampling, requests_of(problems, num, f"{self.seed}/benchmark"))
            for how, sampling, num in every
            if num
        ]


def greedily(sampling: SamplingConfig) -> SamplingConfig:
    """With the same limits."""
    return sampling.model_copy(update={"temperature": 0.0})


def requests_of(problems: Sequence[Problem], num: int, series: str) -> list[Request]:
    """`num` samples of each problem; their seeds follow from series, problem and place alone."""
    return [Request(p, i, _seed_of(f"{series}/{p.id}/{i}")) for p in problems for i in range(num)]


def _seed_of(key: str) -> int:
    """31 bits, the same for every model compared."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def keys_of(passes: Sequence[Pass]) -> set[Key]:
    return {key for one in passes for key in one.keys}


def unanswered(passes: Sequence[Pass], answers: AnswerFile) -> list[Pass]:
    """What is left of them; a pass of which nothing is left is no pass."""
    left = []
    for one in passes:
        pairs = zip(one.keys, one.requests, strict=True)
        if requests := [request for key, request in pairs if key not in answers]:
            left.append(replace(one, requests=requests))
    return left


def answered(
    one: Pass, answers: AnswerFile, rollouts: Rollouts, verifiers: Verifiers
) -> Iterator[Judged]:
    """Ask, keep, then yield.

    Raises:
        RolloutError: the engines gave up; what came before is kept.
        VerifierError: too much could not be judged; that is asked again once the verifier is
            mended, what could be is kept.
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
            f"{num} of {len(wanted)} answers of {whose} came back; run the same command again for "
            "the rest"
        )


def ask(passes: Sequence[Pass], answers: AnswerFile, serving: Serving, progress: Progress) -> None:
    """Fill `answers` up.

    Raises:
        RolloutError, VerifierError: the engines or verifiers gave up; what came before is kept.
    """
    missing = unanswered(passes, answers)
    if not missing:
        return
    progress.say("starting engines")
    with serving() as (rollouts, verifiers):
        for one in missing:
            progress.begin(one.how, len(one.requests))
            for judged in answered(one, answers, rollouts, verifiers):
                progress.judged(judged)
        progress.end()


def _has_failed(answer: Answer) -> bool:
    return answer.decided_by == NOBODY
