"""Files for the public: only kinds that are named, and nothing that tells of this machine.

Cards and configs are read: absolute paths, this machine's name and secrets of the environment are
refused by name. A model's config often holds the directory it was loaded from; that is replaced by
the directory's last name. Knows nothing of the hub.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from virgo_ray.errors import DataError

READ = ("*.md", "*.json", "*.jsonl", "*.yaml", "*.txt", "*.jinja", "*.py")
VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
LOADED_FROM = ("_name_or_path", "name_or_path")
PLACES = (
    "home|Users|Volumes|root|tmp|mnt|data|media|scratch|workspace|work|var|opt|srv|nfs|efs|fsx|"
    "gpfs|lustre|raid|nvme|ssd|disk|storage"
)
_REST = r"[^\s\"'`,;)\]}]+"
# A directory at the root (`/data1/x`), in a home (`~/models`), or a file URL. Hidden ones of a home
# (`~/.cache`) are those of everybody; `file:///path/to/x` is what examples say.
PATH = re.compile(
    rf"(?<![\w.:/\\<-])/(?:{PLACES})(?:[_-]?\d+)?/{_REST}"
    rf"|(?<![\w.:/\\~$)\]}}-])~/[A-Za-z_]{_REST}"
    rf"|\bfile://[\w.-]*/(?!path/to/|[{{<$%]){_REST}"
)
SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD)S?$")
LEAST_SECRET = 8  # characters; shorter values are words that a text may hold by chance
LEAST_NAME = 4


@dataclass(frozen=True)
class File:
    """A file as it will stand in a repository."""

    name: str  # with its folders, "/" between them
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def publishable(
    folder: Path, patterns: Iterable[str], never: Iterable[str] = ()
) -> tuple[list[File], list[str]]:
    """The files of a folder that may leave, and the names of those that stay.

    Raises:
        DataError: a file tells of this machine, or there is nothing to publish.
    """
    wanted, unwanted = list(patterns), list(never)
    files, staying = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if _matches(name, wanted) and not _matches(name, unwanted):
            files.append(File(name, _without_origin(path)))
        else:
            staying.append(name)
    if not files:
        raise DataError(f"{folder} holds nothing to publish; expected {', '.join(wanted)}")
    for file in files:
        refuse_telling(file)
    return files, staying


def refuse_telling(file: File) -> None:
    """
    Raises:
        DataError: a card or a config holds a path, this machine's name or a secret.
    """
    if not _matches(file.name, READ) or _matches(file.name, VOCABULARY):
        return
    text = (
        file.content.decode("utf-8", "replace")
        if isinstance(file.content, bytes)
        else file.content.read_text(encoding="utf-8", errors="replace")
    )
    for what, shown in _private_parts(text, os.environ):
        raise DataError(
            f"{file.name} holds {what} ({shown}) and was not published; remove it from the file, "
            "or from the config that it was written from"
        )


def _private_parts(text: str, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(what it is, how it may be shown) of everything private in a text."""
    for name, value in environment.items():
        if SECRET_NAME.search(name) and len(value) >= LEAST_SECRET and value in text:
            yield "a secret", f"the value of {name}"
    for place in {str(Path.home()), os.getcwd()}:
        if place.count("/") > 1 and place in text:
            yield "a path of this machine", repr(place)
    if found := PATH.search(text):
        yield "a path of this machine", repr(found.group())
    host = socket.gethostname()
    if len(host) >= LEAST_NAME and re.search(rf"(?<!\w){re.escape(host)}(?!\w)", text):
        yield "the name of this machine", repr(host)


def _without_origin(path: Path) -> Path | bytes:
    """A JSON file without the directory that a model was loaded from; others as they are."""
    if path.suffix != ".json" or _matches(path.name, VOCABULARY):
        return path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return path
    if not _shorten(values):
        return path
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _shorten(values: Any) -> bool:
    """Replace, in place, directories by their last names; says whether there was one."""
    entries = values.items() if isinstance(values, dict) else ()
    inside = list(values if isinstance(values, list) else dict(entries).values())
    has_changed = False
    for key, value in entries:
        if key in LOADED_FROM and isinstance(value, str) and value.startswith(("/", "~", ".")):
            values[key] = Path(value).name
            has_changed = True
    for value in inside:
        has_changed |= _shorten(value)
    return has_changed


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
