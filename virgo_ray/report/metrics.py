"""What the overview draws of `metrics.jsonl`, read on from where it was read to before.

A run of months writes more metrics than a round may take to read, so a digest is kept: losses
thinned to a bounded number of points, and the seconds of each phase by round.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_POINTS = 4000  # of a curve; beyond them every second one goes
CURVES = ("loss", "lr", "grad_norm", "tokens_per_s")
DURING = "train/"


def read_on(path: Path, digest: dict[str, Any]) -> dict[str, Any]:
    """`digest` with what was written to `path` since; a new one where the file is another.

    Only whole lines count; one that is being written is read the next time.
    """
    size = path.stat().st_size if path.is_file() else 0
    if not digest or digest["offset"] > size:
        digest = {"offset": 0, "every": 1, "seen": 0, "steps": [], "phases": {}}
    if not size:
        return digest
    with path.open("rb") as file:
        file.seek(digest["offset"])
        for line in file:
            if not line.endswith(b"\n"):
                break
            digest["offset"] += len(line)
            for record in _records(line):
                _add(digest, record)
    return digest


def _records(line: bytes) -> Iterator[dict[str, Any]]:
    try:
        found = json.loads(line)
    except ValueError:
        return  # torn by a full disk
    if isinstance(found, dict):
        yield found


def _add(digest: dict[str, Any], record: dict[str, Any]) -> None:
    if record.get("kind") == "train" and "train/loss" in record:
        _add_step(digest, record)
    elif record.get("kind") == "phase":
        label = "base" if record.get("round") is None else str(record["round"])
        own = digest["phases"].setdefault(label, {}).setdefault(record["phase"], [0.0, 0.0, 0.0])
        seconds, busy = record["phase_seconds"], record.get("device_busy_share")
        own[0] += seconds
        if busy is not None:
            own[1] += seconds * busy
            own[2] += seconds


def _add_step(digest: dict[str, Any], record: dict[str, Any]) -> None:
    digest["seen"] += 1
    if digest["seen"] % digest["every"]:
        return
    values = [record.get(DURING + name) for name in CURVES]
    digest["steps"].append([record.get("train_step"), record.get("round"), *values])
    if len(digest["steps"]) > MOST_POINTS:
        digest["steps"] = digest["steps"][1::2]
        digest["every"] *= 2
