"""One stream of named numbers, sent to every sink.

A record is a flat mapping; `round` and `train_step` are its x-axes. The JSONL file is the truth:
it is appended to over all starts of a run, one line per record, and W&B, Ray and the console only
show what it holds. This module knows no sink but the JSONL file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from pathlib import Path

from virgo_ray.files import writing
from virgo_ray.monitor.catalog import undeclared
from virgo_ray.ports import Record, Sink, Value

log = logging.getLogger(__name__)


class JsonlSink:
    """Appends records to a file, one JSON object a line.

    A line cut off by a crash is ended first, so that one torn record never spoils the next.
    `num_records` counts the lines of all starts; `last_train_step` is the last optimizer step that
    earlier starts wrote (0: none).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.num_records, self.last_train_step = _seen(path)
        torn = has_torn_end(path)
        with writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - held for the run's life
        if torn:
            self._append("\n")

    def write(self, record: Record) -> None:
        """
        Raises:
            DiskError: the file system refused; the records before are whole.
        """
        self._append(json.dumps(record) + "\n")
        self.num_records += 1

    def _append(self, text: str) -> None:
        """Straight to the system: what a full disk refused is not tried again by `close`."""
        rest = memoryview(text.encode())
        with writing(self._path, "the records before are kept"):
            while rest:
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        self._file.close()


def has_torn_end(path: Path) -> bool:
    """Whether the last line of a file that may be missing was cut off."""
    if not path.exists() or not path.stat().st_size:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _seen(path: Path) -> tuple[int, int]:
    """(lines, last train step) of a file that may be missing; torn lines count, and say nothing."""
    num, last = 0, 0
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                num += 1
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    last = max(last, record.get("train_step", 0)) if record else last
    return num, last


class Metrics:
    """Sends each record to all sinks, stamped with the time."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks
        self._lock = threading.Lock()
        self._warned: set[str] = set()

    def log(self, kind: str, **values: Value) -> None:
        """Names that `monitor/catalog.py` does not declare are written too, with one warning: a
        number that the docs lack must not end a run."""
        unknown = {f"{kind}: {name}" for name in undeclared(kind, values)} - self._warned
        if unknown:
            self._warned |= unknown
            log.warning(
                "metrics that virgo_ray/monitor/catalog.py does not declare: %s; declare them "
                "there with unit and meaning", ", ".join(sorted(unknown)),
            )  # fmt: skip
        record: Record = {"time": round(time.time(), 3), "kind": kind, **values}
        with self._lock:  # a phase may begin on the thread that pulls rollouts
            for sink in self._sinks:
                sink.write(record)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
