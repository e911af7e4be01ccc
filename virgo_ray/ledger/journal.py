"""The commits since the ledger's file was written: one line of JSON each, numbered and checksummed.

A commit costs what it changes, however many rounds there are. `ledger.json` stays a whole ledger,
as it was after commit `sequence`; the lines of `ledger.journal` lead from there to now. Lines that
the file holds already, because a process was killed between writing it and beginning the journal
anew, are passed over. A last line without its end was never committed and is dropped, and so is one
that begins as a line does and is not what was written: after a power loss a file may be as long as
it should, with pages missing. Any other damage is an error. Knows nothing of what a ledger says.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from virgo_ray.files import flush, write_at

SEQUENCE = "sequence"  # in the ledger's file: the number of the last commit that is in it
SUM = '{"sha256": "'
COMMIT = '", "commit": '
HEAD = len(SUM) + 64 + len(COMMIT)

State = dict[str, Any]
Change = tuple[tuple[str, ...], Any]  # where in the state, and the value; None: it goes


class DamagedJournalError(Exception):
    """What is wrong with a journal, and where."""


def apply(state: State, changes: Sequence[Change]) -> None:
    """Make these changes to a state; what a path leads through is made where it is missing.

    >>> state = {"begun": 1}
    >>> apply(state, [(("rounds", "0"), {}), (("begun",), None)]); state
    {'rounds': {'0': {}}}
    """
    for (*places, key), value in changes:
        place = state
        for name in places:
            place = place.setdefault(name, {})
        if value is None:
            place.pop(key, None)
        else:
            place[key] = value


def encode(sequence: int, changes: Sequence[Change]) -> bytes:
    """A commit as a line."""
    body = json.dumps({SEQUENCE: sequence, "changes": changes})
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"{SUM}{digest}{COMMIT}{body}}}\n".encode()


def decode(content: bytes) -> Iterator[tuple[int, list[Change]]]:
    """The commits (number, changes) in a journal's whole lines.

    Raises:
        DamagedJournalError: a line is not what was written.
    """
    for number, line in enumerate(content[: num_whole_bytes(content)].split(b"\n")[:-1], 1):
        if (body := _body_of(line)) is None:
            raise DamagedJournalError(
                f"line {number} is not what was written: its checksum differs"
            )
        commit = json.loads(body)
        yield commit[SEQUENCE], commit["changes"]


def _body_of(line: bytes) -> str | None:
    """The commit in a line; None if it is not what was written."""
    text = line.decode("utf-8", "replace")
    body, digest = text[HEAD:-1], text[len(SUM) : len(SUM) + 64]
    return body if hashlib.sha256(body.encode()).hexdigest() == digest else None


def num_whole_bytes(content: bytes) -> int:
    """Up to the end of the last line that has one; before it, if that line was cut short inside.

    >>> num_whole_bytes(b"a line\\nhalf of"), num_whole_bytes(b"half of")
    (7, 0)
    """
    end = content.rfind(b"\n") + 1
    start = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
    last = content[start : max(end - 1, 0)]
    is_cut = last.startswith(SUM.encode()) and _body_of(last) is None
    return start if is_cut else end


def num_cut_bytes(content: bytes) -> int:
    """Of a last line that has its end and is dropped all the same."""
    return content.rfind(b"\n") + 1 - num_whole_bytes(content)


def replay(state: State, content: bytes) -> int:
    """Bring a state to now, in place; returns how many commits that took.

    Raises:
        DamagedJournalError: a line is damaged, or one is missing.
    """
    num = 0
    for sequence, changes in decode(content):
        before = state.get(SEQUENCE, 0)
        if sequence <= before:
            continue
        if sequence != before + 1:
            raise DamagedJournalError(
                f"it goes on with commit {sequence}, expected {before + 1}: lines are missing"
            )
        apply(state, changes)
        state[SEQUENCE] = sequence
        num += 1
    return num


class Journal:
    """The file to append to. One process writes it: the holder of the run directory's lock."""

    def __init__(self, path: Path, num_bytes: int = 0) -> None:
        """`num_bytes` of it are whole lines; what follows is cut off by the first append."""
        self._path = path
        self._num_bytes = num_bytes

    def append(self, sequence: int, changes: Sequence[Change]) -> None:
        """Add a commit and force it to the disk, all of it or nothing.

        Raises:
            OSError: the file system refused, or the file is shorter than it was.
        """
        line = encode(sequence, changes)
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            found = os.fstat(file).st_size
            if found < self._num_bytes:
                raise OSError(f"{self._path} has {found} bytes, expected {self._num_bytes}")
            os.ftruncate(file, self._num_bytes)
            write_at(file, memoryview(line), self._num_bytes)
            os.fsync(file)
        finally:
            os.close(file)
        if not self._num_bytes:
            flush(self._path.parent)
        self._num_bytes += len(line)

    def begin_anew(self) -> None:
        """All of it is in the ledger's file now.

        Raises:
            OSError: the file system refused.
        """
        self._path.unlink(missing_ok=True)
        flush(self._path.parent)
        self._num_bytes = 0
