"""Rows as they come from files, before anybody trusts them, and what became of each.

A row keeps its number (from 1), so that a report can name it. A `Reading` counts every row of one
source exactly once: used, bad (a fault), or left out as the config asks; nothing is dropped
silently. Knows nothing of what the fields mean.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from virgo_ray.config import PartConfig
from virgo_ray.config.escapes import find_control
from virgo_ray.config.places import is_in_ray_job
from virgo_ray.errors import DataError
from virgo_ray.stats.interleave import round_robin

Item = TypeVar("Item")
Record = TypeVar("Record")
MAX_SHOWN = 10
ASIDE = "fix or remove them, or set data.strict=false to put them in quarantine"


@dataclass(frozen=True)
class Row:
    """One record of a source; relative image paths are relative to `folder`.

    Without fields, `broken` says why it could not be read (of the kind `kind`), or `left_out` why
    it is not part of what was asked for. `note` says what an owner should know of a sound one.
    """

    number: int
    fields: Mapping[str, Any]
    folder: Path = Path()
    broken: str = ""
    kind: str = "unreadable"
    left_out: str = ""
    note: str = ""


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be used; faults are counted by `kind`."""

    row: int
    kind: str
    detail: str


class RowError(ValueError):
    """Raised while one row is read; becomes a Fault of that row."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


class LeftOutError(Exception):
    """Raised for a row that is sound but not part of what was asked for; counted by reason."""


@dataclass
class Reading(Generic[Record]):
    """What became of the rows of one source; `taken` holds (row number, record), `notes` counts
    what is no fault and yet worth a look."""

    where: str
    num_rows: int = 0
    taken: list[tuple[int, Record]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def records(self) -> list[Record]:
        return [record for _, record in self.taken]

    def put_aside(self, bad: Mapping[int, Fault]) -> None:
        """Move taken records to the faults; `bad` is keyed by the place in `taken`."""
        self.faults += [bad[i] for i in sorted(bad)]
        self.taken = [item for i, item in enumerate(self.taken) if i not in bad]

    def complaint(self, advice: str = ASIDE) -> str:
        """Counts by kind, what to do, and the first faults."""
        counts = Counter(f.kind for f in self.faults)
        summary = ", ".join(f"{n} x {kind}" for kind, n in counts.most_common())
        shown = [f"row {f.row}: {f.kind}: {f.detail}" for f in self.faults[:MAX_SHOWN]]
        more = len(self.faults) - MAX_SHOWN
        return (
            f"{len({f.row for f in self.faults})} of {self.num_rows} rows cannot be used "
            f"({summary}); {advice}:\n  "
            + "\n  ".join([*shown, *([f"... and {more} more"] if more > 0 else [])])
        )


def describe(source: PartConfig) -> str:
    """How messages name a source: "jsonl data/train.jsonl", "tiny split 'heldout'"."""
    return f"{source.reader} {source.path or f'split {source.split!r}'}"


def require_path(source: PartConfig, expected: str) -> Path:
    """Return the path of a source, which must be on this machine."""
    path = Path(source.path or "").expanduser().resolve()
    if not source.path or not path.exists():
        is_relative = source.path and not Path(source.path).is_absolute()
        looked = f" ({path}; relative to {_origin()})" if is_relative else ""
        raise DataError(
            f"reader {source.reader!r}: path={source.path!r} does not exist{looked}; expected "
            f"{expected}"
        )
    return path


def _origin() -> str:
    """Where relative paths are looked for."""
    if not is_in_ray_job():
        return "where the command runs"
    return (
        "the copy that this Ray job was given, so give an absolute path, or for the configs that "
        "come with virgo_ray set VIRGO_RAY_DATA"
    )


def parse_rows(
    rows: Iterable[Row], parse: Callable[[Row], Record], reading: Reading[Any]
) -> list[tuple[int, Record]]:
    """Parse every sound row, and keep its number; the others are counted in `reading`."""
    parsed = []
    last = None
    for row in rows:
        reading.num_rows += row.number != last  # one row may hold several questions
        last = row.number
        if row.left_out:
            reading.left_out[row.left_out] += 1
        elif row.broken:
            reading.faults.append(Fault(row.number, row.kind, row.broken))
        else:
            try:
                parsed.append((row.number, parse(row)))
                reading.notes.update([row.note] if row.note else [])
            except RowError as error:
                reading.faults.append(Fault(row.number, error.kind, error.detail))
    return parsed


def drop_repeated(
    numbered: Sequence[tuple[int, Record]], id_of: Callable[[Record], str], reading: Reading[Any]
) -> list[tuple[int, Record]]:
    """Keep the first record of every id; later ones become faults."""
    first: dict[str, int] = {}
    kept = []
    for number, record in numbered:
        id = id_of(record)
        if id in first:
            detail = f"{id!r} is also row {first[id]}"
            reading.faults.append(Fault(number, "duplicate id", detail))
        else:
            first[id] = number
            kept.append((number, record))
    return kept


def refuse_too_few(reading: Reading[Any], num: int | None) -> None:
    """
    Raises:
        DataError: nothing is left to use, or less than `num` asks for.
    """
    num_good = len(reading.taken)
    if reading.faults and num_good < (num or 1):
        advice = f"fix them: {num_good or 'none'} can be used, {num or 'at least 1'} are needed"
        raise DataError(f"{reading.where}: {reading.complaint(advice)}")
    left_out = "; ".join(f"{n} left out: {why}" for why, n in reading.left_out.most_common(5))
    left_out = f" ({left_out})" if left_out else ""
    if not reading.taken:
        raise DataError(
            f"{reading.where} holds no rows that can be used{left_out}; expected at least one: "
            "check `path` and `split`"
        )
    if num is not None and len(reading.taken) < num:
        raise DataError(
            f"{reading.where} holds {len(reading.taken)} usable rows{left_out}, num={num} are "
            "asked for; lower `num`, or set it to null for all"
        )


# -- fields ----------------------------------------------------------------------------------------


def text_field(row: Row, name: str) -> str:
    """A text, "" if absent; numbers are written out.

    Raises:
        RowError: the value is of another type.
    """
    return as_text(row.fields.get(name), name)


def required_text(row: Row, *names: str) -> str:
    """The first of these fields that is not empty."""
    for name in names:
        text = text_field(row, name)
        if text:
            return text
    raise RowError(
        f"empty {names[0]}",
        f"expected text in {' or '.join(map(repr, names))}; it has {', '.join(row.fields)[:200]}; "
        f"`fields: {{{names[0]}: NAME}}` maps another name",
    )


def as_text(value: Any, name: str) -> str:
    if value is None or value != value:  # None, or the NaN that tables put in empty cells
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError("wrong type", f"{name}={value!r:.60} is not a text")
    control = find_control(str(value))
    if control:
        raise RowError("control character", f"{name}={value!r:.60}: {control}")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:  # lone surrogates, which JSON can spell
        raise RowError("not Unicode", f"{name}={text!a:.60}: {error.reason}") from error
    return text


def content_id(*parts: str) -> str:
    """A short id made of content, the same in every process.

    >>> content_id("How many?", "2") == content_id("How many?", "2")
    True
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


# -- choosing --------------------------------------------------------------------------------------


def order_items(
    items: Sequence[Item],
    source: PartConfig,
    seed: int,
    strata: Callable[[Item], Sequence[Hashable]],
) -> list[Item]:
    """Put items into the order in which they are used: shuffled, in turn from every stratum.

    Without `source.num` it is the order of the file. `strata(item)` names nested groups, the
    outermost first. `seed` decides the shuffle, so the first items do not depend on `source.num`.
    """
    if source.num is None:
        return list(items)
    shuffled = list(items)
    random.Random(f"{seed}/take/{source.split}").shuffle(shuffled)
    return _take_turns([(tuple(strata(item)), item) for item in shuffled])


def _take_turns(named: Sequence[tuple[tuple[Hashable, ...], Item]]) -> list[Item]:
    """Round-robin over the outermost groups, each of them ordered the same way inside."""
    if not named or not named[0][0]:
        return [item for _, item in named]
    groups: dict[Hashable, list[tuple[tuple[Hashable, ...], Item]]] = {}
    for (first, *rest), item in named:
        groups.setdefault(first, []).append((tuple(rest), item))
    return list(round_robin([_take_turns(group) for group in groups.values()]))
