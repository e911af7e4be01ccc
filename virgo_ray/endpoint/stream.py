"""Ask about many things at once and yield the answers as they finish.

Guarantees: the consumer's thread draws things one by one, so that at most `num_held` are in flight
or wait for a thread or the consumer. Every thing drawn gives one answer, or the stream ends with
the error of its `ask`. Before that error come the answers of all things in flight with it, because
they may have been paid for. Where the things say None, nothing is to be asked now: they are drawn
from again after the next answer; once all answers were yielded, None is. A consumer that leaves, or
an interrupt, waits for no answer, and nothing is asked after that. The threads are daemons: they
end with the process at the latest.

Who waits for whom: a thread waits for the next thing, then in `ask`. The consumer waits while the
things draw, and for an answer once `num_held` things are out, for at most `longest_s`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar, overload

T = TypeVar("T")
A = TypeVar("A")


WATCH_S = 5.0  # between two looks of `watch`


class NoAnswerError(Exception):
    """No answer came within the longest time that one may take."""


@overload
def stream_answers(
    ask: Callable[[T], A],
    things: Iterable[T],
    num_parallel: int,
    longest_s: float,
    num_held: int | None = None,
    watch: Callable[[], None] = ...,
) -> Iterator[A]: ...


@overload
def stream_answers(
    ask: Callable[[T], A],
    things: Iterable[T | None],
    num_parallel: int,
    longest_s: float,
    num_held: int | None = None,
    watch: Callable[[], None] = ...,
) -> Iterator[A | None]: ...


def stream_answers(
    ask: Callable[[T], A],
    things: Iterable[T | None],
    num_parallel: int,
    longest_s: float,
    num_held: int | None = None,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[A | None]:
    """Yield `ask(thing)` for all things, in the order they finish.

    `num_held` is `num_parallel` where it is not given. With more, the things go on for a while when
    all threads are busy. `watch` is called every few seconds while the consumer waits.

    Raises:
        NoAnswerError: no answer within `longest_s`. Whatever `ask` or `watch` raises.
    """
    asking = _Asking(ask, num_parallel, longest_s, watch)
    max_left = (num_held or num_parallel) - 1
    try:
        for thing in things:
            if thing is not None:
                asking.submit(thing)
                yield from asking.take(max_left)
            elif asking.num_out:
                yield from asking.take(asking.num_out - 1)
            else:
                yield None
            if asking.error is not None:
                break
        yield from asking.take(0)
    finally:
        asking.end()
    if asking.error is not None:
        raise asking.error


class _Asking(Generic[T, A]):
    """Threads that ask; `error` is the first that one of them met."""

    def __init__(
        self, ask: Callable[[T], A], num_threads: int, longest_s: float, watch: Callable[[], None]
    ) -> None:
        self.error: BaseException | None = None
        self._ask = ask
        self._longest_s = longest_s
        self._watch = watch
        self.num_out = 0  # submitted and not taken; the consumer's thread alone counts
        self._has_ended = False
        self._work: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[A | None, BaseException | None]] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"asking-{i}", daemon=True)
            for i in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        while (taken := self._work.get()) is not None:  # deadline: `end` wakes every thread
            if self._has_ended:
                return
            try:
                self._done.put((self._ask(taken[0]), None))
            except BaseException as error:  # carried to the consumer, who raises it
                self._done.put((None, error))

    def submit(self, thing: T) -> None:
        self.num_out += 1
        self._work.put((thing,))

    def take(self, max_left: int) -> Iterator[A]:
        """Yield the answers that are there, and more until at most `max_left` things are out.

        Raises:
            NoAnswerError: no answer within the longest time.
        """
        while self.num_out > max_left or not self._done.empty():
            answer, error = self._wait()
            self.num_out -= 1
            if error is None:
                yield answer  # type: ignore[misc]
            else:
                self.error = self.error or error

    def _wait(self) -> tuple[A | None, BaseException | None]:
        end = time.monotonic() + self._longest_s
        while (left := end - time.monotonic()) > 0:
            try:
                return self._done.get(timeout=min(left, WATCH_S))
            except queue.Empty:
                self._watch()
        raise NoAnswerError(f"none of {self.num_out} requests ended within {self._longest_s:g} s")

    def end(self) -> None:
        """Let every thread end after what it is asking; what no thread has begun is dropped."""
        self._has_ended = True
        for _ in self._threads:
            self._work.put(None)
