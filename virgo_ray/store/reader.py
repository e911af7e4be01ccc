"""Reads a replay buffer: counts, candidates, traces and whole rollouts, streamed.

Memory does not grow with the store, only with what is asked for: texts and token ids pass in
batches, and traces are drawn by row, not by scanning (store/rows.py). A reader sees one version of
the store and changes nothing, so it may look at a run that is going on. Knows not why a trace is
chosen.

Probes (problems asked with their pictures blanked, model/blank.py) lie in the same store. They are
no samples of their problems: no count, rate, tally, candidate or export holds one.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from virgo_ray.config import FORMATS, Format
from virgo_ray.errors import TraceStoreError
from virgo_ray.model.blank import BLANK
from virgo_ray.records import (
    Candidate,
    Judged,
    Member,
    Outcome,
    Problem,
    Status,
    Trace,
    Verdict,
)
from virgo_ray.selection.measuring import Measuring
from virgo_ray.store.aside import TAG
from virgo_ray.store.conversion import (
    HAS_LOGPROBS,
    MEMBER,
    TRACE,
    to_candidate,
    to_member,
    to_trace,
)
from virgo_ray.store.rows import BOTH, PROBES, SAMPLES, Key, StoredRows
from virgo_ray.store.schema import (
    KEY,
    MEASURED_BY,
    ROLLOUT_COLUMNS,
    to_judged,
    to_opinions,
    to_verdict,
)

OUTCOME = ("problem_id", "sample_index", "source", "status", "num_tokens", "opinions")


class TraceReader(StoredRows):
    """What selection, counting and reports ask of the stored rollouts.

    Example: `TraceReader.open(location).judged_counts([1])` gives `{"chain-3f": (3, 4)}`.
    """

    def rounds(self) -> list[int]:
        """The rounds that have rollouts."""
        return sorted({r for batch in self.scan(["round"]) for r in batch["round"].to_pylist()})

    def aside_versions(self) -> list[int]:
        """The versions that held rollouts which were left aside afterwards (store/aside.py)."""
        tags = self._dataset.tags.list()
        return sorted(t["version"] for name, t in tags.items() if name.startswith(f"{TAG}-"))

    def taken_rounds(self) -> list[int]:
        """The rounds before the first: what another run sampled."""
        return [t for t in self.rounds() if t < 0]

    def rows(self, round: int) -> Iterator[Outcome]:
        """The outcomes of a round, for counting."""
        return (outcome for _, outcome in self.outcomes([round]))

    def outcomes(self, rounds: Iterable[int] | None = None) -> Iterator[tuple[int, Outcome]]:
        """(round, outcome) of these rounds; None: of all."""
        columns = [name for name in ("round", *OUTCOME) if name in self.columns]
        for batch in self.scan(columns, rounds):
            for row in batch.to_pylist():
                round = row.pop("round")
                said = {name: s.opinion for name, s in to_opinions(row.get("opinions")).items()}
                yield round, Outcome(**{**row, "status": Status(row["status"]), "opinions": said})

    def judged(self, rounds: Iterable[int]) -> Iterator[Judged]:
        """Everything that was stored of these rounds, as it was added, probes included."""
        names = [name for name in ROLLOUT_COLUMNS if name in self.columns]
        for batch in self.scan(names, rounds, which=BOTH):
            yield from map(to_judged, batch.to_pylist())

    def examples(self, round: int, num_per_status: int) -> list[Judged]:
        """The first few of every status that this round had, in the order of their keys."""
        chosen: dict[Status, list[tuple[str, int]]] = defaultdict(list)
        for outcome in sorted(self.rows(round), key=lambda o: (o.problem_id, o.sample_index)):
            if len(chosen[outcome.status]) < num_per_status:
                chosen[outcome.status].append((outcome.problem_id, outcome.sample_index))
        keys = [key for keys in chosen.values() for key in keys]
        return [judged for key in keys for judged, _ in self.find(round, *key)]

    def solved(self, round: int) -> frozenset[str]:
        """Ids of problems with at least one correct rollout in this round."""
        found = self.scan(["problem_id"], [round], Status.CORRECT)
        return frozenset(id for batch in found for id in batch["problem_id"].to_pylist())

    def verifier_versions(self, round: int) -> dict[str, int]:
        """{version of the verifier: rollouts of this round that it judged}, the oldest first."""
        found: Counter[str] = Counter()
        for batch in self.scan(["verifier_version"], [round]):
            found.update(batch["verifier_version"].to_pylist())
        return dict(sorted(found.items()))

    def are_correct(self, round: int) -> dict[tuple[str, int], bool]:
        """{(problem id, sample index): whether it is correct} of this round's samples."""
        return {
            (o.problem_id, o.sample_index): o.status is Status.CORRECT for o in self.rows(round)
        }

    def judged_counts(self, rounds: Iterable[int]) -> dict[str, tuple[int, int]]:
        """{problem id: (correct, judged)} over these rounds; failures to judge are in neither."""
        counts: dict[str, tuple[int, int]] = {}
        for (_, id), (correct, judged) in self.round_counts(rounds).items():
            before = counts.get(id, (0, 0))
            counts[id] = (before[0] + correct, before[1] + judged)
        return counts

    def round_counts(
        self, rounds: Iterable[int] | None = None
    ) -> dict[tuple[int, str], tuple[int, int]]:
        """{(round, problem id): (correct, judged)}, as `judged_counts`."""
        counts: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
        for batch in self.scan(["round", "problem_id", "status"], rounds):
            columns = (batch[name].to_pylist() for name in ("round", "problem_id", "status"))
            for round, id, name in zip(*columns, strict=True):
                status = Status(name)
                count = counts[round, id]
                count[0] += status is Status.CORRECT
                count[1] += not status.is_failure_to_judge
        return {key: (correct, judged) for key, (correct, judged) in counts.items() if judged}

    def num_new(self, round: int) -> int:
        """How many different thoughts this round was the first of rounds 1, 2 ... to get accepted.

        Round 0 does not count: nothing is learned from the base's own answers.
        """
        new: set[tuple[str, str]] = set()
        for before in (round, *range(round - 1, 0, -1), *self.taken_rounds()):
            rows = self.accepted(["problem_id"], [before], ["fingerprint"], Measuring())
            found = {(row["problem_id"], row["fingerprint"]) for row in rows}
            new = new | found if before == round else new - found
            if not new:
                break
        return len(new)

    def candidates(
        self,
        rounds: Iterable[int],
        formats: Sequence[Format] = FORMATS,
        with_words: bool = False,
    ) -> list[Candidate]:
        """The correct rollouts of these rounds, described, without their text.

        Signatures and repetition, which take longer than all the rest, only `with_words`.
        """
        wanted = list(rounds)
        measuring = Measuring(tuple(formats), with_words)
        counts = self.round_counts(wanted)
        blank = {id for id, is_solved in self.blank_solved(wanted).items() if is_solved}
        wished = (*KEY, "source", "num_tokens", "guess_chance", "opinions")
        columns = [name for name in wished if name in self.columns]
        return [
            to_candidate(row, counts[row["round"], row["problem_id"]], blank)
            for row in self.accepted(columns, wanted, measuring.names, measuring)
        ]

    def accepted(
        self,
        columns: Sequence[str],
        rounds: Iterable[int],
        measures: Sequence[str],
        measuring: Measuring,
    ) -> Iterator[dict[str, Any]]:
        """The correct rollouts of these rounds: these columns, and these measures of their texts.

        No text is read where its measures are stored. Where they are not, or were taken by other
        code or tags, they are taken from the text now.
        """
        wanted, which = list(rounds), SAMPLES
        if MEASURED_BY in self.columns:
            label = measuring.label_of(measures)
            stored = [*columns, *measures]
            measured = f"{SAMPLES} AND {_has_measures(label)}"
            for batch in self.scan(stored, wanted, Status.CORRECT, measured):
                yield from batch.to_pylist()
            which = f"{SAMPLES} AND {lacks_measures(label)}"
            if not any(b.num_rows for b in self.scan(["round"], wanted, Status.CORRECT, which)):
                return
        for batch in self.scan([*columns, "text"], wanted, Status.CORRECT, which):
            for row in batch.to_pylist():
                text = row.pop("text")
                yield row | measuring.measure(text, measures)

    def blank_solved(self, rounds: Iterable[int]) -> dict[str, bool]:
        """{problem id: whether a probe of these rounds solved it without its pictures}."""
        found: dict[str, bool] = {}
        for batch in self.scan(["problem_id", "status"], rounds, which=PROBES):
            columns = (batch[name].to_pylist() for name in ("problem_id", "status"))
            for blank_id, status in zip(*columns, strict=True):
                id = blank_id.removesuffix(BLANK)
                found[id] = found.get(id, False) or Status(status) is Status.CORRECT
        return found

    def groups(self, round: int) -> dict[str, tuple[Member, ...]]:
        """{problem id: its samples in this round, in order}, whatever their verdicts.

        What was decoded greedily (screening) is no sample of a group, and neither is a probe. What
        was set aside is not in the store any more.
        """
        wanted = {name: name for name in MEMBER if name in self.columns}
        wanted |= HAS_LOGPROBS if "logprobs" in self.columns else {}
        found: dict[str, list[Member]] = defaultdict(list)
        for batch in self.scan(wanted, [round]):
            for member in map(to_member, batch.to_pylist()):
                if member.temperature > 0:
                    found[member.problem_id].append(member)
        return {id: tuple(sorted(found[id], key=lambda m: m.sample_index)) for id in sorted(found)}

    def traces(
        self, chosen: Sequence[Candidate | Member], problems: Sequence[Problem]
    ) -> list[Trace]:
        """What was chosen with its text and what was sampled, in the order of `chosen`.

        Raises:
            TraceStoreError: a key is not in the store, or its problem not in `problems`.
        """
        by_id = {p.id: p for p in problems}
        ids = self._row_ids({c.key for c in chosen if c.problem_id in by_id})
        lost = sorted({c.key for c in chosen} - ids.keys())
        if lost:
            raise TraceStoreError(
                f"{len(lost)} selected traces cannot be read, the first is (round, problem, "
                f"sample) = {lost[0]}: expected its row in {self._location.uri} and its problem in "
                "data.train; use the data the run was made with"
            )
        columns = [name for name in TRACE if name in self.columns]
        rows = self._take([ids[c.key] for c in chosen], columns)
        return [to_trace(row, by_id[row["problem_id"]]) for row in rows]

    def find(
        self, round: int, problem_id: str, sample_index: int | None = None
    ) -> list[tuple[Judged, list[Verdict]]]:
        """The rollouts of a problem in a round by sample index, each with its earlier verdicts."""
        condition = f"round = {int(round)} AND problem_id = {_quote(problem_id)}"
        if sample_index is not None:
            condition += f" AND sample_index = {int(sample_index)}"
        names = [name for name in ROLLOUT_COLUMNS if name in self.columns]
        rows = [row for batch in self._batches(names, condition) for row in batch.to_pylist()]
        rows.sort(key=lambda row: row["sample_index"])
        return [
            (to_judged(row), [to_verdict(v) for v in json.loads(row.get("old_verdicts") or "[]")])
            for row in rows
        ]

    def _row_ids(self, wanted: set[Key]) -> dict[Key, int]:
        """{key: row id} of the rollouts among `wanted`; those not there are left out."""
        if not wanted:
            return {}
        numbers = ", ".join(str(r) for r in sorted({round for round, _, _ in wanted}))
        condition = f"round IN ({numbers})"
        found: dict[Key, int] = {}
        for batch in self._batches(list(KEY), condition, with_row_id=True):
            columns = [batch[name].to_pylist() for name in (*KEY, "_rowid")]
            for *key, row_id in zip(*columns, strict=True):
                if (known := tuple(key)) in wanted:
                    found[known] = row_id  # type: ignore[index]
        return found


def _quote(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def lacks_measures(label: str) -> str:
    """The condition that a row has no measures whose label begins so."""
    return f"({MEASURED_BY} IS NULL OR NOT {_has_measures(label)})"


def _has_measures(label: str) -> str:
    return f"starts_with({MEASURED_BY}, '{label}')"
