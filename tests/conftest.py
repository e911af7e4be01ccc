"""Property tests draw the same examples in every run; what needs the machine runs in turn."""

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# Real engines, trainers and Ray clusters, and tests that measure time: never two at once.
FOLDERS_IN_TURN = {"engine", "ray"}
FILES_IN_TURN = {"test_killable.py", "test_hostile.py", "test_placement.py"}


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in a hook of its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path
        if path.parent.name in FOLDERS_IN_TURN or path.name in FILES_IN_TURN:
            item.add_marker(pytest.mark.xdist_group("in turn"))
