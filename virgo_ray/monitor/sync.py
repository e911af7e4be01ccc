"""`virgo-ray sync RUN`: send to Weights & Biases what a run could not send.

metrics.jsonl is the truth. A record that is in none of W&B's own files under `RUN/wandb` (W&B was
off, or killed before it wrote) is put into one more offline run; then all that was not uploaded is
handed to W&B's own `wandb sync`, oldest first, under the id that the run always had. What was
uploaded is marked, so a second call sends nothing twice. Only reads the run otherwise.

A run may go on meanwhile. The file that its W&B still writes is left alone: if that is offline, its
records so far are sent from metrics.jsonl, and once it has ended, only what is missing then.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import wandb

from virgo_ray.command import exit_code
from virgo_ray.config import Config, read_stored
from virgo_ray.config.stored import LEDGER_NAME
from virgo_ray.errors import ConfigError, VirgoError
from virgo_ray.files import lock_directory
from virgo_ray.ledger.file import read_state
from virgo_ray.ledger.lock import is_in_use
from virgo_ray.monitor.rows import to_row
from virgo_ray.monitor.wandb_sink import UPLOADED, open_run

PROG = "python -m virgo_ray.monitor.sync"
UPLOAD_DEADLINE_S = 3600.0
ADDED = "added"  # an empty file in the directory of a run that `sync` made
REPLACED = "replaced"  # the same, where what it holds was or is sent through other directories
# W&B's file: a header, then LevelDB's log format around its own messages.
HEADER_BYTES, BLOCK_BYTES = 7, 32768
PIECE = struct.Struct("<IHB")  # checksum, size, kind
WHOLE, LAST = 1, 4
Upload = Callable[[Path, str], None]


class SyncError(VirgoError):
    """W&B did not take what was sent."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog, description="Send to W&B what a run could not send.")
    parser.add_argument("run", metavar="RUN", help="the run directory")
    run_dir = Path(parser.parse_args(argv).run)
    return exit_code(lambda: sync(run_dir), "interrupted; the same command goes on")


def sync(run_dir: Path, upload: Upload | None = None) -> None:
    """
    Raises:
        ConfigError: there is no run.
        LedgerError: its ledger is damaged.
        SyncError: another sync goes on, or W&B did not take it; what was uploaded before is marked.
    """
    if not (run_dir / "metrics.jsonl").is_file():
        raise ConfigError(f"{str(run_dir)!r} has no metrics.jsonl; expected the run_dir of a run")
    cfg = read_stored(run_dir).model_copy(update={"run_dir": str(run_dir)})
    run_id = read_state(run_dir / LEDGER_NAME)["wandb_id"]
    way_out = "wait until the other `virgo-ray sync` has ended"
    with lock_directory(run_dir / "wandb", SyncError, f"{run_dir}/wandb", way_out):
        live = find_live(run_dir)
        for directory in find_replaced(run_dir, live):
            (directory / REPLACED).touch()
        num_added = add_missing(cfg, run_id, run_dir, live)
        left = [d for d in wandb_runs(run_dir) if d != live and not is_uploaded(d)]
        for directory in left:
            (upload or upload_run)(directory, run_id)
            (directory / UPLOADED).touch()
    print(f"{num_added} records were in metrics.jsonl only; {len(left)} W&B runs were uploaded")
    if live is not None:
        print("the run goes on: the same command sends what is new")


def find_live(run_dir: Path) -> Path | None:
    """The directory that the W&B of a run that goes on still writes to, if there is one."""
    started = [d for d in wandb_runs(run_dir) if not (d / ADDED).exists()]
    if not started or not is_in_use(run_dir) or has_ended(started[-1]):
        return None
    return started[-1]


def find_replaced(run_dir: Path, live: Path | None) -> list[Path]:
    """Directories with records that were sent before, while they were still written to: whole, they
    would send these twice."""
    runs = [d for d in wandb_runs(run_dir) if d != live]
    sent = {step for d in runs if is_uploaded(d) for step in steps_of(d)}
    return [d for d in runs if not is_uploaded(d) and not sent.isdisjoint(steps_of(d))]


def add_missing(cfg: Config, run_id: str, run_dir: Path, live: Path | None) -> int:
    """Put what W&B has in none of its files into one more offline run; returns how many.

    What an online `live` run has not written yet it will send itself.
    """
    known = {step for d in wandb_runs(run_dir) if d != live for step in steps_of(d)}
    end = None
    if live is not None and not live.name.startswith("offline"):
        end = min(steps_of(live), default=max(known, default=-1) + 1)
    num, began, run = 0, None, None
    for step, record in enumerate(read_lines(run_dir / "metrics.jsonl")):
        began = record.get("time") if began is None else began
        if not record or step in known or (end is not None and step >= end):
            continue
        run = run or open_run(cfg, run_id, "offline")
        run.log(to_row(record, began or 0.0), step=step)
        num += 1
    if run is not None:
        (Path(run.dir).parent / ADDED).touch()
        run.finish()
        wandb.teardown()  # until W&B's own process has written the file to its end
    return num


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """One record a line; an empty one for a line that a kill has torn."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                record = {}
            yield record if isinstance(record, dict) else {}


def wandb_runs(run_dir: Path) -> list[Path]:
    """W&B's directories of all starts, oldest first, without those that others replaced."""
    found = [path.parent for path in run_dir.glob("wandb/*run-*/*.wandb")]
    found = [d for d in found if not (d / REPLACED).exists()]
    return sorted(set(found), key=lambda d: d.name.partition("run-")[2])


def is_uploaded(directory: Path) -> bool:
    return (directory / UPLOADED).exists() or bool(list(directory.glob("*.wandb.synced")))


def upload_run(directory: Path, run_id: str) -> None:
    """
    Raises:
        SyncError: W&B's own command failed, or hangs.
    """
    words = ["sync", "--yes", "--include-online", "--id", run_id, str(directory)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", *words],
            capture_output=True, text=True, timeout=UPLOAD_DEADLINE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SyncError(
            f"W&B did not take {directory} within {UPLOAD_DEADLINE_S:g} s; see that the machine "
            "has a network, then run the same command again"
        ) from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise SyncError(
            f"W&B did not take {directory}: {' '.join(said)}; see that the machine has a network "
            "and a key (WANDB_API_KEY), then run the same command again"
        )


def steps_of(directory: Path) -> Iterator[int]:
    """The steps of the history in a run's file, as far as it was written."""
    for path in directory.glob("*.wandb"):
        for message in messages(path.read_bytes()):
            if message.HasField("history"):
                yield message.history.step.num


def has_ended(directory: Path) -> bool:
    """Whether a run's file was written to its end."""
    files = directory.glob("*.wandb")
    return any(m.HasField("exit") for file in files for m in messages(file.read_bytes()))


def messages(data: bytes) -> Iterator[Any]:
    """W&B's messages, up to where the file was cut off."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    place, whole = HEADER_BYTES, b""
    while place + PIECE.size <= len(data):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < PIECE.size:
            place += left
            continue
        _, size, kind = PIECE.unpack_from(data, place)
        if kind == 0:
            return
        place += PIECE.size
        whole += data[place : place + size]
        place += size
        if kind in (WHOLE, LAST):
            try:
                yield wandb_internal_pb2.Record.FromString(whole)  # type: ignore[attr-defined]
            except DecodeError:  # torn by a kill: what follows is of no use
                return
            whole = b""


if __name__ == "__main__":
    sys.exit(main())
