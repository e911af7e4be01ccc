"""Rows of one version of a replay buffer: scanned in batches, or taken by their ids.

Memory does not grow with the store: long columns pass in small batches, and little is read ahead.
Nothing is changed. Knows rows and conditions, not what a rollout means.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import lance
import pyarrow as pa

from virgo_ray.model.blank import BLANK
from virgo_ray.records import Status
from virgo_ray.store.dataset import OWNER_KEY, StoreLocation, open_for_reading, refusals

BATCH_ROWS = 256  # of long texts, while streaming
SHORT_ROWS = 8192  # of columns that are short in every row
LONG = frozenset(("text", "token_ids", "question", "context", "old_verdicts", "logprobs"))
READ_AHEAD = 2  # batches and fragments; Lance's own default keeps GiBs in flight
IO_BYTES = 64 << 20
PROBES = f"ends_with(problem_id, '{BLANK}')"
SAMPLES = f"NOT {PROBES}"
BOTH = ""

Key = tuple[int, str, int]


class StoredRows:
    """One version of a store, and how its rows are read."""

    def __init__(self, dataset: lance.LanceDataset, location: StoreLocation) -> None:
        self._dataset = dataset
        self._location = location

    @classmethod
    def open(cls, location: StoreLocation) -> Self:
        """Raises TraceStoreError where there is no readable store."""
        return cls(open_for_reading(location), location)

    @property
    def version(self) -> int:
        """Of what is read, as Lance counts: it only grows."""
        return self._dataset.version

    def at(self, version: int) -> Self | None:
        """The store as it was at this version; None where that was removed since."""
        try:
            return type(self)(self._dataset.checkout_version(version), self._location)
        except (ValueError, OSError):
            return None

    @property
    def owner(self) -> str:
        """The id of the run that it belongs to; "" for nobody's."""
        return (self._dataset.schema.metadata or {}).get(OWNER_KEY.encode(), b"").decode()

    @property
    def columns(self) -> list[str]:
        """Those that are stored; an older schema has fewer."""
        return self._dataset.schema.names

    def scan(
        self,
        columns: Sequence[str] | Mapping[str, str],
        rounds: Iterable[int] | None = None,
        status: Status | None = None,
        which: str = SAMPLES,
    ) -> Iterator[pa.RecordBatch]:
        """Batches of SHORT_ROWS rows at most, or BATCH_ROWS where a LONG column is read.

        They are by default without probes; `rounds` None: of all. Columns that are computed are
        given as {name: SQL expression}.

        Raises:
            TraceStoreError: the store is damaged or out of reach.
        """
        conditions = [f"status = '{status}'"] if status else []
        conditions += [which] if which else []
        if rounds is not None:
            numbers = ", ".join(str(int(r)) for r in sorted(set(rounds)))
            if not numbers:
                return
            conditions.append(f"round IN ({numbers})")
        wanted = dict(columns) if isinstance(columns, Mapping) else list(columns)
        yield from self._batches(wanted, " AND ".join(conditions))

    def _batches(
        self, columns: list[str] | dict[str, str], condition: str, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        scanner = self._dataset.scanner(
            columns=columns,
            filter=condition or None,
            batch_size=BATCH_ROWS if _reads_long(columns) else SHORT_ROWS,
            batch_readahead=READ_AHEAD,
            fragment_readahead=READ_AHEAD,
            io_buffer_size=IO_BYTES,
            **options,
        )
        batches = scanner.to_batches()
        while True:  # the errors of reading only, not those of whoever takes the batches
            with refusals(self._location, f"read at version {self.version}"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def row_counts(self) -> dict[int, int]:
        """{round: how many rows it has}, probes included."""
        counts: Counter[int] = Counter()
        for batch in self.scan(["round"], which=BOTH):
            counts.update(batch["round"].to_pylist())
        return dict(counts)

    def keyed(self, round: int, columns: Sequence[str]) -> pa.Table:
        """These short columns of a round, its probes included, with their key and `_rowid`, by
        problem and sample.

        Raises:
            TraceStoreError: the store is damaged or out of reach.
        """
        wanted = [*dict.fromkeys(("problem_id", "sample_index", *columns))]
        present = [name for name in wanted if name in self.columns]
        batches = list(self._batches(present, f"round = {int(round)}", with_row_id=True))
        if not batches:
            return pa.table({name: [] for name in (*present, "_rowid")})
        order = [("problem_id", "ascending"), ("sample_index", "ascending")]
        return pa.Table.from_batches(batches).sort_by(order)

    def take(self, row_ids: Sequence[int], columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Rows by the `_rowid` that `keyed` gave them, in that order; of `columns` those that are
        stored.

        Raises:
            TraceStoreError: the store is damaged or out of reach.
        """
        return self._take(row_ids, [name for name in columns if name in self.columns])

    def find_text(self, words: str, most: int) -> Iterator[Key]:
        """The keys of at most `most` samples, not probes, whose text, question or answer holds
        `words`, in any case.

        Raises:
            TraceStoreError: the store is damaged or out of reach.
        """
        quoted = "'" + words.lower().replace("'", "''") + "'"
        places = ("text", "question", "gold", "answer")
        holds = " OR ".join(f"contains(lower({place}), {quoted})" for place in places)
        condition = f"{SAMPLES} AND ({holds})"
        for batch in self._batches(["round", "problem_id", "sample_index"], condition, limit=most):
            columns = (batch[name].to_pylist() for name in batch.schema.names)
            yield from zip(*columns, strict=True)

    def _take(self, row_ids: Sequence[int], columns: list[str]) -> Iterator[Mapping[str, Any]]:
        """Rows by their ids, in that order."""
        for start in range(0, len(row_ids), BATCH_ROWS):
            piece = list(row_ids[start : start + BATCH_ROWS])
            with refusals(self._location, f"read at version {self.version}"):
                rows = self._dataset._take_rows(piece, columns=columns)
            yield from rows.to_pylist()


def _reads_long(columns: Sequence[str] | Mapping[str, str]) -> bool:
    """Whether a long column is among these, or an expression names one."""
    expressions = columns.values() if isinstance(columns, Mapping) else columns
    return any(not LONG.isdisjoint(re.findall(r"\w+", text)) for text in expressions)
