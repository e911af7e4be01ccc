"""Asks models the problems of all benchmarks: only what is not answered yet, and the same of each.

Greedy answers first, then the samples, each through one stream over all benchmarks, so that slow
thoughts of one do not hold up the next. What is judged is on disk before the next is looked at. A
model whose answers are complete starts no engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from virgo_ray.config import SamplingConfig
from virgo_ray.evaluate.answers import GREEDY, SAMPLED, AnswerFile
from virgo_ray.evaluate.progress import Progress
from virgo_ray.ports import Rollouts, Verifiers
from virgo_ray.records import Problem, Request

# Engines and verifiers that serve a model, as long as the block lasts.
Serving = Callable[[], AbstractContextManager[tuple[Any, Verifiers]]]


@dataclass(frozen=True)
class Asked:
    """How every problem is asked: once greedily (or not), and `num_samples` times by `sampling`."""

    sampling: SamplingConfig
    num_samples: int
    has_greedy: bool
    seed: int

    def passes(self) -> list[tuple[str, SamplingConfig, int]]:
        """(how, sampling, answers per problem); greedy has the same limits."""
        greedy = self.sampling.model_copy(update={"temperature": 0.0})
        every = [(GREEDY, greedy, int(self.has_greedy)), (SAMPLED, self.sampling, self.num_samples)]
        return [one for one in every if one[2]]

    def keys(self, problems: Sequence[Problem]) -> set[tuple[str, str, int]]:
        return {
            (p.id, how, i) for how, _, num in self.passes() for p in problems for i in range(num)
        }


def ask(
    problems: Sequence[Problem],
    asked: Asked,
    answers: AnswerFile,
    serving: Serving,
    progress: Progress,
) -> None:
    """Fill `answers` up.

    Raises:
        RolloutError, VerifierError: the engines or verifiers gave up; what came before is kept.
    """
    missing = [
        (how, sampling, requests)
        for how, sampling, num in asked.passes()
        if (requests := _missing(problems, how, num, answers, asked.seed))
    ]
    if not missing:
        return
    progress.say("starting engines")
    with serving() as (rollouts, verifiers):
        for how, sampling, requests in missing:
            progress.begin(how, len(requests))
            _answer(requests, how, sampling, answers, rollouts, verifiers, progress)
        progress.end()


def _answer(
    requests: Sequence[Request],
    how: str,
    sampling: SamplingConfig,
    answers: AnswerFile,
    rollouts: Rollouts,
    verifiers: Verifiers,
    progress: Progress,
) -> None:
    for judged in verifiers.judge(rollouts.sample(requests, sampling)):
        answers.add(how, judged)
        progress.judged(judged)


def _missing(
    problems: Sequence[Problem], how: str, num: int, answers: AnswerFile, seed: int
) -> list[Request]:
    return [
        Request(problem, i, request_seed(seed, problem.id, i))
        for problem in problems
        for i in range(num)
        if (problem.id, how, i) not in answers
    ]


def request_seed(seed: int, problem_id: str, index: int) -> int:
    """The same for every model compared."""
    digest = hashlib.sha256(f"{seed}/benchmark/{problem_id}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
