"""The rollouts of one round as data files: short columns of all of them, and their texts by page.

The columns let the page filter and count; a text is loaded only when somebody reads it. Rows stand
in the order of problems and samples, and a problem's rows lie in one page unless they are many. A
round that was not finished in time is gone on with by the next writing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from virgo_ray.config import ObjectiveConfig
from virgo_ray.model.blank import BLANK
from virgo_ray.records import Status
from virgo_ray.report.pages import Folder
from virgo_ray.report.pictures import picture_name, write_picture
from virgo_ray.selection.rewards import find_reward
from virgo_ray.store.reader import TraceReader

STATUSES = [str(status) for status in Status]
OPINIONS = ["", "agrees", "unknown", "doubts"]  # the worst of several counts
CHUNK_ROWS = 50_000  # of columns in one file
PAGE_BYTES = 256 << 10  # a page ends with the problem that reaches this
PAGE_ROWS = 96
PAGE_MOST_BYTES = 1 << 20  # or here, also between two samples of a problem
SHORT = ("source", "status", "num_tokens", "opinions")
TEXTS = (
    "problem_id", "sample_index", "source", "question", "context", "options", "gold", "gold_type",
    "images", "image_hash", "text", "status", "answer", "rule", "reason", "opinions",
    "old_verdicts", "finish_reason", "num_tokens", "weights_version", "seconds", "sampling",
    "verifier_version", "guess_chance",
)  # fmt: skip
PROBLEM = ("source", "question", "context", "options", "gold", "gold_type")


@dataclass
class Deadline:
    """When a writing has to come to an end; never for None."""

    at: float | None = None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        return cls(None if seconds is None else time.monotonic() + seconds)

    @property
    def is_over(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at


@dataclass
class _Page:
    """Rows that go into one file."""

    first: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_bytes: int = 0


def write_round(
    folder: Folder,
    reader: TraceReader,
    round: int,
    before: Mapping[str, Any],
    deadline: Deadline,
    objective: ObjectiveConfig | None = None,
) -> dict[str, Any]:
    """Write the columns of a round and those of its texts that are not written yet.

    `before` is what the last call returned for the same rows; {} writes all, into a new folder.
    Returns what the page must know of the round: `folder` is its place, such as `r3-1`, `pages` are
    the first rows of the text pages, `written` of `rows` have their texts, `has_pictures` once all
    pictures were copied.

    Raises:
        TraceStoreError: the store cannot be read.
        DiskError: the file system refused.
    """
    table, blank = _without_probes(reader.keyed(round, SHORT))
    known: dict[str, Any] = dict(before)
    if not known:
        rewards = _rewards(reader, round, objective)
        known = write_columns(folder, folder.new_name(f"r{round}"), table, blank, rewards)
    if known["written"] < known["rows"]:
        _write_texts(folder, reader, table, known, deadline)
    if known["written"] == known["rows"] and not known["has_pictures"]:
        known["has_pictures"] = _copy_pictures(folder, reader, table, deadline)
    return known


def _without_probes(table: pa.Table) -> tuple[pa.Table, dict[str, bool]]:
    """The samples alone, and {problem: whether it was solved with its pictures blanked}."""
    ids = table["problem_id"].to_pylist()
    if not any(id.endswith(BLANK) for id in ids):
        return table, {}
    statuses = table["status"].to_pylist()
    blank = {
        id.removesuffix(BLANK): status == Status.CORRECT
        for id, status in zip(ids, statuses, strict=True)
        if id.endswith(BLANK)
    }
    return table.filter(pa.array([not id.endswith(BLANK) for id in ids])), blank


def _rewards(
    reader: TraceReader, round: int, objective: ObjectiveConfig | None
) -> dict[tuple[str, int], float | None]:
    """What each rollout is worth to reinforcement; {} where that is not how the run learns."""
    if objective is None or not objective.is_reinforcement or round < 1:
        return {}
    return {
        (id, m.sample_index): find_reward(m, objective.rewards)
        for id, members in reader.groups(round).items()
        for m in members
    }


def write_columns(
    folder: Folder,
    name: str,
    table: pa.Table,
    blank: Mapping[str, bool],
    rewards: Mapping[tuple[str, int], float | None],
) -> dict[str, Any]:
    """Write the columns of all samples in `table` into the data folder of this name; returns what
    `write_round` begins with.

    Raises:
        DiskError: the file system refused.
    """
    ids, samples = table["problem_id"].to_pylist(), table["sample_index"].to_pylist()
    columns: dict[str, list[Any]] = {
        "sample": samples,
        "status": [STATUSES.index(status) for status in table["status"].to_pylist()],
        "tokens": table["num_tokens"].to_pylist(),
    }
    if "opinions" in table.column_names:
        columns["opinion"] = [_worst_opinion(text) for text in table["opinions"].to_pylist()]
    if rewards:
        columns["reward"] = [rewards.get(key) for key in zip(ids, samples, strict=True)]
    for number, start in enumerate(range(0, len(ids), CHUNK_ROWS)):
        chunk = {key: values[start : start + CHUNK_ROWS] for key, values in columns.items()}
        folder.put(f"{name}/rows-{number}", {"first": start, **chunk})
    problems = _problems(ids, table["source"].to_pylist(), columns["status"], blank)
    folder.put(f"{name}/problems", problems)
    return {
        "folder": name,
        "rows": len(ids),
        "problems": len(problems["id"]),
        "chunks": -(-len(ids) // CHUNK_ROWS),
        "pages": [],
        "written": 0,
        "has_pictures": False,
        "bins": _pass_rate_bins(problems),
    }


def _problems(
    ids: list[str], sources: list[str], statuses: list[int], blank: Mapping[str, bool]
) -> dict[str, Any]:
    """Columns over the problems of a round; `first` are their first rows."""
    names = sorted(set(sources))
    found: dict[str, list[Any]] = {
        name: [] for name in ("id", "source", "first", "correct", "judged", "blank")
    }
    right, failed = STATUSES.index(Status.CORRECT), _not_judged()
    for row, (id, status) in enumerate(zip(ids, statuses, strict=True)):
        if not found["id"] or found["id"][-1] != id:
            values = (id, names.index(sources[row]), row, 0, 0, blank.get(id))
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
        found["correct"][-1] += status == right
        found["judged"][-1] += status not in failed
    return {**found, "sources": names}


def _not_judged() -> set[int]:
    return {n for n, name in enumerate(STATUSES) if Status(name).is_failure_to_judge}


def _pass_rate_bins(problems: Mapping[str, list[Any]]) -> list[int]:
    """How many problems have a pass rate of 0, up to 1/4, 1/2, 3/4, below 1, and 1."""
    bins = [0] * 6
    for correct, judged in zip(problems["correct"], problems["judged"], strict=True):
        if judged:
            rate = correct / judged
            bins[0 if correct == 0 else 5 if correct == judged else 1 + min(3, int(rate * 4))] += 1
    return bins


def _worst_opinion(stored: str | None) -> int:
    if not stored or stored == "{}":
        return 0
    return max((OPINIONS.index(said) for said, _ in json.loads(stored).values()), default=0)


# -- texts -----------------------------------------------------------------------------------------


def _write_texts(
    folder: Folder,
    reader: TraceReader,
    table: pa.Table,
    known: dict[str, Any],
    deadline: Deadline,
) -> None:
    """Pages from where the last writing ended."""
    row_ids = table["_rowid"].to_pylist()[known["written"] :]
    for page in _paged(reader.take(row_ids, TEXTS), known["written"]):
        name = f"{known['folder']}/texts-{len(known['pages'])}"
        folder.put(name, {"first": page.first, "problems": page.problems, "rows": page.rows})
        known["pages"].append(page.first)
        known["written"] = page.first + len(page.rows)
        if deadline.is_over:
            return


def _paged(rows: Iterator[Mapping[str, Any]], first: int) -> Iterator[_Page]:
    page = _Page(first)
    for row in rows:
        id = row["problem_id"]
        is_full = page.num_bytes >= PAGE_BYTES or len(page.rows) >= PAGE_ROWS
        if (is_full and id not in page.problems) or page.num_bytes >= PAGE_MOST_BYTES:
            yield page
            page = _Page(page.first + len(page.rows))
        if id not in page.problems:
            page.problems[id] = _problem(row)
        page.rows.append(_rollout(row))
        page.num_bytes += len(row["text"]) + len(row["question"])
    if page.rows:
        yield page


def _problem(row: Mapping[str, Any]) -> dict[str, Any]:
    hash = row["image_hash"]
    images = [[picture_name(hash, i), path] for i, path in enumerate(row["images"] or ())]
    return {**{name: row[name] for name in PROBLEM}, "images": images}


def _rollout(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a rollout, beside its columns."""
    left_out = {*PROBLEM, "images", "image_hash", "opinions", "old_verdicts", "sampling"}
    return {
        **{name: row[name] for name in TEXTS if name in row and name not in left_out},
        "opinions": json.loads(row.get("opinions") or "{}"),
        "old_verdicts": json.loads(row.get("old_verdicts") or "[]"),
        "sampling": json.loads(row["sampling"] or "{}"),
    }


def _copy_pictures(
    folder: Folder, reader: TraceReader, table: pa.Table, deadline: Deadline
) -> bool:
    """Copy the pictures of every problem; False where the time was over before."""
    firsts: dict[str, int] = {}
    pairs = zip(table["problem_id"].to_pylist(), table["_rowid"].to_pylist(), strict=True)
    for id, row_id in pairs:
        firsts.setdefault(id, row_id)
    for row in reader.take([*firsts.values()], ("images", "image_hash")):
        for index, path in enumerate(row["images"] or ()):
            if deadline.is_over:
                return False
            write_picture(folder, path, picture_name(row["image_hash"], index))
    return True
