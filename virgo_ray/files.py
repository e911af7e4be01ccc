"""Files that a power cut does not take back. Knows nothing of what is in them."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """What a file holds, or which names a directory holds, is on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old file or the new one, never a part; durable when this returns."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)
