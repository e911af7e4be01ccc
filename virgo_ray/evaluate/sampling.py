"""The core of every evaluation: asks for the answers that are missing, and the same of every model.

Every judged answer is on disk before the next one is read. An evaluation is one stream: greedy
answers, samples, blanked and permuted problems and probes are asked together, so that slow thoughts
hold up nothing but the end. Runs (`heldout.py`) and the evaluation command (`command.py`) plan
their requests and complete them here; a model whose answers are complete starts no engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from virgo_ray.config import SamplingConfig
from virgo_ray.errors import RolloutError, VerifierError
from virgo_ray.evaluate.answers import NOBODY, Answer, AnswerFile, key_of
from virgo_ray.evaluate.progress import Progress
from virgo_ray.ports import Rollouts, Verifiers
from virgo_ray.records import Judged, Problem, Request

Ports = tuple[Rollouts, Verifiers]
Serving = Callable[[], AbstractContextManager[Ports]]  # of one model, as long as the block lasts


@dataclass(frozen=True)
class SamplingPlan:
    """How every problem is asked: once greedily (or not), and `num_samples` times by `sampling`.

    The seeds of requests follow from `series`, which has the run's seed in it.
    """

    sampling: SamplingConfig
    num_samples: int
    has_greedy: bool
    series: str

    def requests(
        self, problems: Sequence[Problem], further: Sequence[Problem] = ()
    ) -> list[Request]:
        """All requests about `problems`; `further` ones are asked greedily only.

        Those of one problem stand together, so that its picture is processed once.
        """
        asked = [r for p in problems for r in self._requests_of(p, self.num_samples)]
        return asked + [r for p in further for r in self._requests_of(p, 0)]

    def _requests_of(self, problem: Problem, num_samples: int) -> list[Request]:
        """Seeds follow from series, problem and index alone."""
        hows = [(0, True)] * self.has_greedy + [(i, False) for i in range(num_samples)]
        return [
            Request(problem, i, _seed_of(f"{self.series}/{problem.id}/{i}"), is_greedy)
            for i, is_greedy in hows
        ]


def _seed_of(key: str) -> int:
    """A seed of 31 bits, the same for every model."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def ask(
    requests: Sequence[Request], sampling: SamplingConfig, answers: AnswerFile, ports: Ports
) -> Iterator[Judged]:
    """Ask in one stream; every answer is kept before it is yielded.

    Raises:
        RolloutError: the engines gave up; what came before is kept.
        VerifierError: too much could not be judged. What could be judged is kept, the rest is
            asked again by the next start.
    """
    rollouts, verifiers = ports
    try:
        for judged in filter(None, verifiers.judge(rollouts.sample(requests, sampling))):
            answers.add(judged)
            yield judged
    except VerifierError:
        answers.forget(_has_failed)
        raise


def complete(
    requests: Sequence[Request],
    sampling: SamplingConfig,
    answers: AnswerFile,
    serving: Serving,
    whose: str,
    progress: Progress | None = None,
) -> list[Answer]:
    """Ask everything that is missing in `answers`; return the answers to `requests`, in their
    order.

    Raises:
        RolloutError: the engines gave up, or not everything that was asked of `whose` came back;
            what came is kept.
        VerifierError: too much could not be judged.
    """
    if missing := [request for request in requests if key_of(request) not in answers]:
        progress = progress or Progress(whose, lambda line: None)
        progress.say("starting engines")
        with serving() as ports:
            progress.begin(len(missing))
            for judged in ask(missing, sampling, answers, ports):
                progress.count(judged)
        progress.end()
    known = {answer.key: answer for answer in answers}
    found = [known[key] for key in map(key_of, requests) if key in known]
    if len(found) != len(requests):
        raise RolloutError(
            f"only {len(found)} of {len(requests)} answers of {whose} came back; run the same "
            "command again for the rest"
        )
    return found


def _has_failed(answer: Answer) -> bool:
    return answer.decided_by == NOBODY
