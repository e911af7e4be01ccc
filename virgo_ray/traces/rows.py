"""Which stored rollouts an export takes, as rows, and how many it does not take and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from virgo_ray.records import SeedThought, Status
from virgo_ray.selection.nearest import pair_nearest
from virgo_ray.store.reader import TraceReader
from virgo_ray.store.rows import Key
from virgo_ray.store.schema import KEY

COLUMNS = (
    *KEY, "status", "source", "question", "context", "images", "image_hash", "options", "gold",
    "gold_type", "answer", "verifier_version", "weights_version", "finish_reason", "num_tokens",
    "sampling", "text", "token_ids",
)  # fmt: skip
SEED = "seed_thought"  # in the place of a status: nobody sampled or judged it
NOT_CHOSEN = "were not chosen for round {}"
OTHER_ROUND = "are of other rounds"
RIGHT, WRONG = "are right", "are wrong"
NOT_LEFT = " of the same problem and round left"

Row = dict[str, Any]
Pair = tuple[Row, Row]  # the right rollout, then the wrong one


@dataclass(frozen=True)
class Wanted:
    """What a user asked for: rounds (None: all), what is not accepted too, or certain rollouts."""

    rounds: Collection[int] | None = None
    accepted_only: bool = True
    chosen: frozenset[Key] | None = None
    chosen_round: int | None = None

    def why_not(self, key: Key, status: Status) -> str:
        """Why a rollout is left out, of several; empty for one that is taken."""
        if self.rounds is not None and key[0] not in self.rounds:
            return OTHER_ROUND
        if self.accepted_only and status is not Status.CORRECT:
            return f"are not accepted ({status})"
        if self.chosen is not None and key not in self.chosen:
            return NOT_CHOSEN.format(self.chosen_round)
        return ""


@dataclass(frozen=True)
class Taken:
    """The rollouts of an export by key, and what was left out by reason."""

    keys: frozenset[Key]
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def rounds(self) -> list[int]:
        return sorted({round for round, _, _ in self.keys})


def take(reader: TraceReader, wanted: Wanted) -> Taken:
    """Choose from the keys alone; no text is read."""
    left_out: Counter[str] = Counter()
    keys = set()
    for key, status, _ in _lengths(reader):
        if why := wanted.why_not(key, status):
            left_out[why] += 1
        else:
            keys.add(key)
    return Taken(frozenset(keys), left_out)


def take_pairs(
    reader: TraceReader, wanted: Wanted, most: int | None = None
) -> tuple[list[tuple[Key, Key]], Counter[str]]:
    """Right against wrong samples of the same problem and round, the nearest in length first.

    At most `most` pairs of each problem and round; nothing is used twice.
    """
    left_out: Counter[str] = Counter()
    right: dict[tuple[int, str], list[tuple[Key, int]]] = {}
    wrong: dict[tuple[int, str], list[tuple[Key, int]]] = {}
    for key, status, length in _lengths(reader):
        why = wanted.why_not(key, Status.CORRECT if status is Status.WRONG else status)
        if status is Status.WRONG and why != OTHER_ROUND:
            wrong.setdefault(key[:2], []).append((key, length))
        elif why:
            left_out[why] += 1
        else:
            right.setdefault(key[:2], []).append((key, length))
    pairs: list[tuple[Key, Key]] = []
    for problem in sorted(right.keys() | wrong.keys()):
        good, bad = sorted(right.get(problem, [])), sorted(wrong.get(problem, []))
        found = pair_nearest(good, bad, most)
        pairs += found
        num_possible = min(len(good), len(bad))
        left_out[f"{RIGHT}, without a wrong one{NOT_LEFT}"] += len(good) - num_possible
        left_out[f"{WRONG}, without a right one{NOT_LEFT}"] += len(bad) - num_possible
        left_out[f"{RIGHT} or wrong, beyond {most} pairs of a problem and round"] += 2 * (
            num_possible - len(found)
        )
    return pairs, +left_out


def read_rows(reader: TraceReader, keys: frozenset[Key], rounds: Iterable[int]) -> Iterator[Row]:
    """The rows of these keys, in the order of the store."""
    for batch in reader.scan(COLUMNS, rounds):
        for row in batch.to_pylist():
            if key_of(row) in keys:
                yield row


def read_pairs(reader: TraceReader, pairs: Iterable[tuple[Key, Key]]) -> Iterator[Pair]:
    """The rows of pairs. Of one round at a time, rows wait for their partner in memory."""
    partner = {key: pair for pair in pairs for key in pair}
    for round in sorted({key[0] for key in partner}):
        waiting: dict[Key, Row] = {}
        for row in read_rows(reader, frozenset(partner), [round]):
            waiting[key_of(row)] = row
            right, wrong = partner[key_of(row)]
            if right in waiting and wrong in waiting:
                yield waiting.pop(right), waiting.pop(wrong)


def key_of(row: Row) -> Key:
    round, id, index = (row[name] for name in KEY)
    return round, id, index


def seed_row(seed: SeedThought, round: int) -> Row:
    """A seed thought in the columns of a rollout, with status "seed_thought" and no token ids."""
    problem = seed.problem
    empty = {"answer": "", "verifier_version": "", "finish_reason": "stop", "image_hash": ""}
    return {
        **empty,
        "round": round,
        "problem_id": problem.id,
        "sample_index": 0,
        "status": SEED,
        "source": problem.source,
        "question": problem.question,
        "context": problem.context,
        "images": [],
        "options": list(problem.options),
        "gold": problem.answer,
        "gold_type": str(problem.answer_type),
        "weights_version": 0,
        "num_tokens": 0,
        "sampling": "{}",
        "text": seed.thought,
        "token_ids": [],
    }


def _lengths(reader: TraceReader) -> Iterator[tuple[Key, Status, int]]:
    """(key, status, tokens) of every sample."""
    names = (*KEY, "status", "num_tokens")
    for batch in reader.scan(names):
        columns = (batch[name].to_pylist() for name in names)
        for round, id, index, status, length in zip(*columns, strict=True):
            yield (round, id, index), Status(status), length
