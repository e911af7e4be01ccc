"""One line on a terminal while data are read: what is done, a bar, how many, the time left.

It appears only where something takes longer than a second, and goes when that is done. Nothing is
shown where standard error is no terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN_AFTER_S = 1.0

Thing = TypeVar("Thing")
Count = Callable[[], None]  # called after each of the things that a step counts


class IngestProgress:
    """Shows the step that is going on.

    Example: `with progress.step("pictures", 2000) as count: look_at(path); count()`.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    @contextmanager
    def step(self, what: str, total: int | None) -> Iterator[Count]:
        """A step of `total` things, if that is known; the value is to be called after each."""
        if not self._console.is_terminal:
            yield _ignore
            return
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), console=self._console, transient=True, refresh_per_second=4,
        )  # fmt: skip
        task, began = bar.add_task(what, total=total), time.monotonic()

        def count() -> None:
            bar.advance(task)
            if not bar.live.is_started and time.monotonic() - began > SHOWN_AFTER_S:
                bar.start()

        try:
            yield count
        finally:
            if bar.live.is_started:
                bar.stop()

    def track(self, what: str, things: Iterable[Thing]) -> Iterator[Thing]:
        """The things as they come, with a step that counts them."""
        with self.step(what, None) as count:
            for thing in things:
                yield thing
                count()


def _ignore() -> None:
    pass
