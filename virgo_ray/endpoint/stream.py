"""Asks about many things at once and yields the answers as they come.

Guarantees: things are drawn lazily, at most `num_parallel` are out or wait to be taken; every thing
drawn gives one answer or ends the stream with the error of its `ask`, after the answers of those
that were out with it, which may have been paid for; a consumer that leaves, or an interrupt, waits
for no answer (the threads are daemons: they end with the process at the latest).

Who waits for whom: a thread waits for work, then in `ask`; the consumer waits for the next answer,
for at most `longest_s`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from virgo_ray.errors import RolloutError

T = TypeVar("T")
A = TypeVar("A")


def answers(
    ask: Callable[[T], A], things: Iterable[T], num_parallel: int, longest_s: float
) -> Iterator[A]:
    """`ask(thing)` for all things, in the order they finish.

    Raises:
        RolloutError: no answer within `longest_s`. Whatever `ask` raises.
    """
    work: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[A | None, BaseException | None]] = queue.SimpleQueue()
    left = iter(things)
    num_out = 0
    failed: BaseException | None = None

    def serve() -> None:
        while (taken := work.get()) is not None:  # deadline: the consumer ends it
            try:
                done.put((ask(taken[0]), None))
            except BaseException as error:  # carried to the consumer, who raises it
                done.put((None, error))

    threads = [
        threading.Thread(target=serve, name=f"teacher-{i}", daemon=True)
        for i in range(num_parallel)
    ]
    for thread in threads:
        thread.start()
    try:
        while failed is None or num_out:
            while failed is None and num_out < num_parallel and (drawn := _drawn(left)) is not None:
                work.put(drawn)
                num_out += 1
            if not num_out:
                return
            try:
                answer, error = done.get(timeout=longest_s)
            except queue.Empty:
                raise RolloutError(
                    f"none of {num_out} requests to the teacher ended within {longest_s:.0f} s, "
                    "expected each to end by its own deadline; look at what answers teacher.url"
                ) from None
            num_out -= 1
            if error is not None:
                failed = failed or error
            else:
                yield answer  # type: ignore[misc]
        raise failed
    finally:
        for _ in threads:
            work.put(None)


def _drawn(left: Iterator[T]) -> tuple[T] | None:
    for thing in left:
        return (thing,)
    return None
