"""What happened in a run, read from the state that its ledger committed.

Weights inside the run directory are stored by their place in it and looked for there first, so the
directory may be moved or copied. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from virgo_ray.ledger.exploration import Exploration
from virgo_ray.ledger.file import read_evaluation, read_fit, read_tally
from virgo_ray.records import BASE, Failure, FitReport, Round, Weights
from virgo_ray.weights.contents import read_start
from virgo_ray.weights.publish import version_dir
from virgo_ray.weights.remade import find_lost


class History:
    """The rounds of the run in `run_dir`, as far as they are in `state`.

    Example: `history.next_round` is the first round not trained.
    """

    def __init__(self, run_dir: Path, state: dict[str, Any]) -> None:
        self._run_dir = run_dir
        self._state = state
        self._read: dict[str, Round] = {}  # rounds by label; reading one takes long

    @property
    def base(self) -> Weights:
        return Weights(**self._state["base"])

    @property
    def next_round(self) -> int:
        """The first round that is not trained yet."""
        num = len(self._rounds)
        return num - (num > 0 and "trained" not in self._rounds[str(num - 1)])

    def has_tally(self, round: int) -> bool:
        """Whether the exploration of a round is done."""
        return "explored" in self._rounds.get(str(round), {})

    def begun(self, round: int) -> Exploration | None:
        """The exploration of a round as it was begun; None where nothing was asked yet."""
        entry = self._state.get("begun", {})
        if entry.get("round") != round:
            return None
        asked = entry["weights_version"]
        of = next(r.weights for r in self._newest_first() if r.weights.version == asked)
        return Exploration.of(entry, {asked: of})

    @property
    def asked_weights(self) -> Weights | None:
        """Those of the exploration that has begun and is not trained on yet, if there is one."""
        exploration = self.begun(self.next_round)
        return None if exploration is None else exploration.weights

    def has_evaluation(self, number: int | None) -> bool:
        return label_of(number) in self._state["evaluations"]

    def round(self, number: int | None) -> Round:
        """A round as far as it is committed; None: the base."""
        label = label_of(number)
        if label not in self._read:
            self._read[label] = self._read_round(number)
        return self._read[label]

    def _read_round(self, number: int | None) -> Round:
        entry = {} if number is None else self._rounds[str(number)]
        label = label_of(number)
        evaluation = self._state["evaluations"].get(label)
        fit = self._found_here(read_fit(entry["trained"])) if "trained" in entry else None
        return Round(
            number=number,
            weights=self._weights_of(fit),
            tally=read_tally(entry["explored"]) if "explored" in entry else None,
            fit=fit,
            evaluation=None if evaluation is None else read_evaluation(evaluation),
            failures=tuple(Failure(**failure) for failure in self._rejected.get(label, ())),
            seconds=self._state["seconds"].get(label, 0.0),
        )

    def _newest_first(self) -> Iterator[Round]:
        """Every trained round, then the base."""
        return (self.round(t) for t in (*range(self.next_round - 1, -1, -1), None))

    def _forget(self, path: Sequence[str]) -> None:
        """Read anew what a change at this place of the state is about."""
        if path[0] in ("rounds", "evaluations", "seconds", "rejected"):
            self._read.pop(path[1], None)
        elif path[0] == "base":
            self._read.clear()

    def rounds(self) -> list[Round]:
        """The base and every trained round, in order."""
        return [self.round(number) for number in (None, *range(self.next_round))]

    @property
    def newest(self) -> Round:
        """The last trained round, or the base."""
        return self.round(self.next_round - 1 if self.next_round else None)

    @property
    def weights(self) -> Weights:
        """The newest trained weights that no gate rejected, or the base's."""
        return next(r.weights for r in self._newest_first() if not r.is_rejected)

    @property
    def references(self) -> list[Round]:
        """The base and every accepted round, as far as they are evaluated, in order."""
        return [r for r in self.rounds() if r.evaluation is not None and not r.is_rejected]

    def find_lost(self, weights: Weights) -> list[tuple[int, Weights, int]]:
        """The fits to do again so that `weights` have the tensors that `weights.publish_every` left
        out, the oldest first: round, start and version. None where they have them."""
        by_version = {r.weights.version: r for r in self.rounds()}
        lost = find_lost(self._run_dir / "weights", by_version, weights.version)
        return [
            (number, by_version[start or 0].weights, version)
            for version in lost
            if (number := by_version[version].number) is not None
            for start in [read_start(Path(by_version[version].weights.path))]
        ]

    def is_complete(self, last_round: int) -> bool:
        """Whether every round up to `last_round` is trained, and the last of them evaluated."""
        return self.next_round > last_round and self.has_evaluation(self.newest.number)

    def judged_with(self, number: int | None) -> list[int]:
        """The rounds that are kept or rejected with `number`, which is the last of them: those
        before it that were not evaluated. Empty for the base."""
        found: list[int] = []
        while number is not None and number >= 0:
            found.insert(0, number)
            number -= 1
            if number < 0 or self.has_evaluation(number):
                break
        return found

    def num_barren(self) -> int:
        """How many of the newest explorations, without a break, got nothing new accepted."""
        num = 0
        for t in range(len(self._rounds) - 1, 0, -1):
            tally = self.round(t).tally
            # Runs of earlier versions did not count what is new.
            new = tally and (tally.accepted if tally.new is None else tally.new)
            if new:
                break
            num += tally is not None
        return num

    @property
    def wandb_id(self) -> str:
        """Made at random when the run began; no other run has it."""
        return self._state["wandb_id"]

    @property
    def committed_buffer_version(self) -> int | None:
        """The newest buffer version the ledger names."""
        return max(self.buffer_versions, default=None)

    @property
    def buffer_versions(self) -> list[int]:
        """Every version of the buffer that a commit named."""
        explored = [
            r["explored"]["buffer_version"] for r in self._rounds.values() if "explored" in r
        ]
        regraded = [v for r in self.regrades for v in (r["before"], r["after"])]
        taken = [self._state["taken"]["buffer_version"]] if self.has_taken else []
        changed = [r["after"] for r in (*self.repairs, *self.asides)]
        return [*taken, *explored, *regraded, *changed]

    @property
    def has_taken(self) -> bool:
        """Whether the rollouts of another run were taken in (`store.from`)."""
        return "taken" in self._state

    @property
    def taking(self) -> Mapping[str, Any] | None:
        """Of another run that is being taken in: its id, and its version and rounds that count."""
        return self._state.get("taking")

    @property
    def repairs(self) -> list[Mapping[str, Any]]:
        """What was damaged of the store and dropped, the oldest first."""
        return self._state.get("repairs", [])

    @property
    def asides(self) -> list[Mapping[str, Any]]:
        """What was left aside because its problems changed, the oldest first."""
        return self._state.get("asides", [])

    @property
    def changes(self) -> list[Mapping[str, Any]]:
        """Keys that changed on the way, the oldest first, each with the round it holds from."""
        return self._state.get("changes", [])

    @property
    def regrades(self) -> list[Mapping[str, Any]]:
        """What re-grading changed, the oldest first."""
        return self._state.get("regrades", [])

    def _found_here(self, fit: FitReport) -> FitReport:
        """A fit with its weights where they lie now: in this directory, or else as was said."""
        run_dir, weights = self._run_dir, fit.weights
        here = version_dir(run_dir / "weights", weights.version)
        path = here if here.is_dir() else run_dir / weights.path  # which an absolute path replaces
        return replace(fit, weights=replace(weights, path=str(path)))

    def _weights_of(self, fit: FitReport | None) -> Weights:
        """The base's where nothing was trained: it may lie elsewhere by now."""
        has_trained = fit is not None and fit.weights.version != self.base.version
        return fit.weights if fit is not None and has_trained else self.base

    @property
    def _rejected(self) -> dict[str, list[dict[str, Any]]]:
        """{round: its failures}; a ledger of before there were gates has none."""
        return self._state.get("rejected", {})

    @property
    def _rounds(self) -> dict[str, dict[str, Any]]:
        return self._state["rounds"]


def label_of(number: int | None) -> str:
    """What the ledger calls a round; None: the base."""
    return BASE if number is None else str(number)
