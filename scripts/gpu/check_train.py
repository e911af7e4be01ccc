"""Ten minutes on one GPU: what the trainer costs there, and that it computes the right thing.

    python scripts/gpu/check_train.py --out gpu-train --seconds 480
    python scripts/gpu/check_train.py --out gpu-train --small --cpu     # rehearsal, no GPU

Needs torch, torchvision and what `scripts/gpu/bundle.sh` brings; no Ray, no vLLM, no network. The
models have the sizes of Qwen2.5-VL and random weights. Every row is printed, and appended to
`rows.jsonl` in the output directory, as soon as it is known. The exit code is 1 if a row failed or
was not reached. `docs/gpu-checks.md` explains the rows; `record.py` turns them into a table.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from train_checks.scale import REAL, SMALL
from train_checks.table import BAD, Driver, Group, append_json

NEEDED_BYTES = 45e9  # models and checkpoints of the real sizes
FORBIDDEN = ("ray", "vllm", "lance")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    groups = chosen((SMALL if args.small else REAL).groups, args.rows)
    if args.worker:
        return work(args, groups)
    if not groups:
        print(f"no row matches {args.rows}; see --list", file=sys.stderr)
        return 2
    if args.list:
        print("\n".join(row for group in groups for row in group.rows))
        return 0
    return drive(args, groups)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-train"), metavar="DIR",
                        help="output directory (default: gpu-train)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=480.0,
                        help="the whole check ends within this time (default: 480)")  # fmt: skip
    parser.add_argument("--small", action="store_true",
                        help="small models and batches instead of real ones")  # fmt: skip
    parser.add_argument("--cpu", action="store_true", help="use no GPU even if there is one")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN",
                        help="only rows whose name matches, such as 'fit/3b/*'")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the names of the rows and end")
    parser.add_argument("--work", type=Path, metavar="DIR",
                        help="directory for models, kept afterwards (default: a temporary one, "
                        "in /dev/shm if there is room)")  # fmt: skip
    parser.add_argument("--worker", nargs="+", metavar="ROW", help=argparse.SUPPRESS)
    parser.add_argument("--events", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.rows = args.worker or args.rows
    return args


def chosen(groups: Sequence[Group], patterns: Sequence[str]) -> list[Group]:
    """The groups with the rows that match a pattern, without those that have none."""
    kept = [
        replace(g, rows=tuple(r for r in g.rows if any(fnmatch.fnmatch(r, p) for p in patterns)))
        for g in groups
    ]
    return [group for group in kept if group.rows]


# -- the driver: no torch here ---------------------------------------------------------------------


def drive(args: argparse.Namespace, groups: Sequence[Group]) -> int:
    """Run the rows in worker processes, print and write what they report."""
    args.out.mkdir(parents=True, exist_ok=True)
    rows = args.out / "rows.jsonl"
    rows.unlink(missing_ok=True)
    place = args.work or Path(tempfile.mkdtemp(prefix="gpu-train-", dir=_roomy_directory()))
    options = [f for f, is_set in (("--small", args.small), ("--cpu", args.cpu)) if is_set]
    command = [sys.executable, sys.argv[0], *options, "--out", str(args.out), "--work", str(place)]
    statuses = []
    try:
        driver = Driver(command, args.out / "worker.log", args.seconds)
        for result in driver.results(groups):
            print(result.line, flush=True)
            append_json(rows, result)
            statuses.append(result.status)
    finally:
        if args.work is None:
            shutil.rmtree(place, ignore_errors=True)
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in sorted(set(statuses)))
    print(f"{len(statuses)} rows: {counts}; written to {rows}")
    return int(any(status in BAD for status in statuses))


def _roomy_directory() -> str | None:
    """Memory rather than disk, where there is enough of it."""
    shm = Path("/dev/shm")
    is_roomy = shm.is_dir() and shutil.disk_usage(shm).free > NEEDED_BYTES
    return str(shm) if is_roomy else None


# -- the worker ------------------------------------------------------------------------------------


def work(args: argparse.Namespace, groups: Sequence[Group]) -> int:
    """Measure rows and report them on the pipe; ends after a row that failed."""
    if args.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    from train_checks import card
    from train_checks.kit import Kit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.cpu:
        raise SystemExit("no GPU is visible; give --cpu (and --small) to rehearse without one")
    if device == "cpu":
        torch.set_num_threads(1)  # of small tensors, more threads wait for each other
    kit = Kit(SMALL if args.small else REAL, device, args.work, args.out)
    (args.out / "about.json").write_text(json.dumps(card.about(), indent=1))
    send = Sender(args.events)
    send.value({"ready": True})
    for group in groups:
        missing = list(group.rows)

        def emit(
            row: str, figures: Mapping[str, Any], error: str = "", skipped: str = "",
            missing: list[str] = missing,
        ) -> None:  # fmt: skip
            missing.remove(row)
            send.row(row, figures, _imported() or error, skipped)

        try:
            importlib.import_module(f"train_checks.{group.module}").run(kit, group.rows, emit)
        except Exception as error:  # the boundary of a row: the driver goes on with a new worker
            import traceback

            traceback.print_exc()
            send.row(missing[0], {}, f"{type(error).__name__}: {str(error)[:400]}")
        _free(device)
    return 0


def _imported() -> str:
    found = [name for name in FORBIDDEN if name in sys.modules]
    return f"{found} were imported, expected none of them here" if found else ""


def _free(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


class Sender:
    """The worker's end of the pipe. After a row that failed the process ends: what a failure left
    on the device must not disturb the rows after it."""

    def __init__(self, events: int) -> None:
        self._pipe = os.fdopen(events, "w", buffering=1)

    def value(self, value: Any) -> None:
        self._pipe.write(json.dumps(value) + "\n")

    def row(self, row: str, figures: Mapping[str, Any], error: str = "", skipped: str = "") -> None:
        status = "failed" if error else "skipped" if skipped else "ok"
        said = error or skipped
        self.value({"row": row, "status": status, "figures": dict(figures), "error": said})
        if error:
            self._pipe.flush()
            os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
