"""The report beside a run: written by a process of its own after every round.

That process has a limit in seconds and is killed beyond it. Whatever happens to it, the run goes
on: a report that was not written is one line on the screen, and its reason is in the log.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

WRITING_S = 30.0  # what the process itself stops at
KILL_S = 120.0  # its start included
GONE_S = 10.0  # for a process that was killed
LOG_NAME = "logs/report.log"


class ReportWriter:
    """Starts writings, one at a time. The driver's main thread calls it, and waits only at the end.

    Example: `writer.begin()` after a round, `writer.finish()` at the end of the run.
    """

    def __init__(self, run_dir: Path, say: Callable[[str], None]) -> None:
        self._run_dir = run_dir
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._is_held = False

    def begin(self) -> None:
        """Have the report written; one that still goes on is left to it, and what it lacks is for
        the next time. One that goes on for longer than KILL_S is ended."""
        if self._process is not None and self._process.poll() is None:
            if time.monotonic() - self._began < KILL_S:
                return
            self._process.kill()
            if not self._has_ended(GONE_S):  # a file system holds it
                self._say_held()
                return
        self._look()
        command = [
            sys.executable, "-m", "virgo_ray.report", str(self._run_dir), "--seconds",
            str(WRITING_S),
        ]  # fmt: skip
        try:
            with self._log() as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
                self._began, self._is_held = time.monotonic(), False
        except OSError as error:
            self._say(f"the report was not written: {error}; the run goes on")

    def finish(self) -> None:
        """Wait for what goes on, then have the last state written, as long as that may take."""
        self._wait()
        self.begin()
        self._wait()

    def close(self) -> None:
        """End what goes on: nobody waits for it any more."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(KILL_S)

    def _wait(self) -> None:
        if self._process is None:
            return
        try:
            if not self._has_ended(KILL_S):
                self._process.kill()
                if not self._has_ended(GONE_S):
                    self._say_held()
                    return
        except BaseException:  # the run is being ended: it is not waited for
            self._process.kill()
            raise
        self._look()

    def _has_ended(self, within_s: float) -> bool:
        assert self._process is not None
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _say_held(self) -> None:
        """Once for each process: a killed one that a file system does not let go."""
        if not self._is_held:
            self._say("the report is not written: its last writer cannot be ended; the run goes on")
        self._is_held = True

    def _look(self) -> None:
        """Say once what became of the last one."""
        ended, self._process = self._process, None
        if ended is not None and (code := ended.poll()):
            place = self._run_dir / LOG_NAME
            self._say(
                f"the report was not written (exit code {code}, see {place}); the run goes on"
            )

    def _log(self) -> IO[bytes]:
        path = self._run_dir / LOG_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
