"""One stream of named numbers, sent to every sink.

A record is a flat mapping; `round` and `train_step` are its x-axes. The JSONL file is the truth:
it is appended to over all starts of a run, one line per record, and W&B, Ray and the console only
show what it holds. This module knows no sink but the JSONL file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

Value = float | int | str | bool | None
Record = Mapping[str, Value]


class Sink(Protocol):
    """Somewhere a record goes."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


class JsonlSink:
    """Appends records to a file, one JSON object a line.

    A line cut off by a crash is ended first, so that one torn record never spoils the next.
    """

    def __init__(self, path: Path) -> None:
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - held for the run's life
        if torn:
            self._file.write("\n")

    def write(self, record: Record) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Metrics:
    """Sends each record to all sinks, stamped with the time."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def log(self, **values: Value) -> None:
        record = {"time": round(time.time(), 3), **values}
        for sink in self._sinks:
            sink.write(record)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
