"""The committed state of a run: a JSON file, and beside it a journal of the commits since.

What is in them happened; what is not did not. The same command on the same run directory reads
them and goes on. Committing the same half of a round twice changes nothing. The ledger knows
versions and tallies, never the traces or tensors themselves.

A commit appends to the journal (`ledger/journal.py`), and costs what it changes. The file is
written anew, to a temporary name and renamed, at the end of every start, at a start that finds many
commits in the journal, and at no other time: how long that takes grows with the run. A start after
a kill reads the file and a longer journal.

A run directory belongs to one living process (`ledger/lock.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from virgo_ray.config import Config, dump_config, fingerprint
from virgo_ray.config.stored import STORED_NAME
from virgo_ray.errors import LedgerError
from virgo_ray.files import disk_errors, remove_drafts, write_atomically
from virgo_ray.ledger.changes import find_changes, own_functions, record_changes
from virgo_ray.ledger.exploration import Exploration
from virgo_ray.ledger.file import (
    SCHEMA_VERSION,
    Stored,
    check_failures,
    dump_state,
    journal_of,
    read_ledger,
)
from virgo_ray.ledger.history import History, label_of
from virgo_ray.ledger.journal import SEQUENCE, Change, Journal, apply
from virgo_ray.ledger.lock import RunLock
from virgo_ray.records import Evaluation, Failure, FitReport, Tally, Weights

FOLD_FROM = 8  # commits that a start finds in the journal; fewer cost no start anything


class Ledger(History):
    """Committed state of the run in `run_dir`.

    Example: `ledger = Ledger.open(cfg, base)`; `ledger.next_round` is the first round not trained.
    """

    def __init__(self, path: Path, stored: Stored, lock: RunLock) -> None:
        self.news = [text for text in (lock.taken_over, stored.notice) if text]  # of this start
        super().__init__(path.parent, stored.state)
        self._path = path
        self._lock = lock
        self._last_commit = time.monotonic()
        self._journal = Journal(journal_of(path), stored.num_bytes)
        self._has_committed = False  # since the file was written last
        self._changes: list[Change] = []  # not committed yet

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
        stored = Stored(_new_state(cfg, base)) if is_new else read_ledger(path)
        ledger = cls(path, stored, lock)
        if is_new:  # of a ledger that somebody removed, the journal may have been left
            ledger._begin_journal()
            ledger._write_config(cfg)
            ledger._fold()
            ledger._tell_unseen()
        else:  # first what changed, so that a kill in between loses no change
            ledger._record_start(cfg, base)
            ledger._write_config(cfg)
            if stored.num_commits >= FOLD_FROM:  # the starts before were killed
                ledger._fold()
        return ledger

    def _record_start(self, cfg: Config, base: Weights) -> None:
        """Commit what is other than at the last start; the same model may lie elsewhere by now."""
        now = {**self._state, "base": asdict(base)}
        changes = record_changes(cfg, now, self._run_dir)
        for key in ("base", "changes", "fingerprint", "functions"):
            if now.get(key, {}) != self._state.get(key, {}):
                self._set(now[key], key)
        if self._changes:
            self._commit()
        self.news += [f"changed: {change}" for change in changes]
        self._tell_unseen()

    def _tell_unseen(self) -> None:
        for key, function in self._state.get("functions", {}).items():
            if not function["source"]:
                self.news.append(
                    f"{key}={function['where']!r} has no source file: its changes are not noticed"
                )

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
                find_changes(cfg, read_ledger(path).state, run_dir)

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
            return cls(path, read_ledger(path), lock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Give the run directory free, with a file that holds all that was committed."""
        try:
            if self._has_committed and not self._changes:
                with suppress(LedgerError):  # the journal holds it: the next start writes the file
                    self._fold()
        finally:
            self._lock.close()

    # -- commits ---------------------------------------------------------------------------------

    def begin(self, round: int, exploration: Exploration) -> None:
        """What a round asks, before the first of it is stored; a round is begun once."""
        if self.begun(round) is None:
            self._set(exploration.as_entry(round), "begun")
            self._commit()

    def commit_tally(self, round: int, buffer_version: int, tally: Tally) -> None:
        """The exploration of a round is done, and the store sealed as `buffer_version`."""
        counted = {key: value for key, value in asdict(tally).items() if value is not None}
        entry = {"buffer_version": buffer_version, **counted}
        self._add(str(round), entry, "rounds", str(round), "explored")

    def commit_fit(self, round: int, fit: FitReport) -> None:
        entry = asdict(fit)
        path, run_dir = Path(fit.weights.path), self._path.parent
        if path.is_relative_to(run_dir):
            entry["weights"]["path"] = str(path.relative_to(run_dir))
        self._remove("begun")
        self._add(str(round), entry, "rounds", str(round), "trained")

    def commit_evaluation(
        self, number: int | None, evaluation: Evaluation, failures: Sequence[Failure] = ()
    ) -> None:
        """One commit says how a round was evaluated and, with failures, that it is rejected, and
        with it the rounds before that were not evaluated."""
        label = label_of(number)
        if not self.has_evaluation(number):
            self._set_failures(number, failures)
        self._add(label, asdict(evaluation), "evaluations", label)

    def commit_failures(self, round: int, failures: Sequence[Failure]) -> None:
        """Other failures of a rejected round, or none: it is accepted after all."""
        if tuple(failures) != self.round(round).failures:
            self._set_failures(round, failures)
            self._commit()

    def commit_regraded(self, before: int, after: int, summary: Mapping[str, object]) -> None:
        """Verdicts were replaced between two buffer versions. Tallies of explored rounds stay what
        they were: they say what was known when the round was trained."""
        entry = {"before": before, "after": after, **summary}
        self._set([*self.regrades, entry], "regrades")
        self._commit()

    def begin_taking(self, owner: str, version: int, rounds: Sequence[int]) -> None:
        """What is taken of another run, before the first of it is stored; it is begun once."""
        if self.taking is None:
            self._set({"run": owner, "version": version, "rounds": list(rounds)}, "taking")
            self._commit()

    def commit_taken(
        self, buffer_version: int, owner: str, taken: Mapping[str, int], aside: Mapping[str, int]
    ) -> None:
        """Rollouts of another run are in the store, by round; the others are counted by reason."""
        entry = {"run": owner, "rollouts": dict(taken), "aside": dict(aside)}
        self._set({"buffer_version": buffer_version, **entry}, "taken")
        self._remove("taking")
        self._commit()

    def commit_set_aside(self, after: int, num_problems: int, num_rollouts: int) -> None:
        """From version `after` on the store holds nothing about problems that changed."""
        entry = {"after": after, "problems": num_problems, "rollouts": num_rollouts}
        self._set([*self.asides, entry], "asides")
        self._commit()

    def commit_repaired(self, after: int, dropped: Sequence[str]) -> None:
        """What was damaged of the store is gone from version `after` on. The exploration of a round
        that is not trained yet goes on: the run asks for what is missing."""
        self._set([*self.repairs, {"after": after, "dropped": list(dropped)}], "repairs")
        self._drop_open_tally()
        self._commit()

    def reopen_round(self) -> None:
        """The exploration of a round that is not trained yet goes on, before rollouts of it go."""
        if self._drop_open_tally():
            self._commit()

    def _drop_open_tally(self) -> bool:
        label = str(self.next_round)
        if label not in self._rounds:
            return False
        self._remove("rounds", label)
        return True

    def _set_failures(self, number: int | None, failures: Sequence[Failure]) -> None:
        entries = [asdict(failure) for failure in failures]
        check_failures(entries)
        for label in map(str, self.judged_with(number)):
            if entries:
                self._set(entries, "rejected", label)
            elif label in self._rejected:
                self._remove("rejected", label)

    def _add(self, label: str, entry: dict[str, Any], *path: str) -> None:
        """Commit a part of a round with the time since the last such commit, unless it is there."""
        place = self._state
        for name in path[:-1]:
            place = place.get(name, {})
        if path[-1] in place:
            return
        now = time.monotonic()
        self._set(entry, *path)
        seconds = self._state["seconds"].get(label, 0.0)
        self._set(seconds + now - self._last_commit, "seconds", label)
        self._last_commit = now
        self._commit()

    def _set(self, value: Any, *path: str) -> None:
        """Change the state; `_commit` makes it last."""
        self._change((path, value))

    def _remove(self, *path: str) -> None:
        self._change((path, None))

    def _change(self, change: Change) -> None:
        apply(self._state, [change])
        self._changes.append(change)
        self._forget(change[0])

    # -- file ------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Make the changes last, by one line of the journal."""
        self._lock.require_ours()
        if self._state["schema"] != SCHEMA_VERSION:  # earlier versions would pass the journal over
            self._fold()
            return
        sequence = self._state.get(SEQUENCE, 0) + 1
        with self._refusals(journal_of(self._path)):
            self._journal.append(sequence, self._changes)
        self._state[SEQUENCE] = sequence
        self._changes = []
        self._has_committed = True

    def _fold(self) -> None:
        """Write the file with all there is, then begin the journal anew. Killed in between, the
        journal repeats what is in the file, and its numbers say so."""
        self._lock.require_ours()
        self._state["schema"] = SCHEMA_VERSION
        self._write(self._path, dump_state(self._state))
        self._changes = []
        self._begin_journal()
        self._has_committed = False

    def _begin_journal(self) -> None:
        with self._refusals(journal_of(self._path)):
            self._journal.begin_anew()

    def _write_config(self, cfg: Config) -> None:
        self._write(self._path.parent / STORED_NAME, dump_config(cfg))

    def _write(self, path: Path, text: str) -> None:
        with self._refusals(path):
            write_atomically(path, text)

    def _refusals(self, path: Path) -> AbstractContextManager[None]:
        what = f"{path} could not be written"
        return disk_errors(LedgerError, what, "what was committed before is intact")


def _new_state(cfg: Config, base: Weights) -> dict[str, Any]:
    functions = own_functions(cfg)
    return {
        "schema": SCHEMA_VERSION,
        "fingerprint": fingerprint(cfg),
        **({"functions": functions} if functions else {}),
        "wandb_id": f"{cfg.name}-{os.urandom(4).hex()}",
        "base": asdict(base),
        "rounds": {},
        "evaluations": {},
        "seconds": {},
    }
