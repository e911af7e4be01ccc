"""Ask the LLM judge about CORRECT verdicts while they stream by.

The LLM judge is asked beside the verifiers, not in their killable processes. So a slow endpoint
costs no verdict its deadline, and budget and cache belong to the run, not to each worker.

Guarantees: every verdict comes through once, in the order they are ready. At most `num_parallel`
requests are in flight and HELD_PER_THREAD times as many verdicts are held, so a slow LLM judge
slows the stream down. An LLM judge that is down makes opinions UNKNOWN and stops nothing.

Who waits for whom: see endpoint/stream.py; every request has its own deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from virgo_ray.config import VerifyConfig
from virgo_ray.endpoint.stream import NoAnswerError, stream_answers
from virgo_ray.errors import VerifierError
from virgo_ray.ports import Verifiers
from virgo_ray.records import Judged, Rollout, Verdict
from virgo_ray.verify.custom import resolve
from virgo_ray.verify.item import Item
from virgo_ray.verify.opinions.llm_judge import LlmJudge

T = TypeVar("T")
HELD_PER_THREAD = 4  # a slow LLM judge holds the verifiers up once this many verdicts wait for it


def stream_opinions(
    judge: LlmJudge,
    num_parallel: int,
    pairs: Iterable[tuple[T, Verdict] | None],
    make_item: Callable[[T], Item],
    is_asked: Callable[[Verdict], bool] = lambda verdict: verdict.is_correct,
    choose_answer: Callable[[T, Verdict], str] = lambda thing, verdict: verdict.answer,
) -> Iterator[tuple[T, Verdict] | None]:
    """Yield all pairs; verdicts that are CORRECT (or `is_asked`) have the LLM judge's opinion.

    `make_item` makes of a thing what the LLM judge is asked about, `choose_answer` what it is shown
    as the answer. A None means nothing now: it comes once all pairs before it were yielded.

    Raises:
        VerifierError: no request ended, though every request has a deadline of its own.
    """

    def add_opinion(pair: tuple[T, Verdict]) -> tuple[T, Verdict]:
        thing, verdict = pair
        if not is_asked(verdict):
            return pair
        opinion = judge.ask(make_item(thing), choose_answer(thing, verdict))
        return thing, replace(verdict, opinions={**verdict.opinions, "judge": opinion})

    num_held = HELD_PER_THREAD * num_parallel
    try:
        yield from stream_answers(add_opinion, pairs, num_parallel, judge.longest_s, num_held)
    except NoAnswerError as error:
        raise VerifierError(
            f"the LLM judge does not answer: {error}, expected each request to end by "
            "verify.judge.deadline_s; look at what answers verify.judge.url"
        ) from error


class AskingVerifiers:
    """Verifiers that ask the LLM judge too: `ports.Verifiers` around others."""

    def __init__(self, verifiers: Verifiers, judge: LlmJudge, num_parallel: int) -> None:
        self._verifiers = verifiers
        self._judge = judge
        self._num_parallel = num_parallel

    def judge(self, rollouts: Iterable[Rollout | None]) -> Iterator[Judged | None]:
        pairs = split(self._verifiers.judge(rollouts))
        for pair in stream_opinions(self._judge, self._num_parallel, pairs, make_item):
            yield Judged(*pair) if pair else None


def split(judged: Iterable[Judged | None]) -> Iterator[tuple[Rollout, Verdict] | None]:
    return ((item.rollout, item.verdict) if item else None for item in judged)


def make_item(rollout: Rollout) -> Item:
    return Item.of(rollout.problem, rollout)


def check_verifier(cfg: VerifyConfig) -> None:
    """Refuse a custom verifier or an LLM judge that cannot be used, before anything starts.

    Raises:
        ConfigError: a module that cannot be imported, a malformed address, a missing key or file.
    """
    if cfg.custom is not None:
        resolve(cfg.custom)
    if cfg.judge is not None:
        LlmJudge.of(cfg.judge)


def add_judge(verifiers: Verifiers, cfg: VerifyConfig, run_dir: Path) -> Verifiers:
    """Let `verifiers` ask the LLM judge of `cfg`, if any; its cache lies in the run directory.

    Raises:
        ConfigError: the LLM judge cannot be used as it is configured.
    """
    if cfg.judge is None:
        return verifiers
    judge = LlmJudge.of(cfg.judge, run_dir / "judge.jsonl")
    return AskingVerifiers(verifiers, judge, cfg.judge.num_parallel)
