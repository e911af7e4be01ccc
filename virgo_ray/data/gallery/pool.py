"""Processes that look at pictures, and can be killed: a deadline for every picture.

A picture at which its process hangs or dies becomes a fault of that picture; the others are looked
at as if nothing had happened. One whose process died is tried once more, because something else may
have killed it. The deadline counts CPU time, so it does not depend on the load of the machine;
beside it stands a wall limit for a decoder that does not compute. Processes are new programs, never
forks of this one, which may have threads.

Who waits for whom: only the caller's thread works here. A worker has at most MAX_WAITING jobs,
which are few enough for the socket's buffers, so neither side ever waits for the other to read.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virgo_ray.closing import Closing
from virgo_ray.data.gallery.facts import PictureFacts, PictureFault
from virgo_ray.errors import DataError
from virgo_ray.model.images import image_error
from virgo_ray.verify.process.frames import receive_frame, send_frame
from virgo_ray.verify.process.maker import cpu_seconds

DEADLINE_S = 30.0  # CPU time of one picture: the largest that is allowed takes some seconds
WALL_FACTOR = 10  # one that does not compute is ended after so many deadlines
START_DEADLINE_S = 120.0
KILL_DEADLINE_S = 5.0
POLL_S = 1.0
MAX_WAITING = 8  # jobs of one worker
JOBS_PER_WORKER = 32  # fewer are done before one more process has started
NUM_TRIES = 2

Result = PictureFacts | PictureFault | str  # a str is the hash of one that was not decoded


@dataclass(frozen=True)
class Job:
    """A picture that is decoded, or only hashed."""

    path: str
    is_decoded: bool = True


@dataclass(eq=False)
class _Worker:
    """One process; `jobs[0]` is the one it is at. Not ready: it still starts.

    `since` and `cpu_before` are the time and the process's CPU time when it came to that job.
    """

    process: subprocess.Popen[bytes]
    sock: socket.socket
    since: float
    jobs: deque[Job] = field(default_factory=deque)
    is_ready: bool = False
    cpu_before: float = 0.0

    def begin(self) -> None:
        """Another job is its first one."""
        self.since = time.monotonic()
        self.cpu_before = cpu_seconds(self.process.pid)

    def lateness(self, deadline_s: float) -> str:
        """Which of its deadlines has passed; empty where none has."""
        wall_s = time.monotonic() - self.since
        if not self.is_ready:
            late = wall_s > START_DEADLINE_S
            return f"it did not start in {START_DEADLINE_S:.0f} s" if late else ""
        if not self.jobs:
            return ""
        if cpu_seconds(self.process.pid) - self.cpu_before > deadline_s:
            return f"not decoded in {deadline_s:.0f} s of CPU time"
        longest_s = deadline_s * WALL_FACTOR
        return f"not decoded in {longest_s:.0f} s" if wall_s > longest_s else ""

    def end(self) -> str:
        """Make sure that it is dead; says how it ended."""
        self.sock.close()
        self.process.kill()
        # One that even this does not end hangs in the kernel, and dies when it comes back.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=KILL_DEADLINE_S)
        code = self.process.returncode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class PicturePool(Closing):
    """Looks at pictures in processes, as many as there are cores; they start when needed."""

    def __init__(self, deadline_s: float = DEADLINE_S, num_workers: int | None = None) -> None:
        self._deadline_s = deadline_s
        self._num_workers = num_workers or len(os.sched_getaffinity(0))
        self._workers: list[_Worker] = []
        self._todo: deque[Job] = deque()
        self._num_deaths: dict[Job, int] = {}

    @property
    def is_running(self) -> bool:
        return bool(self._workers)

    def close(self) -> None:
        """End all processes, whatever they are at."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """What becomes of every job, as they finish.

        Raises:
            DataError: no process can be started.
        """
        self._todo.extend(jobs)
        num_left = len(jobs)
        while num_left:
            self._hand_out()
            for job, result in self._collect():
                num_left -= 1
                yield job, result

    def _hand_out(self) -> None:
        """Start processes that are worth it, and give everyone something to do."""
        num_open = len(self._todo) + sum(len(worker.jobs) for worker in self._workers)
        num_wanted = min(self._num_workers, -(-num_open // JOBS_PER_WORKER))
        while len(self._workers) < num_wanted:
            self._workers.append(_start())
        for worker in self._workers:
            if worker.is_ready and len(worker.jobs) <= MAX_WAITING // 2 and self._todo:
                num = min(MAX_WAITING - len(worker.jobs), len(self._todo))
                self._give(worker, [self._todo.popleft() for _ in range(num)])

    def _give(self, worker: _Worker, jobs: Sequence[Job]) -> None:
        if not worker.jobs:
            worker.begin()
        worker.jobs.extend(jobs)
        # One that is gone is met again by `_collect`, which reads its end of file.
        with contextlib.suppress(OSError):
            send_frame(worker.sock, [(job.path, job.is_decoded) for job in jobs])

    def _collect(self) -> Iterator[tuple[Job, Result]]:
        """What the workers answer within POLL_S, and what those that hang or died leave behind."""
        readable, _, _ = select.select([worker.sock for worker in self._workers], [], [], POLL_S)
        for worker in list(self._workers):
            if worker.sock in readable:
                yield from self._receive(worker)
            elif lateness := worker.lateness(self._deadline_s):
                yield from self._replace(worker, lateness)

    def _receive(self, worker: _Worker) -> Iterator[tuple[Job, Result]]:
        try:
            message = receive_frame(worker.sock)
        except (EOFError, OSError):
            yield from self._replace(worker)
            return
        worker.begin()
        if worker.is_ready:
            yield worker.jobs.popleft(), _parse(message)
        worker.is_ready = True

    def _replace(self, worker: _Worker, lateness: str = "") -> Iterator[tuple[Job, PictureFault]]:
        """End a worker; the job it was at is tried again or given up, the others are free again."""
        self._workers.remove(worker)
        ended = worker.end()
        if not worker.is_ready:
            raise DataError(
                f"no process that looks at pictures could be started ({lateness or ended}); try "
                f"`{sys.executable} -c 'import virgo_ray.data.gallery.worker'` on this machine"
            )
        jobs, worker.jobs = worker.jobs, deque()
        if not jobs:
            return
        job = jobs.popleft()
        self._todo.extendleft(reversed(jobs))
        self._num_deaths[job] = self._num_deaths.get(job, 0) + 1
        if lateness:
            yield job, _fault(job, "image unending", TimeoutError(lateness))
        elif self._num_deaths[job] < NUM_TRIES:
            self._todo.appendleft(job)
        else:
            said = f"the process that decodes it died: {ended}"
            yield job, _fault(job, "image deadly", ChildProcessError(said))


def _start() -> _Worker:
    ours, theirs = socket.socketpair()
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-m", "virgo_ray.data.gallery.worker", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C goes to the parent, which then ends all in order
    )
    theirs.close()
    ours.settimeout(KILL_DEADLINE_S)  # of a message that has begun
    return _Worker(process, ours, time.monotonic())


def _parse(message: dict[str, dict[str, object]] | dict[str, str]) -> Result:
    ((kind, found),) = message.items()
    if isinstance(found, str):
        return found
    return PictureFault.from_json(found) if kind == "fault" else PictureFacts.from_json(found)


def _fault(job: Job, kind: str, error: Exception) -> PictureFault:
    return PictureFault(kind, str(image_error(job.path, error)))
