"""The replay buffer: every judged rollout of a run, in a Lance dataset inside the run directory.

Guarantees: the key (round, problem id, sample index) is never twice; what was appended survives the
death of the process; a chunk is visible completely or not at all; memory does not grow with the
store (the keys of one round are held, the rest is streamed). One process writes: the driver, which
holds the run directory's lock. It knows nothing of why a trace is chosen.

Reads flush first, so they see everything that was added. Versions are Lance's: they only grow, also
when small files are merged.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from virgo_ray.config import FORMATS, Format
from virgo_ray.data.trace_schema import (
    SCHEMA,
    SCHEMA_KEY,
    SCHEMA_VERSION,
    to_judged,
    to_opinions,
    to_row,
)
from virgo_ray.errors import TraceStoreError
from virgo_ray.records import Judged, Opinion, Problem, Request, Status, Trace
from virgo_ray.selection import Candidate, fingerprint, is_complete, num_reflections
from virgo_ray.tally import Outcome

CHUNK_ROWS = 64  # an append takes about 20 ms whatever its size
CHUNK_SECONDS = 2.0  # looked at when something is added; what a killed process may lose
SMALL_FRAGMENT_ROWS = 1024
MAX_SMALL_FRAGMENTS = 64  # then they are merged: every version lists all fragments
BATCH_ROWS = 1024  # of long texts, while streaming


class ReplayBuffer:
    """Appends judged rollouts and answers what selection, counting and resuming ask.

    Example: `buffer = ReplayBuffer.open(run_dir)`; `buffer.add(1, judged)`; `buffer.flush()`;
    `buffer.judged_counts([1])` gives `{"chain-3f": (3, 4)}`.
    """

    def __init__(self, dataset: lance.LanceDataset, clock: Callable[[], float]) -> None:
        self._dataset = dataset
        self._clock = clock
        self._pending: list[dict[str, Any]] = []
        self._pending_since = 0.0
        self._round: int | None = None
        self._keys: set[tuple[str, int]] = set()

    @classmethod
    def open(
        cls,
        run_dir: Path | str,
        committed_version: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> ReplayBuffer:
        """Create or open `buffer.lance`; `committed_version` is what the ledger relies on.

        Raises:
            TraceStoreError: another schema, or older than the ledger says.
        """
        path = Path(run_dir) / "buffer.lance"
        if (path / "_versions").exists():
            dataset = lance.dataset(str(path))
        else:
            dataset = lance.write_dataset(SCHEMA.empty_table(), str(path))
        _check_schema(dataset, path)
        if committed_version is not None and dataset.version < committed_version:
            raise TraceStoreError(
                f"{path} is at version {dataset.version}, the ledger relies on "
                f"{committed_version}; restore the directory from a copy, or start anew with "
                "run_dir=PATH"
            )
        return cls(dataset, clock)

    @property
    def version(self) -> int:
        """Of what is durable; grows with every append."""
        return self._dataset.version

    # -- writing ---------------------------------------------------------------------------------

    def add(self, round: int, judged: Judged) -> None:
        """Take one judged rollout; it is durable once its chunk is full, or after `flush`.

        Raises:
            TraceStoreError: its key is in the store already.
        """
        self._enter(round)
        key = judged.rollout.key
        if key in self._keys:
            raise TraceStoreError(
                f"(round, problem, sample) = {(round, *key)} is in the replay buffer already, "
                "expected once; ask only for what `missing` yields"
            )
        if not self._pending:
            self._pending_since = self._clock()
        self._pending.append(to_row(round, judged))
        self._keys.add(key)
        is_late = self._clock() - self._pending_since >= CHUNK_SECONDS
        if len(self._pending) >= CHUNK_ROWS or is_late:
            self.flush()

    def flush(self) -> None:
        """Make everything added so far durable.

        Raises:
            TraceStoreError: the file system refused; nothing of the chunk was written.
        """
        if not self._pending:
            return
        table = pa.Table.from_pylist(self._pending, schema=SCHEMA)
        try:
            self._dataset = lance.write_dataset(table, self._dataset, mode="append")
        except OSError as error:
            raise TraceStoreError(
                f"{len(self._pending)} judged rollouts could not be appended to "
                f"{self._dataset.uri}: {error}; free space or check the file system, then run the "
                "same command again"
            ) from error
        self._pending = []
        self._merge_small_fragments()

    def restore(self, version: int) -> None:
        """Go back to a committed version: what was added after it is dropped, as a new version.

        Raises:
            TraceStoreError: there is no such version.
        """
        try:
            old = self._dataset.checkout_version(version)
        except (ValueError, OSError) as error:
            raise TraceStoreError(
                f"{self._dataset.uri} has no version {version} (newest is {self.version}): {error}"
            ) from error
        old.restore()
        self._dataset = lance.dataset(self._dataset.uri)
        self._pending = []
        self._round, self._keys = None, set()

    def _merge_small_fragments(self) -> None:
        fragments = self._dataset.get_fragments()
        small = [f for f in fragments if f.metadata.physical_rows < SMALL_FRAGMENT_ROWS]
        if len(small) >= MAX_SMALL_FRAGMENTS:
            rows = CHUNK_ROWS * MAX_SMALL_FRAGMENTS
            self._dataset.optimize.compact_files(target_rows_per_fragment=rows)

    # -- what a round still needs ----------------------------------------------------------------

    def missing(
        self, round: int, problems: Sequence[Problem], num_samples: int, seed: int
    ) -> list[Request]:
        """A request for every (problem, sample index) that is not in the store yet.

        A request's seed depends on (seed, round, problem id, sample index) only.
        """
        self._enter(round)
        return [
            Request(problem, index, request_seed(seed, round, problem.id, index))
            for problem in problems
            for index in range(num_samples)
            if (problem.id, index) not in self._keys
        ]

    def _enter(self, round: int) -> None:
        """Hold the keys of this round."""
        if round == self._round:
            return
        batches = self._scan([round], ["problem_id", "sample_index"])
        self._keys = {(r["problem_id"], r["sample_index"]) for b in batches for r in b.to_pylist()}
        self._round = round

    # -- reading ---------------------------------------------------------------------------------

    def rows(self, round: int) -> Iterator[Outcome]:
        """The outcomes of a round, for counting."""
        columns = ["problem_id", "sample_index", "source", "status", "num_tokens", "opinions"]
        for batch in self._scan([round], columns):
            for row in batch.to_pylist():
                said = {name: s.opinion for name, s in to_opinions(row["opinions"]).items()}
                yield Outcome(**{**row, "status": Status(row["status"]), "opinions": said})

    def judged(self, rounds: Iterable[int]) -> Iterator[Judged]:
        """Everything that was stored of these rounds, as it was added."""
        for batch in self._scan(rounds, SCHEMA.names):
            yield from map(to_judged, batch.to_pylist())

    def examples(self, round: int, num_per_status: int) -> list[Judged]:
        """The first few of every status that this round had, in the order of their keys."""
        chosen: dict[Status, list[tuple[str, int]]] = defaultdict(list)
        for outcome in sorted(self.rows(round), key=lambda o: (o.problem_id, o.sample_index)):
            if len(chosen[outcome.status]) < num_per_status:
                chosen[outcome.status].append((outcome.problem_id, outcome.sample_index))
        return [judged for keys in chosen.values() for judged in self.read(round, keys)]

    def read(self, round: int, keys: Iterable[tuple[str, int]]) -> list[Judged]:
        """What is stored under these (problem id, sample index) keys of a round, in key order."""
        self.flush()
        found = []
        for problem_id, sample_index in keys:
            quoted = problem_id.replace("'", "''")
            condition = (
                f"round = {int(round)} AND sample_index = {int(sample_index)} "
                f"AND problem_id = '{quoted}'"
            )
            found += self._dataset.to_table(filter=condition).to_pylist()
        return [to_judged(row) for row in found]

    def solved(self, round: int) -> frozenset[str]:
        """Ids of problems with at least one correct rollout in this round."""
        return frozenset(o.problem_id for o in self.rows(round) if o.status is Status.CORRECT)

    def judged_counts(self, rounds: Iterable[int]) -> dict[str, tuple[int, int]]:
        """{problem id: (correct, judged)} over these rounds; failures to judge are in neither."""
        counts: dict[str, tuple[int, int]] = {}
        for (_, id), (correct, judged) in self._counts(rounds).items():
            before = counts.get(id, (0, 0))
            counts[id] = (before[0] + correct, before[1] + judged)
        return counts

    def _counts(self, rounds: Iterable[int]) -> dict[tuple[int, str], tuple[int, int]]:
        counts: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
        for batch in self._scan(rounds, ["round", "problem_id", "status"]):
            for row in batch.to_pylist():
                status = Status(row["status"])
                count = counts[row["round"], row["problem_id"]]
                count[0] += status is Status.CORRECT
                count[1] += not status.is_failure_to_judge
        return {key: (correct, judged) for key, (correct, judged) in counts.items() if judged}

    def candidates(
        self, rounds: Iterable[int], formats: Sequence[Format] = FORMATS
    ) -> list[Candidate]:
        """The correct rollouts of these rounds, described, without their text."""
        wanted = list(rounds)
        counts = self._counts(wanted)
        columns = [
            "round", "problem_id", "sample_index", "source", "num_tokens", "guess_chance", "text",
            "opinions",
        ]  # fmt: skip
        return [
            _candidate(row, *counts[row["round"], row["problem_id"]], formats)
            for batch in self._scan(wanted, columns, Status.CORRECT)
            for row in batch.to_pylist()
        ]

    def traces(self, chosen: Sequence[Candidate], problems: Sequence[Problem]) -> list[Trace]:
        """The chosen candidates with their text and sampled ids, in the order of `chosen`.

        Raises:
            TraceStoreError: a candidate is not in the store, or its problem not in `problems`.
        """
        by_id = {p.id: p for p in problems}
        wanted = {c.key for c in chosen}
        columns = ["round", "problem_id", "sample_index", "text", "token_ids", "weights_version"]
        found: dict[tuple[int, str, int], Trace] = {}
        for batch in self._scan({c.round for c in chosen}, columns, Status.CORRECT):
            for index, key in enumerate(_keys(batch)):
                if key in wanted and key[1] in by_id:
                    (row,) = batch.slice(index, 1).to_pylist()
                    found[key] = _trace(row, by_id[key[1]])
        lost = sorted(wanted - found.keys())
        if lost:
            raise TraceStoreError(
                f"{len(lost)} selected traces cannot be read, the first is (round, problem, "
                f"sample) = {lost[0]}: expected its row in {self._dataset.uri} and its problem in "
                "data.train; use the data the run was made with"
            )
        return [found[c.key] for c in chosen]

    def _scan(
        self, rounds: Iterable[int], columns: list[str], status: Status | None = None
    ) -> Iterator[pa.RecordBatch]:
        self.flush()
        numbers = ", ".join(str(int(r)) for r in sorted(set(rounds)))
        if not numbers:
            return
        condition = f"round IN ({numbers})" + (f" AND status = '{status}'" if status else "")
        scanner = self._dataset.scanner(columns=columns, filter=condition, batch_size=BATCH_ROWS)
        yield from scanner.to_batches()


def request_seed(seed: int, round: int, problem_id: str, sample_index: int) -> int:
    """31 bits, the same in every process."""
    key = json.dumps([seed, round, problem_id, sample_index])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


# -- rows ------------------------------------------------------------------------------------------


def _candidate(
    row: dict[str, Any], num_correct: int, num_judged: int, formats: Sequence[Format]
) -> Candidate:
    text, opinions = row.pop("text"), to_opinions(row.pop("opinions"))
    return Candidate(
        **row,
        num_correct=num_correct,
        num_judged=num_judged,
        num_reflections=num_reflections(text),
        fingerprint=fingerprint(text),
        is_complete=is_complete(text, formats),
        is_doubted=any(second.opinion is Opinion.DOUBTS for second in opinions.values()),
    )


def _trace(row: dict[str, Any], problem: Problem) -> Trace:
    return Trace(
        problem=problem,
        round=row["round"],
        sample_index=row["sample_index"],
        text=row["text"],
        token_ids=tuple(row["token_ids"]),
        weights_version=row["weights_version"],
    )


def _keys(batch: pa.RecordBatch) -> Iterator[tuple[int, str, int]]:
    columns = (batch[name].to_pylist() for name in ("round", "problem_id", "sample_index"))
    return zip(*columns, strict=True)


def _check_schema(dataset: lance.LanceDataset, path: Path) -> None:
    found = (dataset.schema.metadata or {}).get(SCHEMA_KEY, b"none")
    if found != SCHEMA_VERSION or dataset.schema.names != SCHEMA.names:
        raise TraceStoreError(
            f"{path} has schema {found.decode()!r} with columns {dataset.schema.names}; this "
            f"version reads {SCHEMA_VERSION.decode()!r} with {SCHEMA.names}: use the version of "
            "virgo_ray that made it, or another run_dir"
        )
