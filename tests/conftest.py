"""Property tests draw the same examples in every run; what needs the machine runs in turn."""

import gc
import os
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
# Two processes run tests on two cores: threads of a tensor would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What measures time, counts what is left behind, or starts several engines: never two at once.
FOLDERS_IN_TURN = {"ray"}
FILES_IN_TURN = {
    "test_rollout_engine.py",
    "test_killable.py",
    "test_hostile.py",
    "test_placement.py",
    "test_lost_nodes.py",
}
# On a Ray cluster of their own, with at most one engine and no deadlines of seconds.
NOT_IN_TURN = {"test_trainer_group.py", "test_evaluate_command.py", "test_real_samples.py"}


def pytest_collection_finish() -> None:
    """Every test file and what it imports is loaded: millions of objects, which stay. A collection
    of garbage, of which each fit makes several, would look at all of them: 0.3 s."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process takes all that runs in turn, the other meanwhile the rest, file by file."""
    # pytest-xdist's own marks for this (xdist_group) have no effect under pytest 9.2.
    from xdist.scheduler import LoadScopeScheduling

    class InTurn(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = PurePath(nodeid.partition("::")[0])
            in_turn = path.parent.name in FOLDERS_IN_TURN or path.name in FILES_IN_TURN
            return "in turn" if in_turn and path.name not in NOT_IN_TURN else str(path)

    config.option.loadscopereorder = False  # by the order of folders, what runs in turn comes first
    return InTurn(config, log)
