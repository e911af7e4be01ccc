"""A file of facts that were found once and need not be found again.

A fact is any JSON value under a key that says what it is about; keys are digests. Facts are only
appended, one JSON line each. Nothing depends on the file: a line that is damaged or cut off is as
if it had never been written, and a file that cannot be read or written costs time only. Several
processes may append to one file. `version` says by which code facts were found, and is part of the
file's name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any
from zlib import crc32

FOLDER = ".facts"  # hidden, so that no reader of a directory takes these files for data
WRITE_EVERY_S = 2.0  # so much work is lost at most where a process is killed
KEY_CHARS = 32
# A line is ["<checksum of the rest>","<key>",<fact>]
_KEY_AT = len('["01234567","')
_FACT_AT = _KEY_AT + KEY_CHARS + len('",')

log = logging.getLogger(__name__)


def make_key(*parts: Any) -> str:
    """The key of what these JSON values describe."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:KEY_CHARS]


def digest_code(*modules: str) -> str:
    """A version for facts that these source files find: another one after every edit."""
    digest = hashlib.sha256()
    for path in modules:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


class FactFile:
    """Facts by key in `folder`; read when first asked, written now and then and by `flush`."""

    def __init__(self, folder: Path, name: str, *version: Any) -> None:
        self._path = folder / FOLDER / f"{name}-{make_key(*version)[:12]}.jsonl"
        self._lines: dict[bytes, bytes] | None = None
        self._new: list[bytes] = []
        self._written = time.monotonic()
        self._can_write = True
        self._num_put = 0

    def __contains__(self, key: str) -> bool:
        return key.encode() in self._known

    @property
    def is_old(self) -> bool:
        """Whether facts were found before this file was opened."""
        return len(self._known) > self._num_put

    def get(self, key: str) -> Any:
        """The fact, or None where it is not known."""
        line = self._known.get(key.encode())
        return None if line is None else json.loads(line[_FACT_AT:-1])

    def put(self, key: str, fact: Any) -> None:
        line = _to_line(key, fact)
        if self._known.get(key.encode()) == line:
            return
        self._num_put += key not in self
        self._known[key.encode()] = line
        self._new.append(line)
        if time.monotonic() - self._written > WRITE_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Append what is new. A disk that refuses is named once in the log, and no error."""
        lines, self._new, self._written = self._new, [], time.monotonic()
        if not lines or not self._can_write:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            with open(descriptor, "ab", buffering=0) as file:
                # The first line break ends a line that another process may have left unfinished.
                file.write(b"\n" + b"\n".join(lines) + b"\n")
        except OSError as error:
            self._can_write = False
            log.warning("%s cannot be written, so its facts are found again: %s", self._path, error)

    @property
    def _known(self) -> dict[bytes, bytes]:
        if self._lines is None:
            self._lines = dict(_read(self._path))
        return self._lines


def _to_line(key: str, fact: Any) -> bytes:
    rest = f'"{key}",{json.dumps(fact)}]'.encode()
    return b'["%08x",%s' % (crc32(rest), rest)


def _read(path: Path) -> list[tuple[bytes, bytes]]:
    """(key, line) of every whole line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    return [(line[_KEY_AT : _KEY_AT + KEY_CHARS], line) for line in lines if _is_whole(line)]


def _is_whole(line: bytes) -> bool:
    checksum = b"%08x" % crc32(line[_KEY_AT - 1 :])
    return len(line) > _FACT_AT and line[:_KEY_AT] == b'["' + checksum + b'","'
