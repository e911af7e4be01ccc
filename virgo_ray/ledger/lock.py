"""Keeps a run directory to one process, also where `flock` does not reach the other host.

On one machine, and on file systems that carry locks, `flock` decides: the operating system drops it
when its process dies. Elsewhere (NFS without a lock daemon, some FUSE mounts) two hosts would each
get the lock. So the holder also keeps the file `.owner` fresh. Another host refuses while it is
fresh; once it has not been renewed for `STALE_S`, it takes the directory over and says so. Whoever
finds another owner in the file commits nothing any more: a process that was stopped for a while.

Ages are differences of times that the file system itself gave, so clocks of hosts are never
compared. A daemon thread renews the file; nobody waits for it, and `close` ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from virgo_ray.errors import LedgerError
from virgo_ray.files import disk_errors, is_locked, lock_directory, remove_drafts, write_atomically

OWNER_NAME = ".owner"
RENEW_S = 30.0
STALE_S = 180.0  # six renewals: a driver that swaps or waits for a slow disk misses a few
WAY_OUT = "choose another with run_dir=PATH"


@dataclass(frozen=True)
class Owner:
    """A process that works on a run directory; `kernel` differs between machines and boots."""

    id: str
    host: str
    kernel: str
    pid: int

    @classmethod
    def here(cls) -> Owner:
        host = os.uname().nodename
        return cls(os.urandom(8).hex(), host, _kernel() or host, os.getpid())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class RunLock:
    """A run directory that is this process's own until `close`. Make it with `RunLock.take`."""

    def __init__(self, run_dir: Path, file: IO[str], owner: Owner, taken_over: str) -> None:
        self.taken_over = taken_over  # from whom, as a sentence; empty: from nobody
        self._path = run_dir / OWNER_NAME
        self._file = file
        self._owner = owner
        # The thread does not hold this object: a lock that nobody holds any more ends by itself.
        self._has_ended = threading.Event()
        weakref.finalize(self, self._has_ended.set)
        renewing = (self._path, owner, self._has_ended)
        threading.Thread(target=_renew, args=renewing, name="owner", daemon=True).start()

    @classmethod
    def take(cls, run_dir: Path, create: bool) -> RunLock:
        """Take the directory, or say whose it is.

        Raises:
            LedgerError: another process works on it, here or on another host.
        """
        name = f"run_dir={str(run_dir)!r}"
        file = lock_directory(run_dir, LedgerError, name, WAY_OUT, create)
        try:
            with disk_errors(LedgerError, f"{name} cannot be written", way_out=WAY_OUT):
                taken_over = _refuse_fresh(run_dir, name)
                remove_drafts(run_dir / OWNER_NAME)
                owner = Owner.here()
                write_atomically(run_dir / OWNER_NAME, json.dumps(vars(owner)))
        except BaseException:
            file.close()
            raise
        return cls(run_dir, file, owner, taken_over)

    def require_ours(self) -> None:
        """Refuse to go on in a directory that another host has taken over meanwhile.

        Raises:
            LedgerError: naming the new owner.
        """
        found = read_owner(self._path)
        if found not in (None, self._owner):
            raise LedgerError(
                f"{self._path.parent} was taken over by {found}, because this process gave no sign "
                f"of life for {STALE_S:g} s; nothing more is committed here, and what was "
                "committed before is intact. Let the other process go on"
            )

    def close(self) -> None:
        """Give the directory free."""
        self._has_ended.set()
        found = read_owner(self._path)
        if found == self._owner:
            with contextlib.suppress(OSError):  # it goes stale by itself
                self._path.unlink()
        self._file.close()


def _renew(path: Path, owner: Owner, has_ended: threading.Event) -> None:
    """Keep a file fresh that names `owner`, until it has ended."""
    while not has_ended.wait(RENEW_S):
        if read_owner(path) == owner:
            with contextlib.suppress(OSError):  # the next renewal may find the disk back
                os.utime(path)


def read_owner(path: Path) -> Owner | None:
    """Who works in a directory, or did so last; None where the file does not say."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_in_use(run_dir: Path) -> bool:
    """Whether a process works on a run directory now; only looks, and keeps nobody out for longer
    than the look takes."""
    found = read_owner(run_dir / OWNER_NAME)
    if found is not None and found.kernel != (_kernel() or os.uname().nodename):
        with contextlib.suppress(OSError):
            return time.time() - (run_dir / OWNER_NAME).stat().st_mtime < STALE_S
    return is_locked(run_dir / ".lock")  # False where nobody ever worked


def _refuse_fresh(run_dir: Path, name: str) -> str:
    """What to say of a stale owner on another host; empty where there is none.

    Raises:
        LedgerError: it is fresh.
        OSError: the file system refused.
    """
    found = read_owner(run_dir / OWNER_NAME)
    if found is None or found.kernel == (_kernel() or os.uname().nodename):
        return ""  # on this machine `flock` has decided
    age = _age_s(run_dir / OWNER_NAME)
    if age < STALE_S:
        raise LedgerError(
            f"{name} is in use by {found}, which gave a sign of life {max(0.0, age):.0f} s ago; "
            f"wait for it to end or stop it there (after {STALE_S:g} s without a sign the "
            f"directory is free), or {WAY_OUT}"
        )
    return f"{run_dir} is taken over from {found}, which gave no sign of life for {age:.0f} s"


def _age_s(path: Path) -> float:
    """Seconds since a file was renewed, by the file system's own clock."""
    probe = path.with_name(f"{OWNER_NAME}.now-{os.urandom(4).hex()}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink()


def _kernel() -> str:
    """The id of this machine's boot, which its containers share as they share `flock`."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
