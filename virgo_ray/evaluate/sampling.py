"""The core of every evaluation: asks for the answers that are missing, and the same of every model.

Every judged answer is on disk before the next one is read. An evaluation consists of passes (greedy
answers, samples). A pass is one stream over all its problems, so that slow thoughts of one problem
do not hold up the next. Runs (`heldout.py`) and the evaluation command (`command.py`) plan their
passes and complete them here; a model whose answers are complete starts no engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from virgo_ray.config import SamplingConfig
from virgo_ray.errors import RolloutError, VerifierError
from virgo_ray.evaluate.answers import GREEDY, NOBODY, SAMPLED, Answer, AnswerFile, Key
from virgo_ray.evaluate.progress import Progress
from virgo_ray.ports import Rollouts, Verifiers
from virgo_ray.records import Judged, Problem, Request

Ports = tuple[Rollouts, Verifiers]
Serving = Callable[[], AbstractContextManager[Ports]]  # of one model, as long as the block lasts


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
    """How every problem is asked: once greedily (or not), and `num_samples` times by `sampling`.

    The seeds of requests follow from `series`, which has the run's seed in it.
    """

    sampling: SamplingConfig
    num_samples: int
    has_greedy: bool
    series: str

    def passes(self, problems: Sequence[Problem], further: Sequence[Problem] = ()) -> list[Pass]:
        """The passes over `problems`; `further` ones are asked greedily only."""
        greedy = self.sampling.model_copy(update={"temperature": 0.0})  # with the same limits
        once = make_requests([*problems, *further], int(self.has_greedy), self.series)
        many = make_requests(problems, self.num_samples, self.series)
        every = [Pass(GREEDY, greedy, once), Pass(SAMPLED, self.sampling, many)]
        return [one for one in every if one.requests]


def make_requests(problems: Sequence[Problem], num: int, series: str) -> list[Request]:
    """Make `num` requests of each problem; seeds follow from series, problem and index alone."""
    return [Request(p, i, _seed_of(f"{series}/{p.id}/{i}")) for p in problems for i in range(num)]


def _seed_of(key: str) -> int:
    """A seed of 31 bits, the same for every model."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def find_unanswered(passes: Sequence[Pass], answers: AnswerFile) -> list[Pass]:
    """Reduce the passes to what is not answered yet; complete passes are left out."""
    left = []
    for one in passes:
        pairs = zip(one.keys, one.requests, strict=True)
        if requests := [request for key, request in pairs if key not in answers]:
            left.append(replace(one, requests=requests))
    return left


def ask_pass(one: Pass, answers: AnswerFile, ports: Ports) -> Iterator[Judged]:
    """Ask one pass; every answer is kept before it is yielded.

    Raises:
        RolloutError: the engines gave up; what came before is kept.
        VerifierError: too much could not be judged. What could be judged is kept, the rest is
            asked again by the next start.
    """
    rollouts, verifiers = ports
    try:
        for judged in verifiers.judge(rollouts.sample(one.requests, one.sampling)):
            answers.add(one.how, judged)
            yield judged
    except VerifierError:
        answers.forget(_has_failed)
        raise


def complete(
    passes: Sequence[Pass],
    answers: AnswerFile,
    serving: Serving,
    whose: str,
    progress: Progress | None = None,
) -> list[Answer]:
    """Ask everything that is missing in `answers`; return the answers of these passes.

    Raises:
        RolloutError: the engines gave up, or not everything that was asked of `whose` came back;
            what came is kept.
        VerifierError: too much could not be judged.
    """
    if missing := find_unanswered(passes, answers):
        progress = progress or Progress(whose, lambda line: None)
        progress.say("starting engines")
        with serving() as ports:
            for one in missing:
                progress.begin(one.how, len(one.requests))
                for judged in ask_pass(one, answers, ports):
                    progress.count(judged)
        progress.end()
    asked = {key for one in passes for key in one.keys}
    found = [answer for answer in answers if answer.key in asked]
    if len(found) != len(asked):
        raise RolloutError(
            f"only {len(found)} of {len(asked)} answers of {whose} came back; run the same command "
            "again for the rest"
        )
    return found


def _has_failed(answer: Answer) -> bool:
    return answer.decided_by == NOBODY
