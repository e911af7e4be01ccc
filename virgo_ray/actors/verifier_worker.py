"""A verifier worker: an actor around one KillableJudge.

The actor process imports no mathematics; what can hang or grow lives in the judge's own processes
and is killed there, so the actor always answers within its batch's deadlines.
"""

from __future__ import annotations

import os
from typing import Any

from virgo_ray.config import VerifyConfig
from virgo_ray.records import Verdict
from virgo_ray.verify.item import Item
from virgo_ray.verify.killable import KillableJudge


class VerifierWorker:
    """Plain class; `verifier_pool.py` makes the actor of it."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        self._judge = KillableJudge(VerifyConfig(**cfg))

    def judge(self, items: list[Item]) -> tuple[list[Verdict], int]:
        """(verdicts in the order of the items, judging processes replaced since the start)."""
        verdicts = dict(self._judge.judge(items))
        return [
            verdicts[i] for i in range(len(items))
        ], self._judge.num_killed + self._judge.num_died

    def pid(self) -> int:
        return os.getpid()

    def close(self) -> None:
        self._judge.close()
