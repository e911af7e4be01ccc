"""The parent's handle on the process that forks judges (see child.py).

That process is called the maker. One that does not answer an order within its deadline is killed
and replaced, also where it is only stopped; its judges die with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from virgo_ray.config import VerifyConfig
from virgo_ray.errors import VerifierError
from virgo_ray.verify.process.frames import receive_frame, send_frame
from virgo_ray.verify.process.last_words import LastWords

START_DEADLINE_S = 120.0
ORDER_DEADLINE_S = 30.0
KILL_DEADLINE_S = 5.0

# Signals that come from outside; a crash in the judge's own code brings others (SIGSEGV, SIGABRT).
_FOREIGN = {f"signal {s.name}" for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Death:
    """How a judge ended; `is_foreign` if something outside of it ended it."""

    reason: str
    is_foreign: bool


class Maker:
    """Starts judges on demand and buries them. Starts on first use, and again after it died."""

    def __init__(self, cfg: VerifyConfig) -> None:
        self._cfg = cfg
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._last_words: LastWords | None = None
        self._judges: set[int] = set()
        self._asked = ""
        self._asked_at = 0.0

    def new_judge(self) -> tuple[int, socket.socket]:
        """The pid of a fresh judge and our end of its socket.

        Raises:
            VerifierError: no process could be started in time.
        """
        failures = []
        for _ in range(2):  # a maker that died or froze since the last order is replaced once
            ours, theirs = socket.socketpair()
            try:
                control = self._control or self._start()
                self._ask("to fork a judge")
                socket.send_fds(control, [b"new"], [theirs.fileno()])
                pid = int(receive_frame(control)["pid"])
                self._judges.add(pid)
                return pid, ours
            except (EOFError, OSError) as error:
                ours.close()
                failures.append(self._give_up(error))
            finally:
                theirs.close()
        raise VerifierError(
            f"no judging process could be started: {'; then '.join(failures)}. "
            f"Expected `{sys.executable} -m virgo_ray.verify.process.child` to run: try "
            f"`{sys.executable} -c 'import virgo_ray.verify.verdict'` on this machine"
        )

    def bury(self, pid: int) -> Death:
        """Kill a judge if it still lives, and say how it ended."""
        if self._control is None or pid not in self._judges:
            return Death("its maker died", is_foreign=True)
        self._judges.remove(pid)
        self._ask(f"to end judge {pid}")
        try:
            self._control.sendall(json.dumps({"reap": pid}).encode())
            reply = receive_frame(self._control)
        except (EOFError, OSError) as error:
            return Death(self._give_up(error), is_foreign=True)
        if "refused" in reply:
            return Death(reply["refused"], is_foreign=True)
        return Death(reply["ended"], reply["ended"] in _FOREIGN)

    def close(self) -> None:
        """End the maker; its judges die with it."""
        self._stop(ORDER_DEADLINE_S)

    def _ask(self, what: str) -> None:
        """Remember what is asked, for the message if there is no answer."""
        self._asked, self._asked_at = what, time.monotonic()

    def _give_up(self, error: Exception) -> str:
        """End a maker that did not answer; says what happened, and logs it."""
        waited_s = time.monotonic() - self._asked_at
        if self._process is None:
            return f"the process that forks judges did not start ({error!r})"
        pid = self._process.pid
        is_silent = isinstance(error, TimeoutError)
        ended = self._stop(0.0 if is_silent else KILL_DEADLINE_S)
        did = "did not answer and was killed" if is_silent else f"was gone ({ended})"
        said = self._last_words.text() if self._last_words else ""
        message = (
            f"the process that forks judges (pid {pid}) was asked {self._asked} and {did} after "
            f"{waited_s:.1f} s; its standard error ends with: {said or 'nothing'}"
        )
        log.warning("%s", message)
        return message

    def _stop(self, grace_s: float) -> str:
        """End the maker, by signal if it does not go within `grace_s`; says how it ended."""
        if self._control is not None:
            self._control.close()
        process, self._process, self._control = self._process, None, None
        self._judges.clear()
        if process is None:
            return "not started"
        try:
            process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            # One that even this does not end hangs in the kernel, and dies when it comes back.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=KILL_DEADLINE_S)
        code = process.returncode
        if code is None:
            return "it cannot be killed"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[3])
        # What the parent can import (a custom verifier, say), the judges can import.
        path = os.pathsep.join(dict.fromkeys([root, *(p or os.getcwd() for p in sys.path)]))
        # One thread: judging is serial, and forking a process with threads is not safe.
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._ask("to get ready")
        self._last_words = LastWords()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "virgo_ray.verify.process.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=self._last_words.fd,
                env=environment,
                start_new_session=True,  # Ctrl-C goes to the driver, which then closes us in order
            )
        finally:
            theirs.close()
            self._last_words.started()
        ours.settimeout(START_DEADLINE_S)
        try:
            send_frame(ours, self._cfg.model_dump(mode="json"))
            receive_frame(ours)
        except (EOFError, OSError):
            ours.close()
            raise
        ours.settimeout(ORDER_DEADLINE_S)
        self._control = ours
        return ours


def lower_priority(pid: int) -> None:
    """Let a slow judge have only what the others leave."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used; 0 where it is gone or the system does not tell."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
