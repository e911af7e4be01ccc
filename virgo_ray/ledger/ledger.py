"""The committed state of a run: one small JSON file, written to a temporary name and renamed.

What is in it happened; what is not did not. The same command on the same run directory reads
it and goes on. Committing the same half of a round twice changes nothing. The ledger knows versions
and tallies, never the traces or tensors themselves.

A run directory belongs to one living process: opening takes an advisory lock (`flock`), which the
operating system drops when that process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from virgo_ray.config import Config, dump_config, fingerprint, flatten, is_harmless, load_config
from virgo_ray.errors import ConfigError, LedgerError
from virgo_ray.files import write_atomically
from virgo_ray.ledger.file import SCHEMA_VERSION, read_state
from virgo_ray.ledger.gates import Failure, Reference
from virgo_ray.records import FitReport, Weights


@dataclass(frozen=True)
class RoundReport:
    """A round as committed; `round` is None for the base model before any training."""

    round: int | None
    weights: Weights
    exploration: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def label(self) -> str | int:
        return "base" if self.round is None else self.round


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

    @property
    def weights(self) -> Weights:
        """The newest trained weights that no gate rejected, or the base."""
        return [r.weights for r in self.reports() if not self.is_rejected(r.label)][-1]

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

    def is_explored(self, round: int) -> bool:
        return "explored" in self._rounds.get(str(round), {})

    def num_barren(self) -> int:
        """How many of the newest explorations, without a break, got nothing new accepted."""
        explored = [r["explored"] for t, r in self._rounds.items() if t != "0" and "explored" in r]
        # Runs of earlier versions did not count what is new.
        new = [entry.get("new", entry.get("accepted", 1)) for entry in reversed(explored)]
        return next((n for n, num in enumerate(new) if num), len(new))

    def is_complete(self, last_round: int) -> bool:
        """Whether every round up to `last_round` is trained and evaluated."""
        is_trained = self.next_round > last_round
        return is_trained and all(self.is_evaluated(r.label) for r in self.reports())

    def is_evaluated(self, label: str | int) -> bool:
        return str(label) in self._state["evaluations"]

    def evaluation(self, label: str | int) -> Mapping[str, Any]:
        return self._state["evaluations"][str(label)]

    def is_rejected(self, label: str | int) -> bool:
        return bool(self.gate_failures(label))

    def gate_failures(self, label: str | int) -> list[Failure]:
        """Why a round was rejected; empty for an accepted one and for the base."""
        return [Failure(**failure) for failure in self._rejected.get(str(label), ())]

    @property
    def references(self) -> list[Reference]:
        """Evaluations of the base and of every accepted round, in order."""
        labels = [r.label for r in self.reports()]
        accepted = [x for x in labels if self.is_evaluated(x) and not self.is_rejected(x)]
        return [Reference(x, self.evaluation(x)) for x in accepted]

    def report(self, round: int | None = None) -> RoundReport:
        """Of a trained round; without an argument the newest, or the base."""
        last = round if round is not None else self.next_round - 1
        if last < 0:
            return RoundReport(None, self.base, {}, {})
        entry = self._rounds[str(last)]
        fit = entry["trained"]
        weights = Weights(**fit["weights"])
        weights = self.base if weights.version == self.base.version else weights  # nothing trained
        return RoundReport(last, weights, entry.get("explored", {}), fit)

    def reports(self) -> list[RoundReport]:
        """The base and every trained round, in order."""
        trained = [self.report(t) for t in range(self.next_round)]
        return [RoundReport(None, self.base, {}, {}), *trained]

    # -- commits ---------------------------------------------------------------------------------

    def commit_explored(self, round: int, buffer_version: int, tally: Mapping[str, Any]) -> None:
        entry = {"buffer_version": buffer_version, **tally}
        self._add(self._rounds.setdefault(str(round), {}), "explored", entry, round)

    def commit_trained(self, round: int, fit: FitReport) -> None:
        self._add(self._rounds.setdefault(str(round), {}), "trained", asdict(fit), round)

    def commit_evaluated(
        self, label: str | int, result: Mapping[str, Any], failures: Sequence[Failure] = ()
    ) -> None:
        """One commit says how a round was evaluated and, with failures, that it is rejected."""
        if not self.is_evaluated(label):
            self._set_failures(label, failures)
        self._add(self._state["evaluations"], str(label), dict(result), label)

    def commit_judged_again(self, round: int, failures: Sequence[Failure]) -> None:
        """Other failures of a rejected round, or none: it is accepted after all."""
        if list(failures) != self.gate_failures(round):
            self._set_failures(round, failures)
            self._commit()

    def commit_regraded(self, before: int, after: int, summary: Mapping[str, Any]) -> None:
        """Verdicts were replaced between two buffer versions. Tallies of explored rounds stay what
        they were: they say what was known when the round was trained."""
        entry = {"before": before, "after": after, **summary}
        self._state["regrades"] = [*self.regrades, entry]
        self._commit()

    def _set_failures(self, label: str | int, failures: Sequence[Failure]) -> None:
        rejected = {k: v for k, v in self._rejected.items() if k != str(label)}
        rejected |= {str(label): [asdict(f) for f in failures]} if failures else {}
        if rejected or self._rejected:
            self._state["rejected"] = rejected

    def seconds(self, label: str | int) -> float:
        """Working time of a round; of an interrupted half, only what the last start spent on it."""
        return self._state["seconds"].get(str(label), 0.0)

    def _add(
        self, place: dict[str, Any], key: str, entry: dict[str, Any], label: str | int
    ) -> None:
        if key in place:
            return
        now = time.monotonic()
        place[key] = entry
        self._state["seconds"][str(label)] = self.seconds(label) + now - self._last_commit
        self._last_commit = now
        self._commit()

    # -- file ------------------------------------------------------------------------------------

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
        self._write(self._path.parent / "config.yaml", dump_config(cfg))

    def _write(self, path: Path, text: str) -> None:
        try:
            write_atomically(path, text)
        except OSError as error:
            raise LedgerError(
                f"{path} could not be written: {error}; what was committed before is intact. "
                "Free space or check the file system, then run the same command again"
            ) from error


def _lock(run_dir: Path, create: bool) -> IO[str]:
    try:
        if create:
            run_dir.mkdir(parents=True, exist_ok=True)
        return _take_lock(run_dir)
    except OSError as error:
        raise LedgerError(
            f"run_dir={str(run_dir)!r} cannot be written: {error}; choose another with run_dir=PATH"
        ) from error


def _take_lock(run_dir: Path) -> IO[str]:
    lock = open(run_dir / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held for the run's life
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise LedgerError(
            f"run_dir={str(run_dir)!r} is in use by process {lock.read().strip() or 'unknown'}; "
            "wait for it to end, stop it, or choose another with run_dir=PATH"
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()} on {os.uname().nodename}\n")
    lock.flush()
    return lock


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
        old = flatten(load_config(str(run_dir / "config.yaml")))
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
