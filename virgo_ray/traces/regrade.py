"""Judges what is stored with the verifier of today, without sampling anything.

A regrade reads, judges (in killable processes, with deadline and memory limit as in a run) and says
what changes; `write` then replaces the changed verdicts in one step, all or none, and records it in
the ledger. The verdicts before stay in `old_verdicts` with their verifier's version, and the store
of before stays as a Lance version that the ledger names. What cannot be judged now keeps its
verdict. Changes wait in a file, so memory does not grow with the store.
"""

from __future__ import annotations

import queue
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from virgo_ray.config import VerifyConfig
from virgo_ray.errors import LedgerError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Status, Verdict
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.store.reader import BOTH, KEY, TraceReader
from virgo_ray.store.schema import SCHEMA, VERDICT_COLUMNS, replaced_verdict
from virgo_ray.traces.table import print_table
from virgo_ray.verify.item import VERIFIER_VERSION, Item
from virgo_ray.verify.process.killable import KillableJudge
from virgo_ray.verify.tally import VerdictTally

BATCH = 64
MAX_EXAMPLES = 10
JUDGED = ("gold", "text", "finish_reason", "gold_type", "options", "question")
# What makes a verdict another one; `milliseconds` does not.
MATTERS = tuple(name for name in VERDICT_COLUMNS if name != "milliseconds")
CHANGES = pa.schema([SCHEMA.field(name) for name in (*KEY, *VERDICT_COLUMNS, "old_verdicts")])


@dataclass
class Findings:
    """What a regrade found; `path` holds the changed rows."""

    path: Path
    num_rollouts: int = 0
    num_changed: int = 0
    num_kept: int = 0  # could not be judged now, and keep the verdict they have
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)
    rounds: dict[int, list[int]] = field(default_factory=dict)  # accepted before, after
    examples: list[tuple[object, ...]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {
            "verifier_version": VERIFIER_VERSION,
            "rollouts": self.num_rollouts,
            "changed": self.num_changed,
            "kept_because_not_judged": self.num_kept,
            "transitions": [
                {"from": a, "to": b, "rollouts": n} for (a, b), n in self.transitions.most_common()
            ],
            "accepted": {
                str(t): {"before": a, "after": b} for t, (a, b) in sorted(self.rounds.items())
            },
        }


@contextmanager
def regrade(reader: TraceReader, cfg: VerifyConfig, num_workers: int) -> Iterator[Findings]:
    """Judge everything; the findings hold until the block is left.

    Raises:
        VerifierError: too much could not be judged.
    """
    columns = [*KEY, *JUDGED, *VERDICT_COLUMNS]
    has_old = "old_verdicts" in reader.columns
    rows = (
        {"old_verdicts": "[]", **row}
        for batch in reader.scan([*columns, "old_verdicts"] if has_old else columns, which=BOTH)
        for row in batch.to_pylist()
    )
    tally = VerdictTally()
    with tempfile.TemporaryDirectory(prefix="virgo_ray_regrade_") as folder:
        found = Findings(Path(folder) / "changes.arrow")
        with pa.OSFile(str(found.path), "wb") as file, pa.ipc.new_stream(file, CHANGES) as spool:
            for pairs in judge_rows(rows, cfg, num_workers):
                for _, verdict in pairs:
                    tally.add(verdict)
                tally.check_failures(cfg.max_failure_share)
                changed = [change for pair in pairs if (change := _change(found, *pair))]
                if changed:
                    spool.write_table(pa.Table.from_pylist(changed, schema=CHANGES))
        yield found


def judge_rows(
    rows: Iterable[dict[str, Any]], cfg: VerifyConfig, num_workers: int
) -> Iterator[list[tuple[dict[str, Any], Verdict]]]:
    """Batches of (row, verdict) in the order of `rows`; at most two batches a worker are held.

    Every thread waits for its own judge, which has a deadline per item.
    """
    judges: queue.SimpleQueue[KillableJudge] = queue.SimpleQueue()
    made = [KillableJudge(cfg) for _ in range(num_workers)]
    for judge in made:
        judges.put(judge)

    def judged(batch: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Verdict]]:
        judge = judges.get_nowait()  # there are as many as threads
        try:
            verdicts = dict(judge.judge([_item(row) for row in batch]))
        finally:
            judges.put(judge)
        return [(row, verdicts[n]) for n, row in enumerate(batch)]

    waiting: deque[Future[list[tuple[dict[str, Any], Verdict]]]] = deque()
    source = iter(rows)
    with ThreadPoolExecutor(num_workers) as pool:  # deadline: as below
        try:
            while batch := list(islice(source, BATCH)):
                waiting.append(pool.submit(judged, batch))
                if len(waiting) > 2 * num_workers:
                    yield waiting.popleft().result()  # deadline: verify.deadline_s each
            while waiting:
                yield waiting.popleft().result()  # deadline: verify.deadline_s each
        finally:
            for future in waiting:
                future.cancel()
            pool.shutdown(wait=True)  # deadline: verify.deadline_s an item
            for judge in made:
                judge.close()


def _item(row: dict[str, Any]) -> Item:
    return Item(
        gold=row["gold"],
        text=row["text"],
        finish_reason=row["finish_reason"],
        answer_type=row["gold_type"],
        options=tuple(row["options"]),
        question=row["question"],
    )


def _change(found: Findings, row: dict[str, Any], verdict: Verdict) -> dict[str, Any] | None:
    """Count one rollout; the row to write if its verdict is another one now."""
    before = Status(row["status"])
    after = verdict.status
    found.num_rollouts += 1
    if after.is_failure_to_judge:
        found.num_kept += not before.is_failure_to_judge
        after = before
    accepted = found.rounds.setdefault(row["round"], [0, 0])
    accepted[0] += before is Status.CORRECT
    accepted[1] += after is Status.CORRECT
    new = {**row, **replaced_verdict(row, verdict)}
    if verdict.status.is_failure_to_judge or all(new[name] == row[name] for name in MATTERS):
        return None
    found.num_changed += 1
    if (before, row["answer"]) != (after, verdict.answer):
        found.transitions[before, after] += 1
        if len(found.examples) < MAX_EXAMPLES:
            key = f"{row['round']} {row['problem_id']} {row['sample_index']}"
            shown = f"{before}: {row['answer'][:30]}", f"{after}: {verdict.answer[:30]}"
            found.examples.append((key, row["gold"][:30], *shown))
    return {name: new[name] for name in CHANGES.names}


def refuse_half_explored(ledger: Ledger, reader: TraceReader) -> None:
    """The problems of a round that goes on were chosen by the verdicts of before.

    Raises:
        LedgerError: a round's exploration is unfinished.
    """
    unfinished = [t for t in reader.rounds() if not ledger.has_tally(t)]
    if unfinished:
        raise LedgerError(
            f"round {unfinished[0]} was sampled in part; expected no unfinished exploration, whose "
            "problems were chosen by today's verdicts: let the run finish it, then regrade"
        )


def write(buffer: ReplayBuffer, ledger: Ledger, found: Findings) -> int:
    """Replace the changed verdicts and record it; returns how many rows changed.

    Raises:
        TraceStoreError: the store refused; then nothing has changed.
    """
    before = buffer.version
    with pa.OSFile(str(found.path), "rb") as file, closing(pa.ipc.open_stream(file)) as changes:
        num = buffer.replace_verdicts(changes)
    ledger.commit_regraded(before, buffer.seal(), found.summary())
    return num


def print_findings(console: Console, found: Findings) -> None:
    rows = [(a, b, n) for (a, b), n in found.transitions.most_common()]
    print_table(console, "verdicts that differ", ["before", "now", "rollouts"], rows)
    accepted = [(f"round {t}", a, b) for t, (a, b) in sorted(found.rounds.items())]
    print_table(console, "accepted", ["", "before", "now"], accepted)
    if found.examples:
        columns = ["round, problem, sample", "gold", "before", "now"]
        print_table(console, f"the first {len(found.examples)}", columns, found.examples)
    console.print(
        f"{found.num_rollouts:,} rollouts judged by verifier {VERIFIER_VERSION}: "
        f"{found.num_changed:,} rows change, {found.transitions.total():,} of them in status or "
        f"answer; {found.num_kept:,} could not be judged now and keep their verdict"
    )
