"""Pictures as they come in records (paths, bytes, base64, data URLs) become paths of files.

What is no file yet is written once, under a name made of its content, so that records, workers and
runs share one copy. Nothing is fetched from the network, and nothing is decoded here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from virgo_ray.data.rows import RowError, as_text
from virgo_ray.files import create_once

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_REMOTE = re.compile(r"(?:https?|s3|gs|ftp)://", re.IGNORECASE)


def picture_path(value: Any, folder: Path, store: Path) -> str:
    """The file of one picture: as named, relative to `folder`, or newly written under `store`.

    `value` is a path, a data: URL, base64 text, bytes, or what the column type Image of the package
    `datasets` holds undecoded (`{"bytes": ..., "path": ...}`).

    Raises:
        RowError: empty, of another type, not base64, or on a server.
    """
    if isinstance(value, Mapping):
        content = value.get("bytes")
        return picture_path(value.get("path") if content is None else content, folder, store)
    if isinstance(value, bytes | bytearray | memoryview):
        return write_once(bytes(value), store)
    if isinstance(value, str):
        head = _DATA_URL.match(value)
        if head:
            return write_once(_decode_base64(value[head.end() :]), store)
        if len(value) > 255 and _BASE64.fullmatch(value):  # longer than any file name
            return write_once(_decode_base64(value), store)
        if _REMOTE.match(value):
            raise RowError("image on a server", f"{value:.80}: download it and give its path")
    text = as_text(value, "images").removeprefix("file://")
    if not text:
        raise RowError("image missing", f"images={value!r:.60} holds an empty path")
    return str(folder / Path(text).expanduser())


def write_once(content: bytes, store: Path) -> str:
    """The path of a file with this content, made if it is not there yet."""
    path = store / hashlib.sha256(content).hexdigest()[:24]
    create_once(path, lambda draft: draft.write_bytes(content))
    return str(path)


def wrap_in_list(value: Any) -> list[Any]:
    """Make a list of one value, of several, or of none (None)."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError("image corrupt", f"its base64 text cannot be decoded: {error}") from error
