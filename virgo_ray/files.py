"""How files and directories are written, locked and, when the disk refuses, reported.

Readers see the old content or the new one, never a part. What is written is on the disk, and not
only with the operating system, when the call returns; `create_once` alone promises less. The
module does not know what is in the files.

A committed state in a directory of its own needs three of these functions:

    lock = lock_directory(
        run_dir, LedgerError, f"run_dir={str(run_dir)!r}", "choose another with run_dir=PATH"
    )
    remove_drafts(path)  # of killed processes: only the holder of the lock may
    with disk_errors(
        LedgerError, f"{path} could not be written", "what was committed before is intact"
    ):
        write_atomically(path, text)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from virgo_ray.errors import ConfigError, DataError, DiskError, VirgoError

# A file system that is full, over a quota, or at a limit of the size of a file; or read-only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (*FULL, errno.EROFS, errno.EIO)
FREE_SPACE = "free space or check the file system, then run the same command again"

LOOK_S = 0.2  # how long a lock is tried for

# -- writing ---------------------------------------------------------------------------------------


def flush(path: Path) -> None:
    """Force the content of a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_at(file: int, content: memoryview, offset: int) -> None:
    """Write all of `content` to an open file, `offset` bytes from its start; nothing is flushed."""
    while content:
        num_written = os.pwrite(file, content, offset)  # at most 2 GiB at a time
        content, offset = content[num_written:], offset + num_written


def rename_durably(draft: Path, path: Path) -> None:
    """Flush `draft`, a file or a directory with all that is in it, and rename it to `path`.

    A file at `path` is replaced. A directory there must be empty.
    """
    for part in (*draft.rglob("*"), draft):
        flush(part)
    draft.replace(path)
    flush(path.parent)


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Give a free name beside `path`; what the block makes there, file or directory, becomes
    `path`.

    If the block raises, `path` stays as it was and the draft is removed. A killed process leaves
    its draft behind, which `remove_drafts` removes. Several processes may write the same path: the
    last one wins.

    Example: `with draft_of(Path("v1")) as draft: draft.mkdir(); save(draft)`.
    """
    draft = _draft_name(path)
    with _removal_on_error(draft):
        yield draft
        rename_durably(draft, path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file through a draft. Text becomes UTF-8; lone surrogates are escaped."""
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with draft_of(path) as draft:
        draft.write_bytes(content)


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file without forcing it to the disk: it is whole or as it was, unless the
    machine loses its power. For files that can be made again.

    Raises:
        DiskError: the file system refused.
    """
    draft = _draft_name(path)
    with writing(path), _removal_on_error(draft):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        draft.replace(path)


def create_once(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(draft)` make a file that does not exist yet; one that exists is left alone.

    This is for files that many processes share and that are made again if they are lost, such as
    drawn pictures. They are not forced to the disk, because there may be thousands of them.

    Raises:
        DiskError: the file system refused.
    """
    if path.exists():
        return
    draft = _draft_name(path)
    with writing(path), _removal_on_error(draft):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        draft.replace(path)


def remove_drafts(path: Path) -> None:
    """Remove what killed processes left of `path`. No other process may be writing it."""
    start = _draft_start(path)
    for leftover in path.parent.iterdir() if path.parent.is_dir() else ():
        if leftover.name.startswith(start):
            _remove(leftover)


def move_aside(path: Path, label: str) -> Path:
    """Rename `v0003` to `label-v0003-1`, or to the first number that is free; returns the new path.

    For what is in the way and must not be deleted.
    """
    names = (path.with_name(f"{label}-{path.name}-{n}") for n in itertools.count(1))
    return path.rename(next(name for name in names if not name.exists()))


def _draft_start(path: Path) -> str:
    return f".{path.name}.tmp-"


def _draft_name(path: Path) -> Path:
    return path.with_name(f"{_draft_start(path)}{os.urandom(6).hex()}")


@contextmanager
def _removal_on_error(draft: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to see
            _remove(draft)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# -- locking ---------------------------------------------------------------------------------------


def lock_directory(
    path: Path, error_type: type[VirgoError], name: str, way_out: str, create: bool = True
) -> IO[str]:
    """Make a directory this process's own until the returned file is closed.

    The operating system drops the lock (`flock` on `.lock`) when the process dies, however it dies.
    Nobody waits for its end: a directory in use is an error, after the moment that another process
    may take to look whether it is in use.

    Args:
        name: how the user knows the directory, such as `run_dir='runs/a'`.
        way_out: what else the user can do, such as "choose another with run_dir=PATH".
        create: whether the directory is made where it is missing.

    Raises:
        error_type: another process holds it, and which; or it cannot be written.
    """
    with disk_errors(error_type, f"{name} cannot be written", way_out=way_out):
        if create:
            path.mkdir(parents=True, exist_ok=True)
        lock = open(path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held by the caller
        try:
            _take(lock, error_type, name, way_out)
        except BaseException:
            lock.close()
            raise
        return lock


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of `lock_directory` on this file; only looks, and keeps
    nobody out for longer than the look takes. False where no file or no locks are."""
    try:
        with open(path, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _has_lock(lock: IO[str], is_last: bool) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if is_last:
            raise
        return False
    return True


def _take(lock: IO[str], error_type: type[VirgoError], name: str, way_out: str) -> None:
    end = time.monotonic() + LOOK_S
    try:
        while not _has_lock(lock, is_last=time.monotonic() >= end):
            time.sleep(0.02)
    except BlockingIOError as error:
        lock.seek(0)
        raise error_type(
            f"{name} is in use by process {lock.read().strip() or 'unknown'}; wait for it to end, "
            f"stop it, or {way_out}"
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()} on {os.uname().nodename}\n")
    lock.flush()


# -- reporting -------------------------------------------------------------------------------------


@contextmanager
def disk_errors(
    error_type: type[VirgoError],
    what: str,
    intact: str = "",
    way_out: str = FREE_SPACE,
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn an OSError of the block, or one of `also`, into one of our errors.

    Example: `disk_errors(LedgerError, "a.json could not be written", "what was there is intact")`
    says "a.json could not be written: No space left on device; what was there is intact. Free space
    or check the file system, then run the same command again".

    Raises:
        error_type: with `what`, the system's words, what is `intact`, and the `way_out`.
        DiskError: the same, where `error_type` says that the request is wrong but the disk is full.
    """
    turned: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except turned as error:
        is_disk = isinstance(error, OSError) and error.errno in FULL
        if is_disk and issubclass(error_type, ConfigError | DataError):
            error_type, way_out = DiskError, FREE_SPACE
        rest = f"{intact}. {way_out[:1].upper()}{way_out[1:]}" if intact else way_out
        raise error_type(f"{what}: {error}; {rest}") from error


@contextmanager
def writing(path: Path, intact: str = "") -> Iterator[None]:
    """For a block that writes `path`, or into it: what the file system refuses is a DiskError.

    Raises:
        DiskError: with the path, the system's words, and how much is free there.
    """
    try:
        yield
    except OSError as error:
        raise DiskError(refusal(error, path, intact)) from error


def refusal(error: OSError, path: Path, intact: str = "") -> str:
    """`a/x.json could not be written: [Errno 28] ...; 0.0 MB are free there. Free space ...`"""
    kept = f"; {intact}" if intact else ""
    return (
        f"{path} could not be written: {error}; {_free_mb(path)} are free there{kept}. "
        f"{FREE_SPACE[:1].upper()}{FREE_SPACE[1:]}"
    )


def _free_mb(path: Path) -> str:
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(place).free / 1e6:,.1f} MB"
    return "an unknown number of MB"
