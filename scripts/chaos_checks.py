"""What must hold of a run directory whatever was killed: read from outside, and compared.

Used by chaos.py. Pure but for `snapshot`, which reads the files of a run that may be going on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virgo_ray.config import StoreConfig
from virgo_ray.errors import TraceStoreError
from virgo_ray.evaluate.answers import read_answers
from virgo_ray.evaluate.heldout_answers import ANSWERS, DIRECTORY
from virgo_ray.ledger.file import load_state
from virgo_ray.store.dataset import locate_store
from virgo_ray.store.reader import TraceReader
from virgo_ray.store.schema import KEY

Key = tuple[int, str, int]
AnswerKey = tuple[str, str, str, int]  # version of the weights, problem id, how, sample
NUM_SHOWN = 5  # of a kind of problem


@dataclass(frozen=True)
class Snapshot:
    """A run directory at one moment: committed halves by name, and what is stored under each key.

    `rollouts` has one digest of text and verdict per row, `answers` one per kept answer of an
    evaluation: a key with two of them is there twice.
    """

    committed: Mapping[str, Any] = field(default_factory=dict)
    rollouts: Mapping[Key, Sequence[str]] = field(default_factory=dict)
    answers: Mapping[AnswerKey, Sequence[str]] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.rollouts.values()))


def snapshot(run_dir: Path, store: StoreConfig) -> Snapshot:
    """The ledger first: what it names must then be in the store."""
    return Snapshot(committed(run_dir), stored(run_dir, store), answered(run_dir))


def committed(run_dir: Path) -> dict[str, Any]:
    """`{"0/explored": {...}, "0/trained": {...}, "evaluated/base": {...}}` as the ledger has it."""
    path = run_dir / "ledger.json"
    if not path.exists():
        return {}
    state = load_state(path)
    halves = {f"{t}/{half}": v for t, r in state["rounds"].items() for half, v in r.items()}
    return {**halves, **{f"evaluated/{k}": v for k, v in state["evaluations"].items()}}


def stored(run_dir: Path, store: StoreConfig) -> dict[Key, list[str]]:
    """Digests by key; nothing where there is no store yet."""
    try:
        reader = TraceReader.open(locate_store(run_dir, store))
    except TraceStoreError:
        return {}
    found: dict[Key, list[str]] = {}
    for batch in reader.scan([*KEY, "text", "status"]):
        for row in batch.to_pylist():
            key = tuple(row[name] for name in KEY)
            found.setdefault(key, []).append(_digest(row["status"], row["text"]))
    return found


def answered(run_dir: Path) -> dict[AnswerKey, list[str]]:
    """Digests of what evaluations of held-out problems keep. What could not be judged may go: it is
    asked again after the verifier's alarm."""
    found: dict[AnswerKey, list[str]] = {}
    for path in sorted(run_dir.glob(f"{DIRECTORY}/v*/{ANSWERS}")):
        for answer, row in read_answers(path):
            if not answer.status.is_failure_to_judge:
                key = (path.parent.name, *answer.key)
                found.setdefault(key, []).append(_digest(answer.status, row["text"]))
    return found


def _digest(status: str, text: str) -> str:
    return hashlib.sha256(f"{status} {text}".encode(errors="replace")).hexdigest()[:16]


def broken(before: Snapshot, after: Snapshot) -> list[str]:
    """What was there and is not any more, was changed, or is there twice."""
    halves = [
        f"committed {name} changed or vanished"
        for name, value in before.committed.items()
        if after.committed.get(name) != value
    ]
    return [
        *halves,
        *_harmed("stored rollouts", before.rollouts, after.rollouts),
        *_harmed("kept answers", before.answers, after.answers),
        *doubled(after),
    ]


def _harmed(
    what: str, before: Mapping[Any, Sequence[str]], after: Mapping[Any, Sequence[str]]
) -> list[str]:
    both = before.keys() & after.keys()
    return [
        *_told(f"{what} were lost", sorted(before.keys() - after.keys())),
        *_told(f"{what} were changed", sorted(k for k in both if set(before[k]) - set(after[k]))),
    ]


def doubled(after: Snapshot) -> list[str]:
    def twice(found: Mapping[Any, Sequence[str]]) -> list[Any]:
        return sorted(key for key, digests in found.items() if len(digests) > 1)

    return [
        *_told("keys are stored more than once", twice(after.rollouts)),
        *_told("answers are kept more than once", twice(after.answers)),
    ]


def incomplete(after: Snapshot, num_samples: int) -> list[str]:
    """Rollouts that the ledger counts and the store lacks: every asked problem has every sample."""
    problems = []
    for name, tally in after.committed.items():
        t, _, half = name.partition("/")
        if half != "explored":
            continue
        keys = {key for key in after.rollouts if key[0] == int(t)}
        if len(keys) != tally["asked"]:
            problems.append(f"round {t} has {len(keys)} rollouts, its tally {tally['asked']}")
        wanted = range(num_samples if int(t) else 1)  # round 0 only screens, greedily
        asked = {problem for _, problem, _ in keys}
        missing = sorted({(int(t), p, i) for p in asked for i in wanted} - keys)
        problems += _told("asked rollouts are missing", missing)
    return problems


def doubled_steps(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Optimizer steps that the metrics stream has twice."""
    steps = Counter(r["train_step"] for r in records if r.get("kind") == "train")
    return _told("train steps are logged more than once", sorted(s for s in steps if steps[s] > 1))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The metrics stream; a line torn by a kill is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def accuracy_gap(ours: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two evaluations differ by more than three standard errors of their difference."""
    p, q = ours["pass_at_1"], other["pass_at_1"]
    noise = math.sqrt(
        p * (1 - p) / ours["num_problems"] + q * (1 - q) / other["num_problems"] + 1e-9
    )
    if abs(p - q) <= 3 * noise:
        return []
    return [f"final pass@1 is {p:.3f}, of the reference {q:.3f}; noise is {noise:.3f}"]


def tally_gaps(ours: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Rounds that both have explored, and of which they count different things."""
    names = sorted(n for n in ours.keys() & other.keys() if n.endswith("/explored"))
    keys = ("asked", "accepted")
    return [
        f"{name} counts {[ours[name][k] for k in keys]} asked and accepted, the reference "
        f"{[other[name][k] for k in keys]}"
        for name in names
        if any(ours[name][k] != other[name][k] for k in keys)
    ]


def last_common_evaluation(ours: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The name of the last round that both have evaluated, such as `evaluated/2`."""
    names = [n for n in ours.keys() & other.keys() if n.startswith("evaluated/")]
    rounds = [n for n in names if n.partition("/")[2].isdigit()]
    return max(rounds, key=lambda n: int(n.partition("/")[2]), default=None)


def _told(what: str, found: Sequence[Any]) -> list[str]:
    if not found:
        return []
    shown = ", ".join(map(str, found[:NUM_SHOWN]))
    return [f"{len(found)} {what}: {shown}{' ...' if len(found) > NUM_SHOWN else ''}"]
