"""Where the runs of these tests write."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def folder():
    """In memory where that is possible: a run commits some thirty times to disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)
