"""What round N was trained on, as far as the run can still tell.

Keys of selection may change on the way, and the store may change after a round. The values that
the keys had in a round are taken from the changes that the ledger recorded. What changed in the
store is not undone: the notes say that it did.
"""

from __future__ import annotations

from typing import Any

from virgo_ray.config import Config
from virgo_ray.config.stored import LEDGER_NAME
from virgo_ray.ledger.changes import choosing_config
from virgo_ray.ledger.file import read_fit, read_state
from virgo_ray.records import Kind
from virgo_ray.store.reader import TraceReader
from virgo_ray.traces.source import Run


def config_for(cfg: Config, run: Run, t: int) -> Config:
    """The config that round `t` chose its traces with; today's where the run has no ledger.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    return choosing_config(cfg, _state(run).get("changes", []), t)


def num_seeds_of(run: Run, t: int) -> int | None:
    """How many seed thoughts round `t` was trained on; None where its fit did not note it.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    entry = _state(run).get("rounds", {}).get(str(t), {})
    if "trained" not in entry:
        return None
    portion = read_fit(entry["trained"]).portions.get(Kind.SEED_THOUGHT)
    return None if portion is None else portion.num_examples


def later_changes(run: Run, reader: TraceReader, t: int) -> list[str]:
    """Why today's choice can differ from what round `t` was trained on; empty where it was not
    trained, and where nothing is known.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    state = _state(run)
    entry = state.get("rounds", {}).get(str(t), {})
    if "trained" not in entry or "explored" not in entry:
        return []
    version = entry["explored"]["buffer_version"]
    happened = {
        "verdicts were replaced (traces regrade)": any(
            regrade["before"] >= version for regrade in state.get("regrades", [])
        ),
        "damaged parts of the store were dropped (traces repair)": any(
            repair["after"] > version for repair in state.get("repairs", [])
        ),
        "rollouts about changed problems were left aside (data.accept_changes)": any(
            aside >= version for aside in reader.aside_versions()
        ),
    }
    return [
        f"{what} after round {t} was explored: these traces can differ from what it was trained on"
        for what, has_happened in happened.items()
        if has_happened
    ]


def _state(run: Run) -> dict[str, Any]:
    path = None if run.directory is None else run.directory / LEDGER_NAME
    return {} if path is None or not path.is_file() else read_state(path)
