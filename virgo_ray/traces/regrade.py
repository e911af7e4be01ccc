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
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from virgo_ray.config import VerifyConfig
from virgo_ray.endpoint.stream import NoAnswerError, stream_answers
from virgo_ray.errors import LedgerError, VerifierError
from virgo_ray.ledger.ledger import Ledger
from virgo_ray.records import Status, Verdict
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.store.reader import TraceReader
from virgo_ray.store.rows import BOTH
from virgo_ray.store.schema import (
    KEY,
    SCHEMA,
    VERDICT_COLUMNS,
    replace_verdict,
    to_verdict,
    verdict_fields,
)
from virgo_ray.traces.table import describe_transitions, print_table, sort_transitions
from virgo_ray.verify.item import VERIFIER_VERSION, Item
from virgo_ray.verify.process.killable import KillableJudge
from virgo_ray.verify.tally import VerdictTally

BATCH = 64
START_GRACE_S = 120.0  # for a judge's process to start
MAX_DEADLINES = 30  # a busy machine stretches `verify.deadline_s` of an item, and it may be retried
MAX_EXAMPLES = 10
JUDGED = ("gold", "text", "finish_reason", "gold_type", "options", "question")
CHANGES = pa.schema([SCHEMA.field(name) for name in (*KEY, *VERDICT_COLUMNS, "old_verdicts")])


@dataclass(frozen=True)
class Stored:
    """What a regrade needs of a stored rollout; `old_verdicts` is the column as it is."""

    key: tuple[int, str, int]  # round, problem id, sample index
    item: Item
    verdict: Verdict
    old_verdicts: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Stored:
        item = Item(
            gold=row["gold"],
            text=row["text"],
            finish_reason=row["finish_reason"],
            answer_type=row["gold_type"],
            options=tuple(row["options"]),
            question=row["question"],
        )
        key = (row["round"], row["problem_id"], row["sample_index"])
        return cls(key, item, to_verdict(row), row.get("old_verdicts", "[]"))


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

    def summary(self) -> dict[str, object]:
        return {
            "verifier_version": VERIFIER_VERSION,
            "rollouts": self.num_rollouts,
            "changed": self.num_changed,
            "kept_because_not_judged": self.num_kept,
            "transitions": describe_transitions(sort_transitions(self.transitions)),
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
    if "old_verdicts" in reader.columns:
        columns.append("old_verdicts")
    rows = (
        Stored.of(row) for batch in reader.scan(columns, which=BOTH) for row in batch.to_pylist()
    )
    tally = VerdictTally()
    with tempfile.TemporaryDirectory(prefix="virgo_ray_regrade_") as folder:
        found = Findings(Path(folder) / "changes.arrow")
        with pa.OSFile(str(found.path), "wb") as file, pa.ipc.new_stream(file, CHANGES) as spool:
            for pairs in judge_stored(rows, cfg, num_workers):
                for _, verdict in pairs:
                    tally.add(verdict)
                tally.check_failures(cfg.max_failure_share)
                changed = [change for pair in pairs if (change := _change(found, *pair))]
                if changed:
                    spool.write_table(pa.Table.from_pylist(changed, schema=CHANGES))
        yield found


def judge_stored(
    rows: Iterable[Stored], cfg: VerifyConfig, num_workers: int
) -> Iterator[list[tuple[Stored, Verdict]]]:
    """Batches of (row, verdict), in the order they finish; at most two batches a worker are held.

    Every thread of the stream has a judge of its own, which has a deadline per item.

    Raises:
        VerifierError: no batch ended, though every item has a deadline.
    """
    longest_s = START_GRACE_S + MAX_DEADLINES * cfg.deadline_s * BATCH
    judges: queue.SimpleQueue[KillableJudge] = queue.SimpleQueue()
    for _ in range(num_workers):
        judges.put(KillableJudge(cfg))

    def judge_batch(batch: list[Stored]) -> list[tuple[Stored, Verdict]]:
        judge = judges.get_nowait()  # there are as many as threads
        try:
            verdicts = dict(judge.judge([row.item for row in batch]))
        finally:
            judges.put(judge)
        return [(row, verdicts[n]) for n, row in enumerate(batch)]

    try:
        yield from stream_answers(
            judge_batch, _batches(rows), num_workers, longest_s, num_held=2 * num_workers
        )
    except NoAnswerError as error:
        raise VerifierError(
            f"the verifier does not answer: {error}; look at the machine"
        ) from error
    finally:
        for _ in range(num_workers):
            judges.get(timeout=longest_s).close()  # a thread may still be judging with it


def _batches(rows: Iterable[Stored]) -> Iterator[list[Stored]]:
    source = iter(rows)
    while batch := list(islice(source, BATCH)):
        yield batch


def _change(found: Findings, row: Stored, verdict: Verdict) -> dict[str, object] | None:
    """Count one rollout; the columns to write if its verdict is another one now."""
    before, after = row.verdict.status, verdict.status
    is_kept = after.is_failure_to_judge
    if is_kept:
        found.num_kept += not before.is_failure_to_judge
        after = before
    found.num_rollouts += 1
    accepted = found.rounds.setdefault(row.key[0], [0, 0])
    accepted[0] += before is Status.CORRECT
    accepted[1] += after is Status.CORRECT
    # How long it took makes no verdict another one.
    if is_kept or verdict_fields(row.verdict) == verdict_fields(verdict) | {
        "milliseconds": row.verdict.milliseconds
    }:
        return None
    found.num_changed += 1
    if (before, row.verdict.answer) != (after, verdict.answer):
        found.transitions[before, after] += 1
        if len(found.examples) < MAX_EXAMPLES:
            shown = [f"{v.status}: {v.answer[:30]}" for v in (row.verdict, verdict)]
            found.examples.append((" ".join(map(str, row.key)), row.item.gold[:30], *shown))
    return dict(zip(KEY, row.key, strict=True)) | replace_verdict(
        row.verdict, verdict, row.old_verdicts
    )


def refuse_half_explored(ledger: Ledger, reader: TraceReader) -> None:
    """The problems of a round that goes on were chosen by the verdicts of before.

    Raises:
        LedgerError: a round's exploration is unfinished, and an earlier version, which did not keep
            what it asks, began it.
    """
    own = [t for t in reader.rounds() if t >= 0]
    unfinished = [t for t in own if not ledger.has_tally(t) and not ledger.begun(t)]
    if unfinished:
        raise LedgerError(
            f"round {unfinished[0]} was sampled in part; expected no unfinished exploration, whose "
            "problems were chosen by today's verdicts: let the run finish it, then regrade"
        )


def refuse_unwritten(ledger: Ledger) -> None:
    """Weights that are not written are trained again on the verdicts of before.

    Raises:
        LedgerError: the run needs such weights.
    """
    needed = {ledger.newest.weights, ledger.weights, ledger.asked_weights or ledger.base}
    if lost := sorted({version for w in needed for _, _, version in ledger.find_lost(w)}):
        raise LedgerError(
            f"{', '.join(f'v{v:04d}' for v in lost)} have no tensors yet (weights.publish_every) "
            "and would be trained again on other verdicts; expected weights that are written: "
            "start the run, which writes them first, let it end or interrupt it, then regrade"
        )


def write(buffer: ReplayBuffer, ledger: Ledger, found: Findings) -> int:
    """Replace the changed verdicts and record it; returns how many rows changed.

    Raises:
        TraceStoreError: the store refused; then nothing has changed.
    """
    before = buffer.version
    with pa.OSFile(str(found.path), "rb") as file, closing(pa.ipc.open_stream(file)) as changes:
        num = buffer.replace_columns(changes)
    ledger.commit_regraded(before, buffer.seal(), found.summary())
    return num


def print_findings(console: Console, found: Findings) -> None:
    rows = sort_transitions(found.transitions)
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
