"""The command that chaos.py disturbs: started as often as needed, watched from outside."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from chaos_cluster import Nodes
from chaos_kills import WORKERS, parts, title

from virgo_ray.config import Config, resolve_run_dir

WRITTEN_S = 2.0  # for the last words of a driver
END_DEADLINE_S = 180.0  # for a driver whose cluster is gone, and for what a dead driver started
# `tiny  round 1/2  sample  312/1600`, as the console prints it.
PHASE = re.compile(r"  round (\w+)/\d+  (\w+(?: \w+)*)")


class Run:
    """One command, started as often as needed."""

    def __init__(
        self,
        cfg: Config,
        config: str,
        overrides: Sequence[str],
        nodes: Nodes | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` are environment variables for a cluster that the run itself starts."""
        self.nodes = nodes
        self._settings = dict(settings or {})
        self.rounds = cfg.rounds
        self.run_dir = resolve_run_dir(cfg.run_dir)
        self.log = Path(f"{self.run_dir}.chaos.log")
        self.cfg = cfg
        self._command = [sys.executable, "-m", "virgo_ray.run", config, *overrides]
        self._process: subprocess.Popen[bytes] | None = None
        self._printed_before = 0
        self.was_harmed = False
        self.has_failed = False
        self.problems: list[str] = []

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._printed_before = self.log.stat().st_size if self.log.exists() else 0
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | self._settings
        if self.nodes is not None:
            self.nodes.keep_up()
            environment = {**self.nodes.env, "RAY_ADDRESS": self.nodes.address}
        with open(self.log, "ab") as log:  # by another process, which a full disk does not meet
            writer = self._writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        self._process = subprocess.Popen(
            [*self._command, f"rounds={self.rounds}"],
            stdout=writer.stdin, stderr=writer.stdin, env=environment, start_new_session=True,
        )  # fmt: skip
        assert writer.stdin is not None
        writer.stdin.close()
        self.was_harmed = False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "start() comes first"
        return self._process

    def started(self) -> list[psutil.Process]:
        """Everything that this start of the run has started, directly or not, and the nodes."""
        found = self.nodes.processes() if self.nodes is not None else []
        with contextlib.suppress(psutil.NoSuchProcess):
            found += psutil.Process(self.process.pid).children(recursive=True)
        return found

    def printed(self) -> str:
        """What this start has printed so far."""
        with open(self.log, "rb") as log:
            log.seek(self._printed_before)
            return log.read().decode(errors="replace")

    def phase(self) -> str:
        found = PHASE.findall(self.printed())
        return f"{found[-1][0]} {found[-1][1]}" if found else "start"

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None if it still runs after that time."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):  # others may hold its end of the pipe
            self._writer.wait(WRITTEN_S)
        return code

    def end(self) -> None:
        """Kill the driver; nothing that it started may outlive it."""
        left = self.started()
        if self.nodes is not None:  # nodes stay, what ran on them does not
            left = [p for kind in (*WORKERS, "engine") for p in parts(left, kind)]
        self.process.kill()
        self.process.wait(END_DEADLINE_S)
        self.expect_gone(left)

    def expect_gone(self, processes: list[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(processes, timeout=END_DEADLINE_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.problems.append(f"{title(process)!r} outlived its driver")
                process.kill()
