"""The committed state of a run: one small JSON file, written to a temporary name and renamed.

What is in it happened; what is not did not. The same command on the same run directory reads
it and goes on. Committing the same half of a round twice changes nothing. The ledger knows versions
and tallies, never the traces or tensors themselves.

A run directory belongs to one living process (`ledger/lock.py`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, dump_config, fingerprint
from virgo_ray.config.stored import STORED_NAME
from virgo_ray.errors import LedgerError
from virgo_ray.files import disk_errors, remove_drafts, write_atomically
from virgo_ray.ledger.changes import find_changes, record_changes
from virgo_ray.ledger.exploration import Exploration
from virgo_ray.ledger.file import SCHEMA_VERSION, read_state
from virgo_ray.ledger.history import History, label_of
from virgo_ray.ledger.lock import RunLock
from virgo_ray.records import Evaluation, Failure, FitReport, Tally, Weights


class Ledger(History):
    """Committed state of the run in `run_dir`.

    Example: `ledger = Ledger.open(cfg, base)`; `ledger.next_round` is the first round not trained.
    """

    def __init__(self, path: Path, state: dict[str, Any], lock: RunLock) -> None:
        self.news: list[str] = [lock.taken_over] if lock.taken_over else []  # of this start
        super().__init__(path.parent, state)
        self._path = path
        self._lock = lock
        self._last_commit = time.monotonic()

    @classmethod
    def open(cls, cfg: Config, base: Weights) -> Ledger:
        """Create or resume the ledger of `cfg.run_dir`.

        Raises:
            LedgerError: the directory is in use, damaged, or was made with another config.
        """
        run_dir = Path(cfg.run_dir)
        lock = RunLock.take(run_dir, create=True)
        try:
            return cls._opened(cfg, base, lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def _opened(cls, cfg: Config, base: Weights, lock: RunLock) -> Ledger:
        run_dir = Path(cfg.run_dir)
        path = run_dir / "ledger.json"
        for written in (path, run_dir / STORED_NAME):
            remove_drafts(written)
        is_new = not path.exists()
        state = _new_state(cfg, base) if is_new else read_state(path)
        changes = [] if is_new else record_changes(cfg, state, run_dir)
        state["base"] = asdict(base)  # the same model may lie elsewhere by now
        ledger = cls(path, state, lock)
        ledger.news += [f"changed: {change}" for change in changes]
        if is_new:
            ledger._write_config(cfg)
            ledger._commit()
        else:  # first what changed, so that a kill in between loses no change
            ledger._commit()
            ledger._write_config(cfg)
        return ledger

    @staticmethod
    def check(cfg: Config) -> None:
        """Raise what `open` would raise, before hours of reading data; commits nothing.

        Raises:
            LedgerError: as `open`.
        """
        run_dir = Path(cfg.run_dir)
        with closing(RunLock.take(run_dir, create=True)):
            path = run_dir / "ledger.json"
            if path.exists():
                find_changes(cfg, read_state(path), run_dir)

    @classmethod
    def reopen(cls, run_dir: Path) -> Ledger:
        """The ledger of an existing run under the run's own lock, without its config; nothing is
        written by opening.

        Raises:
            LedgerError: there is none, the directory is in use, or the ledger is damaged.
        """
        path = run_dir / "ledger.json"
        if not path.is_file():
            raise LedgerError(f"{path} does not exist; expected the directory of a run")
        lock = RunLock.take(run_dir, create=False)
        try:
            return cls(path, read_state(path), lock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Give the run directory free."""
        self._lock.close()

    # -- commits ---------------------------------------------------------------------------------

    def begin(self, round: int, exploration: Exploration) -> None:
        """What a round asks, before the first of it is stored; a round is begun once."""
        if self.begun(round) is None:
            self._state["begun"] = exploration.as_entry(round)
            self._commit()

    def commit_tally(self, round: int, buffer_version: int, tally: Tally) -> None:
        """The exploration of a round is done, and the store sealed as `buffer_version`."""
        counted = {key: value for key, value in asdict(tally).items() if value is not None}
        entry = {"buffer_version": buffer_version, **counted}
        self._add(self._rounds.setdefault(str(round), {}), "explored", entry, str(round))

    def commit_fit(self, round: int, fit: FitReport) -> None:
        entry = asdict(fit)
        path, run_dir = Path(fit.weights.path), self._path.parent
        if path.is_relative_to(run_dir):
            entry["weights"]["path"] = str(path.relative_to(run_dir))
        self._state.pop("begun", None)
        self._add(self._rounds.setdefault(str(round), {}), "trained", entry, str(round))

    def commit_evaluation(
        self, number: int | None, evaluation: Evaluation, failures: Sequence[Failure] = ()
    ) -> None:
        """One commit says how a round was evaluated and, with failures, that it is rejected."""
        label = label_of(number)
        if not self.has_evaluation(number):
            self._set_failures(label, failures)
        self._add(self._state["evaluations"], label, asdict(evaluation), label)

    def commit_failures(self, round: int, failures: Sequence[Failure]) -> None:
        """Other failures of a rejected round, or none: it is accepted after all."""
        if tuple(failures) != self.round(round).failures:
            self._set_failures(str(round), failures)
            self._commit()

    def commit_regraded(self, before: int, after: int, summary: Mapping[str, object]) -> None:
        """Verdicts were replaced between two buffer versions. Tallies of explored rounds stay what
        they were: they say what was known when the round was trained."""
        entry = {"before": before, "after": after, **summary}
        self._state["regrades"] = [*self.regrades, entry]
        self._commit()

    def begin_taking(self, owner: str, version: int, rounds: Sequence[int]) -> None:
        """What is taken of another run, before the first of it is stored; it is begun once."""
        if self.taking is None:
            self._state["taking"] = {"run": owner, "version": version, "rounds": list(rounds)}
            self._commit()

    def commit_taken(
        self, buffer_version: int, owner: str, taken: Mapping[str, int], aside: Mapping[str, int]
    ) -> None:
        """Rollouts of another run are in the store, by round; the others are counted by reason."""
        entry = {"run": owner, "rollouts": dict(taken), "aside": dict(aside)}
        self._state["taken"] = {"buffer_version": buffer_version, **entry}
        self._state.pop("taking", None)
        self._commit()

    def commit_set_aside(self, after: int, num_problems: int, num_rollouts: int) -> None:
        """From version `after` on the store holds nothing about problems that changed."""
        entry = {"after": after, "problems": num_problems, "rollouts": num_rollouts}
        self._state["asides"] = [*self.asides, entry]
        self._commit()

    def commit_repaired(self, after: int, dropped: Sequence[str]) -> None:
        """What was damaged of the store is gone from version `after` on. The exploration of a round
        that is not trained yet goes on: the run asks for what is missing."""
        self._state["repairs"] = [*self.repairs, {"after": after, "dropped": list(dropped)}]
        self._drop_open_tally()
        self._commit()

    def reopen_round(self) -> None:
        """The exploration of a round that is not trained yet goes on, before rollouts of it go."""
        if self._drop_open_tally():
            self._commit()

    def _drop_open_tally(self) -> bool:
        return self._rounds.pop(str(self.next_round), None) is not None

    def _set_failures(self, label: str, failures: Sequence[Failure]) -> None:
        rejected = {k: v for k, v in self._rejected.items() if k != label}
        rejected |= {label: [asdict(f) for f in failures]} if failures else {}
        if rejected or self._rejected:
            self._state["rejected"] = rejected

    def _add(self, place: dict[str, Any], key: str, entry: dict[str, Any], label: str) -> None:
        if key in place:
            return
        now = time.monotonic()
        place[key] = entry
        seconds = self._state["seconds"]
        seconds[label] = seconds.get(label, 0.0) + now - self._last_commit
        self._last_commit = now
        self._commit()

    # -- file ------------------------------------------------------------------------------------

    def _commit(self) -> None:
        self._lock.require_ours()
        self._write(self._path, json.dumps(self._state, indent=1))

    def _write_config(self, cfg: Config) -> None:
        self._write(self._path.parent / STORED_NAME, dump_config(cfg))

    def _write(self, path: Path, text: str) -> None:
        what = f"{path} could not be written"
        with disk_errors(LedgerError, what, "what was committed before is intact"):
            write_atomically(path, text)


def _new_state(cfg: Config, base: Weights) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "fingerprint": fingerprint(cfg),
        "wandb_id": f"{cfg.name}-{os.urandom(4).hex()}",
        "base": asdict(base),
        "rounds": {},
        "evaluations": {},
        "seconds": {},
    }
