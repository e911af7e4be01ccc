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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virgo_ray.files import writing
from virgo_ray.monitor.catalog import ROLLOUTS, undeclared
from virgo_ray.ports import Record, RoundSink, Sink, Value
from virgo_ray.records import Judged, Round

log = logging.getLogger(__name__)

OF_ROUNDS = ("round", "sources", "gate")  # kinds of records that a round has when it is complete


@dataclass
class Before:
    """What earlier starts wrote: the lines, the time of the first record (None: there is none), the
    last optimizer step (0: none), the rollouts of every phase, and (kind, round) of every record of
    a complete round; the round of the base is None."""

    num_records: int = 0
    began: float | None = None
    last_train_step: int = 0
    rollouts: dict[str, int] = field(default_factory=dict)
    complete: set[tuple[str, int | None]] = field(default_factory=set)


class JsonlSink:
    """Appends records to a file, one JSON object a line.

    A line cut off by a crash is ended first, so that one torn record never spoils the next.
    `num_records` counts the lines of all starts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.before = _seen(path)
        self.num_records = self.before.num_records
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


def _seen(path: Path) -> Before:
    """Of a file that may be missing; torn lines count, and say nothing."""
    found = Before()
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                found.num_records += 1
                with contextlib.suppress(ValueError):
                    _note(found, json.loads(line))
    return found


def _note(found: Before, record: object) -> None:
    if not isinstance(record, dict):
        return
    if found.began is None and isinstance(record.get("time"), int | float):
        found.began = float(record["time"])
    found.last_train_step = max(found.last_train_step, record.get("train_step", 0))
    if record.get("kind") in OF_ROUNDS:
        found.complete.add((record["kind"], record.get("round")))
    if ROLLOUTS in record:
        phase = str(record.get("phase"))
        found.rollouts[phase] = max(found.rollouts.get(phase, 0), record[ROLLOUTS])


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

    def end_round(self, done: Round, examples: Sequence[Judged]) -> None:
        """A complete round with some of its rollouts, for the sinks that show more than numbers."""
        with self._lock:
            for sink in self._sinks:
                if isinstance(sink, RoundSink):
                    sink.end_round(done, examples)

    def close(self) -> None:
        """Close every sink, also where one of them raises."""
        with contextlib.ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)
