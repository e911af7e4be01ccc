"""Micro-batches of a fit, made ahead of the step that uses them.

Threads open, resize and patch pictures and build the CPU tensors, in pinned memory where the device
is a GPU. The thread of the fit asks for a micro-batch, hands further ones out, and waits for
nothing but the one it asked for. Guarantees: micro-batches come in order and are to the bit what
`Batcher.collate` makes; an error comes with the micro-batch that it belongs to, not before; what is
ahead is bounded in bytes; no thread is left after the block. Draws no random numbers.

Threads, not processes: decoding and torch's operations hold no interpreter lock. Processes would
cost an interpreter each, and a copy (`scripts/bench_pictures.py` compares them).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import torch

from virgo_ray.records import Example
from virgo_ray.train.batch import Batcher, MicroBatch
from virgo_ray.train.sizes import PICTURE_AHEAD_BYTES

THREAD_NAME = "feed"
START_DEADLINE_S = 60.0  # a thread runs at once, but for a context on its device


@dataclass(frozen=True)
class _Ahead:
    """A micro-batch that is made or in the making; `num_bytes` of it are pixels."""

    made: Future[tuple[MicroBatch, float]]  # and the seconds that it took its thread
    num_bytes: int


class Feed:
    """Example: `with Feed(batcher, [[first, second], [third]], 2) as feed: feed.take()`."""

    def __init__(
        self,
        batcher: Batcher,
        wanted: Iterable[Sequence[Example]],
        num_threads: int,
        ahead_bytes: int = PICTURE_AHEAD_BYTES,
    ) -> None:
        """`wanted` are the examples of every micro-batch to come; the block begins with the first.

        Of what nobody has asked for yet there are at most `ahead_bytes` of pixels, or one
        micro-batch that is larger. The one in use comes on top.
        """
        self._batcher = batcher
        self._wanted = iter(wanted)
        self._next = next(self._wanted, None)
        self._most = num_threads + 1  # one per thread, and one that is ready
        self._ahead_bytes = ahead_bytes
        self._ahead: deque[_Ahead] = deque()
        self._collate_seconds = self._wait_seconds = 0.0
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, THREAD_NAME)
        self._started = threading.Barrier(num_threads)  # which a thread waits at until all run

    def __enter__(self) -> Feed:
        with ExitStack() as undo:  # nobody calls __exit__ of a block that was not entered
            undo.callback(self._end)
            self._start()
            self._fill()
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._started.abort()
        # At most a micro-batch per thread is finished; deadline of the driver, as in `take`.
        self._pool.shutdown(wait=True, cancel_futures=True)  # deadline: train.step_deadline_s
        self._ahead.clear()

    def take(self) -> MicroBatch:
        """The next micro-batch, on the batcher's device.

        Raises:
            DataError: an image of it cannot be read.
            TrainingError: its images and placeholders differ, or an example is too long.
            IndexError: there is none left.
        """
        began = time.monotonic()
        first = self._ahead.popleft()
        self._fill()
        batch, seconds = first.made.result()  # deadline: train.step_deadline_s, by the driver
        moved = batch.to(self._batcher.device)
        self._collate_seconds += seconds
        self._wait_seconds += time.monotonic() - began
        return moved

    def take_seconds(self) -> tuple[float, float]:
        """Since the last call: what making the taken micro-batches took the threads together, and
        what `take` took."""
        taken = self._collate_seconds, self._wait_seconds
        self._collate_seconds = self._wait_seconds = 0.0
        return taken

    def num_bytes_ahead(self) -> int:
        """Pixels of what nobody has asked for yet."""
        return sum(ahead.num_bytes for ahead in self._ahead)

    def _start(self) -> None:
        """Have all threads started, so that their setting is not what later threads begin with.

        torch's number of threads is a thread's own, but the last one set is that of threads to
        come, such as autograd's.

        Raises:
            RuntimeError: the system refuses a thread or its device, or does not run it in time.
        """
        settling = [self._pool.submit(self._settle) for _ in range(self._num_threads)]
        settled, late = wait(settling, START_DEADLINE_S, FIRST_EXCEPTION)
        for thread in settled:
            thread.result()  # deadline: it has ended
        if late:
            raise RuntimeError(
                f"{len(late)} of {self._num_threads} threads that make micro-batches did not run "
                f"within {START_DEADLINE_S:g} s; expected all. Is this node short of cores?"
            )
        torch.set_num_threads(torch.get_num_threads())

    def _settle(self) -> None:
        """In a thread of the pool: one core, and the device of the fit."""
        torch.set_num_threads(1)
        if self._batcher.device.type == "cuda":
            torch.cuda.set_device(self._batcher.device)
        self._started.wait(2 * START_DEADLINE_S)  # `_end` ends it before

    def _fill(self) -> None:
        while self._next is not None and len(self._ahead) < self._most:
            num_bytes = self._batcher.num_pixel_bytes(self._next)
            if self._ahead and self.num_bytes_ahead() + num_bytes > self._ahead_bytes:
                return
            made = self._pool.submit(self._make, self._next)
            self._ahead.append(_Ahead(made, num_bytes))
            self._next = next(self._wanted, None)

    def _make(self, examples: Sequence[Example]) -> tuple[MicroBatch, float]:
        began = time.monotonic()
        batch = self._batcher.prepare(examples)
        return batch, time.monotonic() - began
