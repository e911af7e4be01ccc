"""A verifier worker: an actor around one KillableJudge.

The actor process imports no mathematics; what can hang or grow lives in the judge's own processes
and is killed there, so the actor always answers within its batch's deadlines.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from virgo_ray.actors.logs import configure_logging
from virgo_ray.actors.processes import resident_mib
from virgo_ray.config import VerifyConfig
from virgo_ray.records import Verdict
from virgo_ray.verify.item import Item
from virgo_ray.verify.process.killable import KillableJudge

# How long a call without new items waits for slow ones: new items cannot come in meanwhile.
WAIT_S = 0.2


class VerifierWorker:
    """Plain class; `verifier_pool.py` makes the actor of it."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        configure_logging(None)  # Ray keeps an actor's stderr in its session's logs
        self._judge = KillableJudge(VerifyConfig(**cfg))

    def judge(self, items: Mapping[int, Item]) -> tuple[dict[int, Verdict], int]:
        """(verdicts by key, judging processes replaced since the start).

        Comes back when every item was looked at; one that needs long comes with a later call,
        perhaps one without new items, which waits a moment for it.
        """
        judge = self._judge
        judge.submit(items)
        verdicts: dict[int, Verdict] = {}
        while judge.has_waiting:
            verdicts.update(judge.step())
        end = time.monotonic() + WAIT_S
        while not items and not verdicts and judge.num_unfinished and time.monotonic() < end:
            verdicts.update(judge.step())
        return verdicts, judge.num_killed + judge.num_died

    def memory(self) -> float:
        """Resident memory of this actor and its judging processes, MiB."""
        return resident_mib()

    def pid(self) -> int:
        return os.getpid()

    def close(self) -> None:
        self._judge.close()
