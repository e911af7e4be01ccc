"""Writes the report of a run, or what is new since it was written last.

What was written of a round stays as long as the store has the same rows and verdicts of it; what is
written anew goes into a folder of another name. So a writing may be killed at any time: the page
shows what it showed before, or what is new, and the next writing keeps every round that was
complete. With a limit in seconds the writing ends in good time with whole files, says what is left,
and the next one goes on there. A folder that holds another run's report is written anew. Reads the
run, changes nothing of it, and may look at one that is going on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from virgo_ray.config import Config
from virgo_ray.config.stored import LEDGER_NAME
from virgo_ray.errors import ConfigError, TraceStoreError
from virgo_ray.ledger.file import read_state
from virgo_ray.ledger.history import History
from virgo_ray.report import metrics
from virgo_ray.report.noting import note_path
from virgo_ray.report.overview import describe_run
from virgo_ray.report.pages import Folder
from virgo_ray.report.provenance import read_starts
from virgo_ray.report.rollouts import OPINIONS, STATUSES, Deadline, write_round
from virgo_ray.report.training import write_fit
from virgo_ray.store.dataset import locate_store
from virgo_ray.store.reader import TraceReader
from virgo_ray.traces.source import find_run

NAME = "report"
PAGE = "index.html"
STATE = "state.json"
FORMAT = 2  # of the data files; those of another one are written anew


@dataclass(frozen=True)
class Written:
    """What a writing came to. `left` says what there was no time for."""

    page: Path
    num_files: int
    num_rollouts: int
    left: tuple[str, ...]


def write_report(run_dir: Path, out: Path | None = None, seconds: float | None = None) -> Written:
    """Write the report of the run in `run_dir` to `out` (default: `RUN/report`).

    With `seconds` it stops soon after that many.

    Raises:
        ConfigError: no run has begun there.
        TraceStoreError: its rollouts cannot be read.
        LedgerError: its ledger cannot be read.
        DiskError: the file system refused.
    """
    run = find_run(str(run_dir))
    cfg = run.needed_config("a report")
    if not (run_dir / LEDGER_NAME).is_file():
        raise ConfigError(f"{run_dir} has no {LEDGER_NAME}; expected the directory of a run")
    deadline = Deadline.after(seconds)
    folder = Folder(run_dir / NAME if out is None else out)
    history = History(run_dir, read_state(run_dir / LEDGER_NAME))
    before = folder.read_state(STATE)
    state = before
    if (state.get("format"), state.get("run")) != (FORMAT, history.wandb_id):
        state = {
            "format": FORMAT, "run": history.wandb_id, "rounds": {}, "fits": {}, "metrics": {},
        }  # fmt: skip
    _copy_app(folder)
    state["metrics"] = metrics.read_on(run_dir / "metrics.jsonl", state["metrics"])
    writing = _Writing(folder, cfg, run_dir, history, state, deadline, folders_of(before))
    left = writing.write()
    num_rollouts = sum(known["written"] for known in state["rounds"].values())
    return Written(folder.root / PAGE, folder.num_written, num_rollouts, tuple(left))


def folders_of(state: dict[str, Any]) -> set[str]:
    """The data folders that a state names."""
    parts = (*state.get("rounds", {}).values(), *state.get("fits", {}).values())
    return {part["folder"] for part in parts if "folder" in part}


@dataclass(frozen=True)
class _Piece:
    """Something to write: `write` does it, and says whether nothing of it is left."""

    name: str
    write: Callable[[], bool]


@dataclass(frozen=True)
class _Writing:
    """One writing; `state` is what the next one goes on from."""

    folder: Folder
    cfg: Config
    run_dir: Path
    history: History
    state: dict[str, Any]
    deadline: Deadline
    before: Set[str]  # folders that the last writing named

    def write(self) -> list[str]:
        """Write what is new, piece by piece; returns what there was no time for.

        The overview comes first: whatever becomes of the rest, it is of now.
        """
        pieces = [*self._rounds(), *self._fits()]
        left = [piece.name for piece in pieces]
        self._keep(left)
        for piece in pieces:
            if self.deadline.is_over:
                break
            if piece.write():
                left.remove(piece.name)
            self._keep(left)
        return left

    def _keep(self, left: list[str]) -> None:
        """The page first: what the state does not name yet is written again, under another name.
        What neither names any more goes last."""
        self.folder.put("run", self._overview(left))
        self.folder.write_state(STATE, self.state)
        self.folder.sweep(self.before, folders_of(self.state))

    def _overview(self, left: list[str]) -> dict[str, Any]:
        digest = self.state["metrics"]
        return {
            **describe_run(self.cfg, self.history),
            "run_dir": str(self.run_dir.absolute()),
            "written": round(time.time()),
            "left": left,
            "statuses": STATUSES,
            "opinions": OPINIONS,
            "stored": _shown(self.state["rounds"]),
            "fits": _shown(self.state["fits"]),
            "steps": {"columns": ["step", "round", *metrics.CURVES], "rows": digest["steps"]},
            "phases": digest["phases"],
            "starts": read_starts(self.run_dir),
        }

    def _rounds(self) -> Iterator[_Piece]:
        """The newest round first: it is what somebody looks at."""
        try:
            reader = TraceReader.open(locate_store(self.run_dir, self.cfg.store))
        except TraceStoreError:
            rounds = (r.number for r in self.history.rounds() if r.number is not None)
            if any(map(self.history.has_tally, rounds)):
                raise
            return  # nothing was asked yet
        counts, known = reader.row_counts(), self.state["rounds"]
        for gone in set(known) - {str(round) for round in counts}:
            del known[gone]
        for round in sorted(counts, reverse=True):
            signature = [counts[round], len(self.history.regrades), len(self.history.asides)]
            own = known.get(str(round), {})
            if own.get("signature") != signature:
                own = {}
            if not own or not _is_whole(own):
                yield _Piece(f"round {round}", partial(self._round, reader, round, own, signature))

    def _round(
        self, reader: TraceReader, round: int, known: dict[str, Any], signature: list[int]
    ) -> bool:
        objective = self.cfg.train.objective
        known = write_round(self.folder, reader, round, known, self.deadline, objective)
        self.state["rounds"][str(round)] = {**known, "signature": signature}
        return _is_whole(known)

    def _fits(self) -> Iterator[_Piece]:
        """Fits that were noted, the newest first; of others nothing is shown."""
        known = self.state["fits"]
        for done in reversed(self.history.rounds()):
            if done.number is None or done.fit is None or not done.fit.num_steps:
                continue
            label, version = str(done.number), done.fit.weights.version
            signature = [version, done.fit.num_steps]
            if known.get(label, {}).get("signature") == signature:
                continue
            known.pop(label, None)
            if note_path(self.run_dir, version).is_file():
                name = f"what round {label} was trained on"
                yield _Piece(name, partial(self._fit, label, version, signature))

    def _fit(self, label: str, version: int, signature: list[int]) -> bool:
        base = self.history.base.path
        if found := write_fit(self.folder, self.cfg, self.run_dir, base, version):
            self.state["fits"][label] = {**found, "signature": signature}
        return True


def _shown(parts: dict[str, Any]) -> dict[str, Any]:
    """What the page is told of rounds or fits."""
    return {
        label: {key: value for key, value in known.items() if key != "signature"}
        for label, known in parts.items()
    }


def _is_whole(known: dict[str, Any]) -> bool:
    return bool(known["written"] == known["rows"] and known["has_pictures"])


def _copy_app(folder: Folder) -> None:
    """The page itself: style, scripts, and the plotting library with its licence."""

    def copy(place: Traversable, name: str) -> None:
        for item in place.iterdir():
            path = f"{name}{item.name}"
            if item.is_dir():
                copy(item, f"{path}/")
            elif not item.name.startswith("."):
                folder.write(path, item.read_bytes())

    copy(files("virgo_ray.report") / "app", "")
