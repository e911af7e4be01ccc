"""The hostile corpus: everything is judged in time, nothing passes, and nothing grows."""

from __future__ import annotations

from pathlib import Path

import psutil

from virgo_ray.config import VerifyConfig
from virgo_ray.verify.__main__ import read_items
from virgo_ray.verify.process.killable import WALL_FACTOR, KillableJudge

CORPUS = Path(__file__).parent / "hostile.jsonl"
MIB = 1 << 20


def test_hostile_answers_are_judged_in_time_and_none_is_correct() -> None:
    items = read_items(CORPUS)
    assert len(items) >= 200
    cfg = VerifyConfig(deadline_s=2.0, memory_mib=512)
    judge = KillableJudge(cfg)
    here = psutil.Process()
    before = here.memory_info().rss
    try:
        verdicts = dict(judge.judge(items))
        children = sum(p.memory_info().rss for p in here.children(recursive=True))
    finally:
        judge.close()
    assert sorted(verdicts) == list(range(len(items)))
    assert [items[i].text[:80] for i, v in verdicts.items() if v.is_correct] == []
    longest_s = WALL_FACTOR * cfg.deadline_s + 0.5  # the deadline itself counts CPU time
    late = [v for v in verdicts.values() if v.milliseconds > 1000 * longest_s]
    assert late == []
    assert here.memory_info().rss - before < 64 * MIB
    assert children < 512 * MIB  # only the process that makes judges and an idle one are left
