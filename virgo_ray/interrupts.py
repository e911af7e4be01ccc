"""How a command ends early: heard within seconds, with its own exit code and nothing left behind.

Guarantees that a command which is told to stop (SIGTERM, Ctrl-C) or has lost what it depends on is
gone within END_DEADLINE_S, wherever its main thread is: inside Ray's C++ code a signal may wait for
minutes before Python looks at it. Does not know what the command was doing.

Who wakes whom: the system's handler writes each signal's number into a pipe, which takes no Python.
A thread reads the pipe. Meanwhile Python's own handler raises KeyboardInterrupt in the main thread,
which closes what it can. After GRACE_S the thread ends the process, and what it started, by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import NoReturn

import psutil

INTERRUPTED = 130  # exit code, also for SIGTERM
END_DEADLINE_S = 5.0  # from the signal to the end of the process and of all it started
GRACE_S = 2.5  # of these, for the main thread
SOFT_S = 0.7  # for what was started, between being asked to end and being killed
LOOK_EVERY_S = 0.2
SHOW_CURSOR = "\x1b[?25h"  # a live view on a terminal hides it
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_active: list[EndsOnSignals] = []


class EndsOnSignals:
    """A block that a signal ends within END_DEADLINE_S; then nothing after the block is reached.

    Example: `with EndsOnSignals("interrupted; the same command goes on"): work()`.

    A signal that was ignored before, as Ctrl-C is in the background of a shell, stays ignored. Only
    the main thread can hear signals; elsewhere the block changes nothing.
    """

    def __init__(self, sentence: str) -> None:
        """`sentence` is printed where the command is interrupted."""
        self._sentence = sentence
        self._heard = threading.Event()
        self._was_raised = False
        self._ending = threading.Lock()
        self._started: dict[int, psutil.Process] = {}
        self._before: dict[signal.Signals, object] = {}
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> EndsOnSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._fd_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._before = {s: signal.getsignal(s) for s in SIGNALS}
        self.take_handlers()
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._pipe is None:
            return
        # The listening thread may be a moment behind. SystemExit: Ray's own handler for SIGTERM.
        was_told = isinstance(error, KeyboardInterrupt | SystemExit) and self._heard.wait(0.2)
        if was_told or self._heard.is_set():
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                sys.stdout.flush()  # what was printed before; os._exit would drop it
            self.end(INTERRUPTED, self._sentence)
        _active.remove(self)
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._pipe[1])  # ends the thread, which closes the other end

    def hears(self, number: signal.Signals) -> bool:
        """Whether a signal ends the command: not one that its caller wants ignored."""
        return self._before.get(number) is not signal.SIG_IGN

    def take_handlers(self) -> None:
        """Put our handlers in the place of whatever is there now."""
        for number in self._before:
            if self.hears(number):
                signal.signal(number, self._interrupt)

    def end(self, code: int, sentence: str) -> NoReturn:
        """Print why, end what this process started, and this process.

        The first call counts. A signal to the whole process group may end a cluster first: what
        follows from that is no reason of its own.
        """
        with self._ending:
            if self._heard.is_set():
                code, sentence = INTERRUPTED, self._sentence
            try:
                _say(sentence)
                self._note_started()
                end_processes(list(self._started.values()))
            finally:  # whatever went wrong: a command that was told to end ends
                os._exit(code)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._heard.set()
        if not self._was_raised:  # a second signal would only disturb the cleaning up
            self._was_raised = True
            raise KeyboardInterrupt

    def _listen(self) -> None:
        assert self._pipe is not None
        told = {bytes([number]) for number, was in self._before.items() if was != signal.SIG_IGN}
        while (heard := os.read(self._pipe[0], 1)) and heard not in told:
            pass
        if not heard:  # the block is over
            os.close(self._pipe[0])
            return
        self._heard.set()
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            self._note_started()  # later, some of them may have lost their parents
            time.sleep(LOOK_EVERY_S)
        self.end(INTERRUPTED, self._sentence)

    def _note_started(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._started |= {p.pid: p for p in psutil.Process().children(recursive=True)}


@contextlib.contextmanager
def dying_of_sigterm() -> Iterator[None]:
    """Let the system itself end the process on SIGTERM (143 for a shell) while the block runs.

    For library calls that may hold Python's lock for a minute: no thread of ours runs then.
    Afterwards the handlers are ours again, whatever a library did to them. Changes nothing outside
    EndsOnSignals.
    """
    for block in _active:
        if block.hears(signal.SIGTERM):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        for block in _active:
            block.take_handlers()


def end_command(code: int, sentence: str) -> None:
    """End the command that runs in this process, from any thread: print why, leave nothing behind.

    Returns only where no EndsOnSignals block is active.
    """
    for block in _active:
        block.end(code, sentence)


def end_processes(processes: list[psutil.Process]) -> None:
    """Ask them to end, then kill what is left."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, deaf = psutil.wait_procs(processes, timeout=SOFT_S)
    kill_in_order(deaf)


def kill_in_order(processes: list[psutil.Process]) -> None:
    """Kill them. Those that free other processes' shared memory come last: they end by themselves
    when the others have."""
    deaf = processes
    for is_last in (False, True):
        wave = [process for process in deaf if _frees_memory(process) == is_last]
        for process in wave:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, deaf = psutil.wait_procs(deaf, timeout=SOFT_S if not is_last else 0.1)


def _frees_memory(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def _say(sentence: str) -> None:
    """Without Python's buffers, whose locks the main thread may hold."""
    cursor = SHOW_CURSOR if os.isatty(2) else ""
    with contextlib.suppress(OSError):  # nobody reads any more
        os.write(2, f"{cursor}{sentence}\n".encode())
