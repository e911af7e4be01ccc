"""Rows as they come from files, before anybody trusts them, and how bad ones are refused.

A row keeps its number (from 1), so that a report can name it. A source with any unusable row is
refused as a whole: nothing is dropped silently. Knows nothing of what the fields mean.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from virgo_ray.config import SourceConfig
from virgo_ray.errors import DataError

Item = TypeVar("Item")
Record = TypeVar("Record")
MAX_SHOWN = 10


@dataclass(frozen=True)
class Row:
    """One record of a source; relative image paths are relative to `folder`.

    `broken` says why there are no fields where a line could not be read at all.
    """

    number: int
    fields: Mapping[str, Any]
    folder: Path = Path()
    broken: str = ""


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


def describe(source: SourceConfig) -> str:
    """How messages name a source: "jsonl data/train.jsonl", "tiny split 'heldout'"."""
    return f"{source.reader} {source.path or f'split {source.split!r}'}"


def parse_rows(
    rows: Iterable[Row], parse: Callable[[Row], Record], where: str
) -> list[tuple[int, Record]]:
    """Every row parsed, with its number.

    Raises:
        DataError: some rows cannot be used, or there are none.
    """
    parsed, faults = [], []
    for row in rows:
        if row.broken:
            faults.append(Fault(row.number, "unreadable", row.broken))
            continue
        try:
            parsed.append((row.number, parse(row)))
        except RowError as error:
            faults.append(Fault(row.number, error.kind, error.detail))
    refuse(faults, len(parsed) + len(faults), where)
    if not parsed:
        raise DataError(f"{where} holds no rows; expected at least one: check `path` and `split`")
    return parsed


def refuse(faults: Sequence[Fault], num_rows: int, where: str) -> None:
    """Raise DataError with counts by kind and the first faults, if there are any."""
    if not faults:
        return
    counts = Counter(f.kind for f in faults)
    summary = ", ".join(f"{n} x {kind}" for kind, n in counts.most_common())
    shown = [f"row {f.row}: {f.kind}: {f.detail}" for f in faults[:MAX_SHOWN]]
    more = [f"... and {len(faults) - MAX_SHOWN} more"] if len(faults) > MAX_SHOWN else []
    raise DataError(
        f"{where}: {len({f.row for f in faults})} of {num_rows} rows cannot be used ({summary}); "
        "fix or remove them:\n  " + "\n  ".join([*shown, *more])
    )


def refuse_repeated(numbered: Iterable[tuple[int, str]], num_rows: int, where: str) -> None:
    """Refuse ids that occur twice; `numbered` holds (row number, id)."""
    first: dict[str, int] = {}
    faults = []
    for number, id in numbered:
        if id in first:
            faults.append(Fault(number, "duplicate id", f"{id!r} is also row {first[id]}"))
        first.setdefault(id, number)
    refuse(faults, num_rows, where)


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
    raise RowError(f"empty {names[0]}", f"expected text in {' or '.join(map(repr, names))}")


def as_text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError("wrong type", f"{name}={value!r:.60} is not a text")
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


def take(
    items: Sequence[Item],
    source: SourceConfig,
    seed: int,
    strata: Callable[[Item], Sequence[Hashable]],
) -> list[Item]:
    """`source.num` items chosen by the seed, in turn from every stratum; all of them without `num`.

    `strata(item)` names nested groups, the outermost first. A larger `num` extends the choice.

    Raises:
        DataError: there are fewer than `source.num`.
    """
    if source.num is None:
        return list(items)
    if source.num > len(items):
        raise DataError(
            f"{describe(source)} holds {len(items)} usable rows, num={source.num} are asked for; "
            "lower `num` or leave it out"
        )
    shuffled = list(items)
    random.Random(f"{seed}/take/{source.split}").shuffle(shuffled)
    return _in_turn([(tuple(strata(item)), item) for item in shuffled])[: source.num]


def _in_turn(named: Sequence[tuple[tuple[Hashable, ...], Item]]) -> list[Item]:
    """Round-robin over the outermost groups, each of them ordered the same way inside."""
    if not named or not named[0][0]:
        return [item for _, item in named]
    groups: dict[Hashable, list[tuple[tuple[Hashable, ...], Item]]] = {}
    for (first, *rest), item in named:
        groups.setdefault(first, []).append((tuple(rest), item))
    return list(round_robin([_in_turn(group) for group in groups.values()]))


def round_robin(groups: Sequence[Sequence[Item]]) -> Iterator[Item]:
    """One of each group, then the next of each; groups that are used up are passed over.

    >>> list(round_robin(["abc", "x", "12"]))
    ['a', 'x', '1', 'b', '2', 'c']
    """
    for index in range(max(map(len, groups), default=0)):
        for group in groups:
            if index < len(group):
                yield group[index]
