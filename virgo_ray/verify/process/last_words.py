"""What a process wrote to its standard error last, for the message about its death.

A thread reads the pipe, passes everything on to our own standard error, and keeps the last lines.
It ends when the process and all that it forked have closed their ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque

MAX_LINES = 5
MAX_CHARS = 300
# The pipe of a dead process is read to its end within moments; its judges die with it.
JOIN_DEADLINE_S = 1.0


class LastWords:
    """`fd` is the standard error to give to the process; close it here with `started`."""

    def __init__(self) -> None:
        self._pipe, self.fd = os.pipe()
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._thread = threading.Thread(target=self._read, name="stderr-of-judges", daemon=True)

    def started(self) -> None:
        """Close our end for writing and begin to read."""
        os.close(self.fd)
        self._thread.start()

    def text(self) -> str:
        """The last lines, joined by " | "; empty where nothing was written."""
        self._thread.join(JOIN_DEADLINE_S)
        return " | ".join(line[:MAX_CHARS] for line in list(self._lines))

    def _read(self) -> None:
        with open(self._pipe, encoding="utf-8", errors="replace") as lines:
            while line := lines.readline(1 << 16):  # deadline: the life of the process
                with contextlib.suppress(OSError):  # ours may be closed
                    os.write(2, line.encode(errors="replace"))
                if line.strip():
                    self._lines.append(line.strip())
