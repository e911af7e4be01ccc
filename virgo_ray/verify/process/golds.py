"""Gold answers checked with a deadline: a data set may hold what hangs the comparison.

Plain ones (`is_plain`: most of them) are checked at once in this process. The others go in batches
to a process that can be killed, with the deadline and the memory limit of the verifier; one that
is not judged in time has a fault like any other. The process is started when it is first needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from virgo_ray.closing import Closing
from virgo_ray.config import VerifyConfig
from virgo_ray.records import Problem, Verdict
from virgo_ray.verify.answers.gold import gold_fault, is_plain, unjudged
from virgo_ray.verify.item import Item
from virgo_ray.verify.process.killable import KillableJudge


class GoldChecker(Closing):
    """Finds gold answers that cannot be judged against; a context that ends its processes."""

    def __init__(self, cfg: VerifyConfig | None = None) -> None:
        cfg = cfg or VerifyConfig()
        # A custom verifier or second opinion has no part in it.
        limits = VerifyConfig(deadline_s=cfg.deadline_s, memory_mib=cfg.memory_mib)
        self._judge = KillableJudge(limits)

    def close(self) -> None:
        """End the judging processes."""
        self._judge.close()

    def find_faults(self, problems: Sequence[Problem]) -> list[str]:
        """What is wrong with each problem's gold answer; empty where nothing is.

        Raises:
            VerifierError: no judging process can be started.
        """
        hard = [i for i, p in enumerate(problems) if not is_plain(p.answer, p.options)]
        verdicts = self._judge.judge([_item(problems[i]) for i in hard])
        faults = {hard[n]: _fault(problems[hard[n]], verdict) for n, verdict in verdicts}
        return [
            faults[i] if i in faults else gold_fault(p.answer, p.answer_type, p.options)
            for i, p in enumerate(problems)
        ]


def _item(problem: Problem) -> Item:
    return Item(
        gold=problem.answer,
        text="",
        answer_type=problem.answer_type.value,
        options=problem.options,
        is_gold_check=True,
    )


def _fault(problem: Problem, verdict: Verdict) -> str:
    if verdict.status.is_failure_to_judge:
        return unjudged(problem.answer, verdict.reason)
    return verdict.reason
