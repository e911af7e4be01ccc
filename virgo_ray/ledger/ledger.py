"""The committed state of a run: one small JSON file, written to a temporary name and renamed.

What is in it happened; what is not did not. The same command on the same run directory reads
it and goes on. Committing the same half of a round twice changes nothing. The ledger knows versions
and tallies, never the traces or tensors themselves.

A run directory belongs to one living process: opening takes an advisory lock (`flock`), which the
operating system drops when that process dies, however it dies.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from virgo_ray.config import Config, dump_config, fingerprint, flatten, is_harmless, read_stored
from virgo_ray.config.stored import STORED_NAME
from virgo_ray.errors import ConfigError, LedgerError
from virgo_ray.files import disk_errors, lock_directory, remove_drafts, write_atomically
from virgo_ray.ledger.file import (
    SCHEMA_VERSION,
    read_evaluation,
    read_fit,
    read_state,
    read_tally,
)
from virgo_ray.records import BASE, Evaluation, Failure, FitReport, Round, Tally, Weights


class Ledger:
    """Committed state of the run in `run_dir`.

    Example: `ledger = Ledger.open(cfg, base)`; `ledger.next_round` is the first round not trained.
    """

    def __init__(self, path: Path, state: dict[str, Any], lock: IO[str]) -> None:
        self._path = path
        self._state = state
        self._lock = lock
        self._last_commit = time.monotonic()

    @classmethod
    def open(cls, cfg: Config, base: Weights) -> Ledger:
        """Create or resume the ledger of `cfg.run_dir`.

        Raises:
            LedgerError: the directory is in use, damaged, or was made with another config.
        """
        run_dir = Path(cfg.run_dir)
        lock = _lock(run_dir, create=True)
        path = run_dir / "ledger.json"
        for written in (path, run_dir / STORED_NAME):
            remove_drafts(written)
        if path.exists():
            state = read_state(path)
            _refuse_other_config(cfg, state, run_dir)
            state["base"] = asdict(base)  # the same model may lie elsewhere by now
        else:
            state = _new_state(cfg, base)
        ledger = cls(path, state, lock)
        ledger._write_config(cfg)
        ledger._commit()
        return ledger

    @staticmethod
    def check(cfg: Config) -> None:
        """Raise what `open` would raise, before hours of reading data; commits nothing.

        Raises:
            LedgerError: as `open`.
        """
        run_dir = Path(cfg.run_dir)
        with _lock(run_dir, create=True):
            path = run_dir / "ledger.json"
            if path.exists():
                _refuse_other_config(cfg, read_state(path), run_dir)

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
        lock = _lock(run_dir, create=False)
        return cls(path, read_state(path), lock)

    def close(self) -> None:
        """Give the run directory free."""
        self._lock.close()

    # -- what happened ---------------------------------------------------------------------------

    @property
    def base(self) -> Weights:
        return Weights(**self._state["base"])

    @property
    def next_round(self) -> int:
        """The first round that is not trained yet."""
        return sum("trained" in r for r in self._rounds.values())

    def has_tally(self, round: int) -> bool:
        """Whether the exploration of a round is done."""
        return "explored" in self._rounds.get(str(round), {})

    def has_evaluation(self, number: int | None) -> bool:
        return _label(number) in self._state["evaluations"]

    def round(self, number: int | None) -> Round:
        """A round as far as it is committed; None: the base."""
        entry = {} if number is None else self._rounds[str(number)]
        label = _label(number)
        evaluation = self._state["evaluations"].get(label)
        fit = read_fit(entry["trained"]) if "trained" in entry else None
        return Round(
            number=number,
            weights=self._weights_of(fit),
            tally=read_tally(entry["explored"]) if "explored" in entry else None,
            fit=fit,
            evaluation=None if evaluation is None else read_evaluation(evaluation),
            failures=tuple(Failure(**failure) for failure in self._rejected.get(label, ())),
            seconds=self._state["seconds"].get(label, 0.0),
        )

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
        return [r.weights for r in self.rounds() if not r.is_rejected][-1]

    @property
    def references(self) -> list[Round]:
        """The base and every accepted round, as far as they are evaluated, in order."""
        return [r for r in self.rounds() if r.evaluation is not None and not r.is_rejected]

    def is_complete(self, last_round: int) -> bool:
        """Whether every round up to `last_round` is trained and evaluated."""
        is_trained = self.next_round > last_round
        return is_trained and all(self.has_evaluation(r.number) for r in self.rounds())

    def num_barren(self) -> int:
        """How many of the newest explorations, without a break, got nothing new accepted."""
        tallies = [self.round(int(t)).tally for t in self._rounds if t != "0"]
        found = [tally for tally in reversed(tallies) if tally is not None]
        # Runs of earlier versions did not count what is new.
        new = [tally.accepted if tally.new is None else tally.new for tally in found]
        return next((n for n, num in enumerate(new) if num), len(new))

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
        """Every version of the buffer that a finished exploration or a regrade named."""
        explored = [
            r["explored"]["buffer_version"] for r in self._rounds.values() if "explored" in r
        ]
        return [*explored, *(v for r in self.regrades for v in (r["before"], r["after"]))]

    @property
    def regrades(self) -> list[Mapping[str, Any]]:
        """What re-grading changed, the oldest first."""
        return self._state.get("regrades", [])

    # -- commits ---------------------------------------------------------------------------------

    def commit_tally(self, round: int, buffer_version: int, tally: Tally) -> None:
        """The exploration of a round is done, and the store sealed as `buffer_version`."""
        counted = {key: value for key, value in asdict(tally).items() if value is not None}
        entry = {"buffer_version": buffer_version, **counted}
        self._add(self._rounds.setdefault(str(round), {}), "explored", entry, str(round))

    def commit_fit(self, round: int, fit: FitReport) -> None:
        self._add(self._rounds.setdefault(str(round), {}), "trained", asdict(fit), str(round))

    def commit_evaluation(
        self, number: int | None, evaluation: Evaluation, failures: Sequence[Failure] = ()
    ) -> None:
        """One commit says how a round was evaluated and, with failures, that it is rejected."""
        label = _label(number)
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

    def _commit(self) -> None:
        self._write(self._path, json.dumps(self._state, indent=1))

    def _write_config(self, cfg: Config) -> None:
        self._write(self._path.parent / STORED_NAME, dump_config(cfg))

    def _write(self, path: Path, text: str) -> None:
        what = f"{path} could not be written"
        with disk_errors(LedgerError, what, "what was committed before is intact"):
            write_atomically(path, text)


def _label(number: int | None) -> str:
    return BASE if number is None else str(number)


def _lock(run_dir: Path, create: bool) -> IO[str]:
    name, way_out = f"run_dir={str(run_dir)!r}", "choose another with run_dir=PATH"
    return lock_directory(run_dir, LedgerError, name, way_out, create)


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


def _refuse_other_config(cfg: Config, state: Mapping[str, Any], run_dir: Path) -> None:
    if state["fingerprint"] == fingerprint(cfg):
        return
    try:
        old = flatten(read_stored(run_dir))
        new = flatten(cfg)
    except ConfigError as error:
        raise LedgerError(
            f"{run_dir} was made with another config, and its config.yaml cannot be read: {error}; "
            "choose another directory with run_dir=PATH"
        ) from error
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    changed = [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys if not is_harmless(k)]
    if not changed:  # made before some key existed, which has its default here
        return
    raise LedgerError(
        f"{run_dir} was made with another config; these keys changed:\n  "
        + "\n  ".join(changed)
        + "\nset them back to resume, or start a new run with run_dir=PATH"
    )
