"""Asks the LLM judge about CORRECT verdicts while they stream by.

It runs beside the verifiers, not in their killable processes: a slow endpoint must not cost a
verdict its deadline, and budget and cache belong to the run, not to each worker. Guarantees:
everything comes through once, in the order it is ready; at most `num_parallel` requests and
MAX_WAITING times as many questions are held, so a slow judge slows the stream down; a judge that
is down makes opinions UNKNOWN and stops nothing.

Who waits for whom: the threads wait for the endpoint (with its own deadline); the consumer's thread
waits for a thread only where too many questions are held, or where nothing else is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from virgo_ray.config import VerifyConfig
from virgo_ray.errors import VerifierError
from virgo_ray.ports import Verifiers
from virgo_ray.records import Judged, Rollout, Verdict
from virgo_ray.verify.custom import resolve
from virgo_ray.verify.item import Item
from virgo_ray.verify.opinions.llm_judge import LlmJudge

T = TypeVar("T")
MAX_WAITING = 4


def asked(
    judge: LlmJudge,
    num_parallel: int,
    pairs: Iterable[tuple[T, Verdict]],
    item: Callable[[T], Item],
    is_asked: Callable[[Verdict], bool] = lambda verdict: verdict.is_correct,
    answer: Callable[[T, Verdict], str] = lambda thing, verdict: verdict.answer,
) -> Iterator[tuple[T, Verdict]]:
    """(thing, verdict) pairs with the judge's opinion on those that are CORRECT (or `is_asked`).

    `item` makes of a thing what the judge is asked about, `answer` what it is shown as the answer.
    """

    def ask(thing: T, verdict: Verdict) -> tuple[T, Verdict]:
        second = judge.ask(item(thing), answer(thing, verdict))
        return thing, replace(verdict, opinions={**verdict.opinions, "judge": second})

    threads = ThreadPoolExecutor(num_parallel, thread_name_prefix="judge")
    waiting: set[Future[tuple[T, Verdict]]] = set()
    try:
        for thing, verdict in pairs:
            if is_asked(verdict):
                waiting.add(threads.submit(ask, thing, verdict))
            else:
                yield thing, verdict
            while len(waiting) >= MAX_WAITING * num_parallel:
                yield from _answered(waiting, judge.longest_s)
            yield from _answered(waiting, 0.0)
        while waiting:
            yield from _answered(waiting, judge.longest_s)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _answered(waiting: set[Future[T]], timeout: float) -> list[T]:
    """What was answered, taken out of `waiting`; with a timeout at least one.

    Raises:
        VerifierError: nothing was, though every request has a deadline of its own.
    """
    done, _ = wait(waiting, timeout, FIRST_COMPLETED)
    if timeout and not done:
        raise VerifierError(
            f"none of {len(waiting)} questions to the judge ended within {timeout:.0f} s, expected "
            "each request to end by verify.judge.deadline_s; look at what answers verify.judge.url"
        )
    waiting -= done
    return [future.result(timeout=0) for future in done]


class AskingVerifiers:
    """Implements `ports.Verifiers` around another one."""

    def __init__(self, verifiers: Verifiers, judge: LlmJudge, num_parallel: int) -> None:
        self._verifiers = verifiers
        self._judge = judge
        self._num_parallel = num_parallel

    def judge(self, rollouts: Iterable[Rollout]) -> Iterator[Judged]:
        pairs = ((judged.rollout, judged.verdict) for judged in self._verifiers.judge(rollouts))
        for rollout, verdict in asked(self._judge, self._num_parallel, pairs, _item):
            yield Judged(rollout, verdict)


def _item(rollout: Rollout) -> Item:
    return Item.of(rollout.problem, rollout)


def check_verifier(cfg: VerifyConfig) -> None:
    """Refuse a custom verifier or a judge that could not be used, before anything starts.

    Raises:
        ConfigError: a module that cannot be imported, a malformed address, a missing key or file.
    """
    if cfg.custom is not None:
        resolve(cfg.custom)
    if cfg.judge is not None:
        LlmJudge.of(cfg.judge)


def with_judge(verifiers: Verifiers, cfg: VerifyConfig, run_dir: Path) -> Verifiers:
    """`verifiers`, asking the judge of `cfg` if there is one; its cache lies in the run directory.

    Raises:
        ConfigError: the judge cannot be used as it is configured.
    """
    if cfg.judge is None:
        return verifiers
    judge = LlmJudge.of(cfg.judge, run_dir / "judge.jsonl")
    return AskingVerifiers(verifiers, judge, cfg.judge.num_parallel)
