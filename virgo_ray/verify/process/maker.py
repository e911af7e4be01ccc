"""The parent's handle on the process that forks judges (see child.py)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from virgo_ray.config import VerifyConfig
from virgo_ray.errors import VerifierError
from virgo_ray.verify.process.frames import receive_frame, send_frame

START_DEADLINE_S = 120.0
ORDER_DEADLINE_S = 30.0
KILL_DEADLINE_S = 5.0


class Maker:
    """Starts judges on demand and buries them. Starts on first use, and again after it died."""

    def __init__(self, cfg: VerifyConfig) -> None:
        self._cfg = cfg
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def new_judge(self) -> tuple[int, socket.socket]:
        """The pid of a fresh judge and our end of its socket.

        Raises:
            VerifierError: no process could be started in time.
        """
        for _ in range(2):  # a maker that died since the last order is replaced once
            ours, theirs = socket.socketpair()
            try:
                control = self._control or self._start()
                socket.send_fds(control, [b"new"], [theirs.fileno()])
                return int(receive_frame(control)["pid"]), ours
            except (EOFError, OSError) as error:
                ours.close()
                reason = error
                self.close()
            finally:
                theirs.close()
        raise VerifierError(
            f"no judging process could be started within {START_DEADLINE_S:g} s ({reason!r}); "
            f"expected `{sys.executable} -m virgo_ray.verify.process.child` to run: try "
            f"`{sys.executable} -c 'import virgo_ray.verify.verdict'` on this machine"
        )

    def bury(self, pid: int) -> str:
        """Kill a judge if it still lives, and say how it ended."""
        if self._control is None:
            return "its maker died"
        try:
            self._control.sendall(json.dumps({"reap": pid}).encode())
            return str(receive_frame(self._control)["ended"])
        except (EOFError, OSError):
            self.close()
            return "its maker died"

    def close(self) -> None:
        """End the maker; its judges die with it."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=ORDER_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                # One that even this does not end hangs in the kernel, and dies when it comes back.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=KILL_DEADLINE_S)
        self._process = self._control = None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[3])
        # What the parent can import (a custom verifier, say), the judges can import.
        path = os.pathsep.join(dict.fromkeys([root, *(p or os.getcwd() for p in sys.path)]))
        # One thread: judging is serial, and forking a process with threads is not safe.
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "virgo_ray.verify.process.child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C goes to the driver, which then closes us in order
        )
        theirs.close()
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
    """CPU time a process has used; 0 where the system does not tell (not Linux, or gone)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
