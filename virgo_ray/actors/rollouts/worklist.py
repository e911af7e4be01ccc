"""What a rollout worker has to do, and what of it is done: the worker's end of an exchange.

The driver hands requests in and takes finished rollouts out in batches, in one call at a time that
stays open until there is something to take (a long poll). Guarantees that a request is worked on
once, however often it is handed in, until its outcome has left; that outcomes leave in the order in
which they came; and that a reply holds no more than about REPLY_BYTES, or one rollout. Nothing is
kept of what has left: a reply that is lost on its way is the driver's to ask for again. Knows
neither Ray nor engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from virgo_ray.actors.losses import in_short
from virgo_ray.config import SamplingConfig
from virgo_ray.records import Request, Rollout

log = logging.getLogger(__name__)

POLL_S = 5.0  # an exchange that has nothing to say returns empty after this
REPLY_BYTES = 4 * 1024**2
TOKEN_BYTES = 5  # of a token id in a reply, at most
LOGPROB_BYTES = 4
ABORT_S = 10.0  # for tasks to end that were told to

Generate = Callable[[Request, SamplingConfig], Coroutine[Any, Any, Rollout]]


@dataclass(frozen=True)
class Finished:
    """Outcomes by the numbers of their requests; `failed` says in words why there is no rollout."""

    rollouts: dict[int, Rollout] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


class Worklist:
    """Requests by number. All methods run on one event loop.

    Example: `await exchange({7: request}, sampling, linger_s=0.0)` begins to work on it and returns
    `Finished({7: rollout})`, unless something that was handed in before is done first.
    """

    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self._running: dict[int, asyncio.Task[Rollout]] = {}
        self._done: dict[int, asyncio.Task[Rollout]] = {}
        self._news = asyncio.Event()  # something is done, or somebody is in a hurry
        self._hurry = asyncio.Event()  # do not wait for more
        self._turn = 0

    async def exchange(
        self, requests: Mapping[int, Request], sampling: SamplingConfig, linger_s: float
    ) -> Finished:
        """Begin `requests`, and return what is done as soon as anything is.

        After the first that is done, others are waited for: `linger_s` seconds, or until `poke` or
        nothing is left. An exchange ends one that is still open, which then returns empty.
        """
        self.poke()
        self._turn += 1
        turn = self._turn
        for number, request in requests.items():
            if number not in self._running and number not in self._done:
                self._begin(number, request, sampling)
        self._news.clear()
        if self._running:
            self._hurry.clear()
        if not self._done:
            await _wait_for(self._news, POLL_S)
        if self._done and turn == self._turn:
            await _wait_for(self._hurry, linger_s)
        return self._take() if turn == self._turn else Finished()

    def poke(self) -> None:
        """Let an open exchange return at once."""
        self._news.set()
        self._hurry.set()

    async def end(self, numbers: Collection[int]) -> int:
        """End and forget these and no others, which somebody else may have asked since; returns how
        many of them were worked on."""
        tasks = [self._running.pop(n) for n in numbers if n in self._running]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ABORT_S)
        for number in numbers:
            if (done := self._done.pop(number, None)) is not None:
                _error_of(done)
        self.poke()
        return len(tasks)

    def _begin(self, number: int, request: Request, sampling: SamplingConfig) -> None:
        task = asyncio.create_task(self._generate(request, sampling))
        self._running[number] = task
        task.add_done_callback(lambda _: self._finish(number, task))

    def _finish(self, number: int, task: asyncio.Task[Rollout]) -> None:
        if self._running.get(number) is not task:  # it was ended
            _error_of(task)
            return
        self._done[number] = self._running.pop(number)
        self._news.set()
        if not self._running:
            self._hurry.set()

    def _take(self) -> Finished:
        finished, num_bytes = Finished(), 0
        for number, task in list(self._done.items()):
            if num_bytes >= REPLY_BYTES:
                break
            del self._done[number]
            if (error := _error_of(task)) is not None:
                log.error("request %d failed", number, exc_info=error)
                finished.failed[number] = in_short(error)
                continue
            rollout = task.result()  # deadline: none, it is done
            finished.rollouts[number] = rollout
            num_bytes += len(rollout.text) + TOKEN_BYTES * len(rollout.token_ids)
            num_bytes += LOGPROB_BYTES * len(rollout.logprobs)
        return finished


def _error_of(task: asyncio.Task[Rollout]) -> BaseException | None:
    """Of a task that is done; asyncio logs an error that nobody has looked at."""
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception()  # deadline: none, it is done


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)  # deadline: wait_for's
