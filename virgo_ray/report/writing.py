"""Writes the report of a run, or what is new since it was written last.

What was written of a round stays as long as the store has the same rows and verdicts of it. With a
limit in seconds the writing ends in good time with whole files, says what is left, and the next one
goes on there. Reads the run, changes nothing of it, and may look at one that is going on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
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
FORMAT = 1  # of the data files; those of another one are written anew


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
    state = folder.read_state(STATE)
    if state.get("format") != FORMAT:
        state = {"format": FORMAT, "rounds": {}, "fits": {}, "metrics": {}}
    _copy_app(folder)
    state["metrics"] = metrics.read_on(run_dir / "metrics.jsonl", state["metrics"])
    left = _write_rounds(folder, cfg, run_dir, history, state, deadline)
    left += _write_fits(folder, cfg, run_dir, history, state, deadline)
    folder.put("run", _overview(cfg, run_dir, history, state, left))
    folder.write_state(STATE, state)
    num_rollouts = sum(known["written"] for known in state["rounds"].values())
    return Written(folder.root / PAGE, folder.num_written, num_rollouts, tuple(left))


def _overview(
    cfg: Config, run_dir: Path, history: History, state: dict[str, Any], left: list[str]
) -> dict[str, Any]:
    hidden = ("signature",)
    rounds = {
        label: {k: v for k, v in known.items() if k not in hidden}
        for label, known in state["rounds"].items()
    }
    digest = state["metrics"]
    return {
        **describe_run(cfg, history),
        "run_dir": str(run_dir.absolute()),
        "written": round(time.time()),
        "left": left,
        "statuses": STATUSES,
        "opinions": OPINIONS,
        "stored": rounds,
        "fits": state["fits"],
        "steps": {"columns": ["step", "round", *metrics.CURVES], "rows": digest["steps"]},
        "phases": digest["phases"],
        "starts": read_starts(run_dir),
    }


def _write_rounds(
    folder: Folder,
    cfg: Config,
    run_dir: Path,
    history: History,
    state: dict[str, Any],
    deadline: Deadline,
) -> list[str]:
    """The newest round first: it is what somebody looks at."""
    try:
        reader = TraceReader.open(locate_store(run_dir, cfg.store))
    except TraceStoreError:
        if any(history.has_tally(r.number) for r in history.rounds() if r.number is not None):
            raise
        return []  # nothing was asked yet
    left = []
    counts = reader.row_counts()
    for gone in set(state["rounds"]) - {str(round) for round in counts}:
        del state["rounds"][gone]
    for round in sorted(counts, reverse=True):
        signature = [counts[round], len(history.regrades), len(history.asides)]
        known = state["rounds"].get(str(round), {})
        if known.get("signature") != signature:
            known = {}
        if deadline.is_over and (not known or not _is_whole(known)):
            left.append(f"round {round}")
            continue
        if not known or not _is_whole(known):
            known = write_round(folder, reader, round, known, deadline, cfg.train.objective)
        state["rounds"][str(round)] = {**known, "signature": signature}
        if not _is_whole(known):
            left.append(f"round {round}")
    return left


def _is_whole(known: dict[str, Any]) -> bool:
    return known["written"] == known["rows"] and known["has_pictures"]


def _write_fits(
    folder: Folder,
    cfg: Config,
    run_dir: Path,
    history: History,
    state: dict[str, Any],
    deadline: Deadline,
) -> list[str]:
    left = []
    for done in reversed(history.rounds()):
        if done.number is None or done.fit is None or not done.fit.num_steps:
            continue
        label = str(done.number)
        if label in state["fits"]:
            continue
        if deadline.is_over:
            left.append(f"what round {label} was trained on")
            continue
        version = done.fit.weights.version
        if found := write_fit(folder, cfg, run_dir, history.base.path, version):
            state["fits"][label] = found
    return left


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
