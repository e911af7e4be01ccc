"""The replay buffer: every judged rollout of a run, in a Lance dataset of the run.

Guarantees: the key (round, problem id, sample index) is never twice; what was appended survives the
death of the process; a chunk is visible completely or not at all; memory does not grow with the
store (the keys of one round are held, the rest is streamed). One process writes: the driver, which
holds the run directory's lock. It knows nothing of why a trace is chosen.

Reads (`store/reader.py`) flush first, so they see everything that was added. Versions are Lance's:
they only grow, also when small files are merged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from virgo_ray.config import StoreConfig
from virgo_ray.errors import TraceStoreError
from virgo_ray.files import disk_errors
from virgo_ray.records import Judged, Problem, Request, Status
from virgo_ray.selection.measuring import Measuring
from virgo_ray.store.aside import remove_problems
from virgo_ray.store.dataset import (
    StoreLocation,
    locate_store,
    open_for_writing,
    refusals,
    refuse_vanished,
)
from virgo_ray.store.reader import BOTH, KEY, SAMPLES, TraceReader, lacks_measures
from virgo_ray.store.schema import MEASURED_BY, MEASURES, SCHEMA, to_row
from virgo_ray.store.sums import refuse_damaged, write_sums
from virgo_ray.store.upkeep import KEEP_FOR, remove_old_versions
from virgo_ray.store.writes import (
    append,
    merge_small_fragments,
    replace_columns,
    sync,
)

log = logging.getLogger(__name__)

CHUNK_ROWS = 64  # an append takes about 20 ms whatever its size
MEASURED_AT_ONCE = 4096
MEASURED = pa.schema([*(SCHEMA.field(name) for name in KEY), *MEASURES])
CHUNK_SECONDS = 2.0  # looked at when something is added; what a killed process may lose


class ReplayBuffer(TraceReader):
    """Appends judged rollouts and answers what selection, counting and resuming ask.

    Example: `buffer = ReplayBuffer.open(run_dir)`; `buffer.add(1, judged)`; `buffer.flush()`;
    `buffer.judged_counts([1])` gives `{"chain-3f": (3, 4)}`.
    """

    def __init__(
        self,
        dataset: lance.LanceDataset,
        location: StoreLocation,
        clock: Callable[[], float],
        measuring: Measuring | None,
    ) -> None:
        super().__init__(dataset, location)
        self._clock = clock
        self._measuring = measuring
        self._pending: list[dict[str, Any]] = []
        self._pending_since = 0.0
        self._round: int | None = None
        self._keys: set[tuple[str, int]] = set()
        self._synced: set[str] = set()

    @classmethod
    def open(  # type: ignore[override]
        cls,
        run_dir: Path | str,
        committed_version: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        store: StoreConfig | None = None,
        owner: str = "",
        measuring: Measuring | None = None,
    ) -> ReplayBuffer:
        """Create or open a run's store; an older schema is migrated.

        `committed_version` is what the ledger relies on, `owner` the run's id. With `measuring`,
        accepted texts are measured when they are stored, and those that lack these measures now.
        Without it they are measured by whoever asks for candidates.

        Raises:
            TraceStoreError: a newer schema, another run's, older than the ledger says, or damaged.
        """
        location = locate_store(run_dir, store or StoreConfig())
        dataset = open_for_writing(location, committed_version, owner)
        with refusals(location, "used"):
            refuse_damaged(dataset, location)
        buffer = cls(dataset, location, clock, measuring)
        buffer._measure_stored()
        return buffer

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
                "expected once; ask only for what `still_missing` yields"
            )
        if not self._pending:
            self._pending_since = self._clock()
        measures = self._measures(judged.rollout.text) if judged.verdict.is_correct else {}
        self._pending.append(to_row(round, judged) | measures)
        self._keys.add(key)
        is_late = self._clock() - self._pending_since >= CHUNK_SECONDS
        if len(self._pending) >= CHUNK_ROWS or is_late:
            self.flush()

    def add_all(self, round: int, judged: Iterable[Judged], num_expected: int) -> None:
        """Take them as they come.

        Raises:
            TraceStoreError: as `add`; or there were not `num_expected`.
        """
        num = 0
        for num, item in enumerate(judged, 1):  # noqa: B007
            self.add(round, item)
        if num != num_expected:
            raise TraceStoreError(
                f"{num_expected} rollouts were asked for in round {round} and {num} came back "
                "judged; what came is kept, run the same command again to ask for the rest"
            )

    def flush(self) -> None:
        """Make everything added so far durable.

        Raises:
            TraceStoreError: the file system refused; nothing of the chunk was written.
        """
        if not self._pending:
            return
        refuse_vanished(self._location)
        num, uri = len(self._pending), self._dataset.uri
        what = f"{num} judged rollouts could not be appended to {uri}"
        with disk_errors(TraceStoreError, what, "what was stored before is intact"):
            self._dataset = append(self._dataset, self._pending, self._location)
        self._pending = []
        self._merge()

    def seal(self) -> int:
        """Everything in few files, with checksums and on the disk: what a ledger may name."""
        self.flush()
        self._merge(at_least=2)
        with refusals(self._location, "synced"):
            sync(self._dataset, self._location, self._synced)
            write_sums(self._dataset, self._location)
        return self.version

    def clean(self, named: Iterable[int], older_than: timedelta = KEEP_FOR) -> int:
        """Remove old versions but never one of `named`; returns the bytes that became free."""
        with refusals(self._location, "cleaned"):
            return remove_old_versions(self._dataset, named, older_than)

    def replace_columns(self, changes: pa.RecordBatchReader) -> int:
        """Overwrite the columns in `changes` of the rows with the same keys, all or none.

        Returns the number of rows changed.
        """
        self.flush()
        with refusals(self._location, "changed"):
            self._dataset, num = replace_columns(self._dataset, list(KEY), changes, self._location)
        return num

    def _measures(self, text: str) -> dict[str, object]:
        if self._measuring is None:
            return {}
        return {MEASURED_BY: self._measuring.label, **self._measuring.measure(text)}

    def _measure_stored(self) -> None:
        """Take the measures that accepted rollouts lack, in pieces: a start that is killed
        meanwhile leaves the next one less to do."""
        if self._measuring is None:
            return
        which = f"{SAMPLES} AND {lacks_measures(self._measuring.label)}"
        num = sum(batch.num_rows for batch in self.scan(["round"], None, Status.CORRECT, which))
        if not num:
            return
        if num > MEASURED_AT_ONCE:  # it may take minutes
            log.warning(
                "measuring %d stored texts, once; a start that is stopped meanwhile goes on here",
                num,
            )
        batches = self.scan([*KEY, "text"], None, Status.CORRECT, which)
        rows = (
            {name: row[name] for name in KEY} | self._measures(row["text"])
            for batch in batches
            for row in batch.to_pylist()
        )
        while piece := list(islice(rows, MEASURED_AT_ONCE)):
            changes = pa.Table.from_pylist(piece, schema=MEASURED).to_reader()
            self.replace_columns(changes)

    def set_aside(self, problem_ids: Sequence[str]) -> int:
        """Take the rollouts about these problems out, probes too; returns how many there were.

        The version that holds them stays, under a tag `aside-N`, whatever is cleaned later.
        """
        self.flush()
        self._round = None
        with refusals(self._location, "changed"):
            return remove_problems(self._dataset, problem_ids)

    def _merge(self, **options: int) -> None:
        with refusals(self._location, "merged into fewer files"):
            merge_small_fragments(self._dataset, self._location, **options)

    # -- what a round still needs ----------------------------------------------------------------

    def still_missing(
        self, round: int, wanted: Iterable[tuple[Problem, int]], seed: int
    ) -> list[Request]:
        """A request for each of these (problem, sample index) that is not in the store yet.

        A request's seed depends on (seed, round, problem id, sample index) only.
        """
        self._enter(round)
        return [
            Request(problem, index, request_seed(seed, round, problem.id, index))
            for problem, index in wanted
            if (problem.id, index) not in self._keys
        ]

    def _enter(self, round: int) -> None:
        """Hold the keys of this round."""
        if round == self._round:
            return
        keys: set[tuple[str, int]] = set()
        for batch in self.scan(["problem_id", "sample_index"], [round], which=BOTH):
            columns = (batch[name].to_pylist() for name in ("problem_id", "sample_index"))
            keys.update(zip(*columns, strict=True))
        self._round, self._keys = round, keys

    def _batches(
        self, columns: list[str] | dict[str, str], condition: str, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        self.flush()
        yield from super()._batches(columns, condition, **options)


def request_seed(seed: int, round: int, problem_id: str, sample_index: int) -> int:
    """31 bits, the same in every process."""
    key = json.dumps([seed, round, problem_id, sample_index])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1
