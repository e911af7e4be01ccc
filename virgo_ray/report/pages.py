"""Data files of a report: scripts that hand one JSON value each to the page; whole or not there.

A browser does not let a page on disk fetch files, but it runs scripts that lie beside the page. So
each piece of data is a script `Virgo.put(name, value)`. The JSON is ASCII: no text of a model can
end the string, the script or the line. Knows not what the values mean.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

from virgo_ray.files import replace_file

DATA = "data"
ENDING = ".js"
# Of a round or a fit; those of the first format had no number of their own.
OWN_FOLDER = re.compile(r"(r-?\d+|fit-\d+)(-\d+)?")
FORGOTTEN_S = 3600.0  # then nobody writes into a folder any more


class Folder:
    """The data of a report in `root`. What is written replaces what was there, atomically.

    Files are not forced to the disk one by one: a report can be written again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.num_written = 0

    def put(self, name: str, value: Any) -> int:
        """Write `data/NAME.js`; returns its bytes.

        Raises:
            DiskError: the file system refused.
        """
        text = f"Virgo.put({json.dumps(name)},{dump(value)});\n"
        self.write(f"{DATA}/{name}{ENDING}", text.encode("ascii"))
        return len(text)

    def write(self, name: str, content: bytes) -> None:
        """Write any file of the folder.

        Raises:
            DiskError: the file system refused.
        """
        replace_file(self.root / name, content)
        self.num_written += 1

    def new_name(self, stem: str) -> str:
        """`r2-3`: the name of a data folder that does not exist yet."""
        number = 1
        while (self.root / DATA / f"{stem}-{number}").exists():
            number += 1
        return f"{stem}-{number}"

    def sweep(self, before: Set[str], now: Set[str]) -> None:
        """Remove data folders that were in use `before` and are not `now`, and those that a killed
        writing left; a folder that another process may be writing stays."""
        data = self.root / DATA
        for path in data.iterdir() if data.is_dir() else ():
            if path.name in now or not OWN_FOLDER.fullmatch(path.name) or path.is_symlink():
                continue
            with contextlib.suppress(FileNotFoundError):  # another writer's sweep was faster
                if path.name in before or time.time() - path.stat().st_mtime > FORGOTTEN_S:
                    shutil.rmtree(path, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.root / name).is_file()

    def read_state(self, name: str) -> dict[str, Any]:
        """What `write_state` kept; empty where there is none, or none that can be read."""
        try:
            found = json.loads((self.root / DATA / name).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_state(self, name: str, value: dict[str, Any]) -> None:
        """Keep what the next writing goes on from.

        Raises:
            DiskError: the file system refused.
        """
        self.write(f"{DATA}/{name}", dump(value).encode("ascii"))


def read_data(root: Path, name: str) -> Any:
    """The value that `Folder.put` wrote.

    Raises:
        OSError: there is no such file.
    """
    text = (root / DATA / f"{name}{ENDING}").read_text(encoding="ascii")
    return json.loads(text[text.index(",") + 1 : text.rindex(")")])


def dump(value: Any) -> str:
    """ASCII JSON without spaces; a number that is not finite becomes null, as JSON has none.

    >>> dump({"a": ["</script>", float("nan"), "\\u2028"]})
    '{"a":["\\\\u003c/script>",null,"\\\\u2028"]}'
    """
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return None if isinstance(value, float) else value
