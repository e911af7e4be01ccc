"""The table: which rows there are, who measures them, and the driver that runs them.

The driver starts one worker process, which measures row after row and reports each as soon as it is
known. A row that fails, hangs or ends its process costs only itself: the driver starts a new worker
for the rest. The driver imports no torch and touches no GPU.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

START_S = 120.0  # for a worker to import torch, transformers and DeepSpeed
TAIL_LINES = 4  # of the worker's output, in the error of a row that took its process down
BAD = ("failed", "not run")


@dataclass(frozen=True)
class Group:
    """Rows that one call of `train_checks.<module>.run` measures, in this order."""

    module: str
    rows: tuple[str, ...]
    limit_s: float  # for each row


@dataclass(frozen=True)
class Result:
    """One row of the table. `figures` carry their unit in their name (`peak_gb`, `step_s`)."""

    row: str
    status: str  # ok, failed, skipped (with the reason as its error), not run
    seconds: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def line(self) -> str:
        """For the console: name, status, seconds, then the figures or the error."""
        said = self.error or "  ".join(f"{k}={_short(v)}" for k, v in self.figures.items())
        return f"{self.row:<34} {self.status:<8} {self.seconds:7.1f} s  {said}"


class Driver:
    """Runs groups of rows in worker processes, inside one time budget."""

    def __init__(self, command: Sequence[str], log: Path, budget_s: float) -> None:
        """`command` starts a worker once the row names and `--events FD` are added to it."""
        self._command = list(command)
        self._log = log
        self._end = time.monotonic() + budget_s
        self._is_hopeless = False  # a worker ended before it could begin: so would the next

    def results(self, groups: Sequence[Group]) -> Iterator[Result]:
        """Every row's result, as soon as it is known."""
        queue = deque((row, group.limit_s) for group in groups for row in group.rows)
        while queue and self._left() > 0 and not self._is_hopeless:
            yield from self._one_worker(queue)
        why = "no worker starts" if self._is_hopeless else "the time of --seconds was over"
        for row, _ in queue:
            yield Result(row, "not run", error=why)

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _one_worker(self, queue: deque[tuple[str, float]]) -> Iterator[Result]:
        """Results until the queue is empty, the time is over, or the worker had to be given up."""
        with _Worker(self._command, [row for row, _ in queue], self._log) as worker:
            began, allowance = time.monotonic(), START_S  # the first row waits for the imports
            while queue:
                row, limit_s = queue[0]
                seconds = min(limit_s + allowance, self._left())
                event = worker.event(max(seconds, 0.0))
                took = time.monotonic() - began
                if event == {"ready": True}:
                    began, allowance = time.monotonic(), 0.0
                    continue
                queue.popleft()
                result = self._result(row, limit_s, took, event, worker)
                yield result
                if event is None or result.status == "failed":
                    self._is_hopeless = allowance > 0.0
                    return
                began = time.monotonic()

    def _result(self, row: str, limit_s: float, took: float, event: Any, worker: _Worker) -> Result:
        if event is None and worker.is_running and self._left() <= 0:
            return Result(row, "not run", took, error="the time of --seconds was over during it")
        if event is None and worker.is_running:
            return Result(row, "failed", took, error=f"not done within its {limit_s:g} s: killed")
        if event is None:
            said = f"the process ended ({worker.exit_code}): {worker.tail()}"
            return Result(row, "failed", took, error=said)
        if event["row"] != row:
            said = f"row {event['row']!r} was reported in its place"
            return Result(row, "failed", took, error=said)
        return Result(row, event["status"], took, event["figures"], event["error"])


class _Worker:
    """A worker process and the pipe on which it reports, a JSON value per line."""

    def __init__(self, command: Sequence[str], rows: Sequence[str], log: Path) -> None:
        self._log = log
        self._reader, writer = os.pipe()
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [*command, "--events", str(writer), "--worker", *rows],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=(writer,),
                start_new_session=True,
            )
        os.close(writer)
        self._lines = Lines(self._reader)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._reader)

    def event(self, seconds: float) -> Any:
        """The next value; None if the process ended or the time is over."""
        line = self._lines.next(seconds)
        if line == b"":
            self._process.wait()
        return json.loads(line) if line else None

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    def tail(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-TAIL_LINES:])


class Lines:
    """What a process writes on a pipe, line by line."""

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self._pending = b""

    def next(self, seconds: float) -> bytes | None:
        """The next line; b"" if the other end was closed, None if the time is over."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                chunk = os.read(self._reader, 65536)
                if not chunk:
                    return b""
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line


def append_json(path: Path, result: Result) -> None:
    """Add a line to `rows.jsonl`, at once on disk: the node may be gone a second later."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
