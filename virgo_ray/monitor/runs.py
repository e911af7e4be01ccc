"""`virgo-ray runs [DIR]`: the runs in a directory, their results, and where their configs differ.

Only reads, so runs may go on meanwhile. A run that cannot be read has a row that says so. Configs
hold no secrets; what could be one in an address (`https://user:password@...`) is hidden all the
same. Exit codes: 0 well; 2 there is no run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from virgo_ray.command import exit_code
from virgo_ray.config import Config, read_stored
from virgo_ray.config.describing import flatten, redact
from virgo_ray.config.stored import LEDGER_NAME
from virgo_ray.errors import ConfigError, LedgerError
from virgo_ray.ledger.file import read_state
from virgo_ray.ledger.gatekeeper import is_stopped
from virgo_ray.ledger.history import History
from virgo_ray.ledger.lock import is_in_use
from virgo_ray.monitor.summary import intervals
from virgo_ray.records import Round
from virgo_ray.traces.table import printable

PROG = "python -m virgo_ray.monitor.runs"
DEFAULT_DIR = "runs"
OF_THE_PLACE = ("run_dir", "name")  # differ in all runs and say nothing
Interval = tuple[float, float]


@dataclass(frozen=True)
class Listed:
    """A run: shares are fractions; `kept` is of the newest round that no gate rejected."""

    run: str
    state: str
    rounds: str = ""
    base_pass_at_1: float | None = None
    kept_round: str | int | None = None
    kept_pass_at_1: float | None = None
    interval: Interval | None = None
    kept_pass_at_k: float | None = None
    k: int | None = None
    hours: float = 0.0
    config: Mapping[str, Any] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog, description="List and compare the runs in a directory.")
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", default=DEFAULT_DIR,
        help=f"a directory of run directories, or one run (default: {DEFAULT_DIR})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(argv)
    return exit_code(lambda: show_runs(Path(options.directory), options.json))


def show_runs(directory: Path, as_json: bool = False) -> None:
    """
    Raises:
        ConfigError: there is no run.
    """
    found = [read_run(path) for path in find_runs(directory)]
    if not found:
        raise ConfigError(
            f"{str(directory)!r} holds no run; expected a directory with run directories in it"
        )
    differing = differing_keys(found)
    if as_json:
        rows = [{k: v for k, v in asdict(run).items() if k != "config"} for run in found]
        print(json.dumps({"runs": rows, "differing": differing}, indent=1))
    else:
        print_runs(Console(highlight=False), found, differing)


def find_runs(directory: Path) -> list[Path]:
    """The run directories in `directory`, or itself."""
    if (directory / LEDGER_NAME).is_file():
        return [directory]
    return sorted(path.parent for path in directory.glob(f"*/{LEDGER_NAME}"))


def read_run(run_dir: Path) -> Listed:
    """What is known of a run by now."""
    try:
        cfg = read_stored(run_dir)
        history = History(run_dir, read_state(run_dir / LEDGER_NAME))
    except (ConfigError, LedgerError) as error:
        return Listed(run_dir.name, f"not readable: {error}")
    rounds = history.rounds()
    evaluated = [r for r in rounds if r.evaluation is not None]
    kept = [r for r in evaluated if not r.is_rejected]
    listed = Listed(
        run=run_dir.name,
        state=_state(cfg, history, run_dir),
        rounds=f"{max(history.next_round - 1, 0)}/{cfg.rounds}",
        hours=round(sum(r.seconds for r in rounds) / 3600, 3),
        config=_shown_config(cfg),
    )
    return _with_results(listed, evaluated[0], kept[-1]) if kept else listed


def _with_results(listed: Listed, base: Round, kept: Round) -> Listed:
    figures = kept.measured
    return Listed(
        **{
            **vars(listed),
            "base_pass_at_1": base.measured.pass_at_1,
            "kept_round": kept.label,
            "kept_pass_at_1": figures.pass_at_1,
            "interval": intervals(figures).get("pass_at_1"),
            "kept_pass_at_k": figures.pass_at_k,
            "k": figures.k,
        }
    )


def _state(cfg: Config, history: History, run_dir: Path) -> str:
    if is_in_use(run_dir):
        return "running"
    if history.is_complete(cfg.rounds):
        return "done"
    return "stopped by a gate" if is_stopped(cfg.gates, history.newest) else "not finished"


def _shown_config(cfg: Config) -> dict[str, Any]:
    """Dotted keys and values, without what an address may hide."""
    return {key: redact(value) for key, value in flatten(cfg).items() if key not in OF_THE_PLACE}


def differing_keys(runs: Sequence[Listed]) -> dict[str, dict[str, Any]]:
    """{key: {run: value}} of every key that two runs have different values of."""
    readable = [run for run in runs if run.config]
    keys = dict.fromkeys(key for run in readable for key in run.config)
    found = {key: {run.run: run.config.get(key) for run in readable} for key in keys}
    return {key: of for key, of in found.items() if len({json.dumps(v) for v in of.values()}) > 1}


def print_runs(
    console: Console, runs: Sequence[Listed], differing: Mapping[str, Mapping[str, Any]]
) -> None:
    """Two tables: results, and for each key that differs its value in every run."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("run", "state", "rounds", "base", "kept", "95 %", "pass@k", "hours"):
        justify = "left" if name in ("run", "state") else "right"
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for run in runs:
        table.add_row(*(Text(printable(cell)) for cell in _cells(run)))
    console.print(table)
    console.print("base, kept: held-out pass@1 of the base and of the newest round that was kept")
    for key, values in differing.items():
        console.print(Text(printable(f"\n{key}")))
        for value, names in _by_value(values):
            console.print(Text(printable(f"  {value}: {', '.join(names)}")))


def _cells(run: Listed) -> Iterator[str]:
    yield from (run.run, run.state, run.rounds, _percent(run.base_pass_at_1))
    label = "" if run.kept_round is None else f" ({run.kept_round})"
    yield _percent(run.kept_pass_at_1) + label
    low_high = run.interval
    yield "" if low_high is None else "-".join(f"{100 * x:.0f}" for x in low_high)
    # Of one sample it says what pass@1 says.
    yield f"{_percent(run.kept_pass_at_k)} @{run.k}" if run.k and run.k > 1 else ""
    yield f"{run.hours:.1f}" if run.rounds else ""


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _by_value(values: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(a value, the runs that have it)."""
    found: dict[str, list[str]] = {}
    for run, value in values.items():
        found.setdefault(json.dumps(value, ensure_ascii=False), []).append(run)
    yield from found.items()


if __name__ == "__main__":
    sys.exit(main())
