"""Says that a long piece of reading or writing goes on.

A group of ranks is taken for stuck when it reports nothing for `train.step_deadline_s`. Loading,
checkpointing or publishing a large model takes longer than that without being stuck. So every
`BEAT_BYTES` that this process has read or written are reported; a process that hangs moves none.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil

BEAT_BYTES = 64 * 1024**2
LOOK_EVERY_S = 1.0

Report = Callable[[dict[str, Any]], None]


@contextlib.contextmanager
def beating(phase: str, report: Report, moved: Callable[[], int] | None = None) -> Iterator[None]:
    """Inside, report `{"phase": phase, "bytes": 123456789}` as long as bytes are moved.

    Reports come from a thread of their own. `moved` counts the bytes; by default those that this
    process has read and written in files.
    """
    counter = moved or _bytes_moved
    report({"phase": phase})
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(phase, report, counter, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10 * LOOK_EVERY_S)


def _beat(phase: str, report: Report, moved: Callable[[], int], ended: threading.Event) -> None:
    first = told = moved()
    while not ended.wait(LOOK_EVERY_S):
        now = moved()
        if now - told >= BEAT_BYTES:
            report({"phase": phase, "bytes": now - first})
            told = now


def _bytes_moved() -> int:
    """By calls, and from the disk: files that are mapped into memory are read without a call."""
    counters = psutil.Process().io_counters()
    return counters.read_chars + counters.write_chars + counters.read_bytes
