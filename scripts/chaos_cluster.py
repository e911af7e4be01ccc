"""A Ray cluster of several nodes on this machine, for chaos.py to lose parts of.

Every node is `ray start --block` with a raylet of its own. Ends with its owner's `close`; only its
own processes are touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from chaos_kills import kill

START_DEADLINE_S = 120.0
NUM_TRIES = 3
IS_UP = "This command will now block"  # what `ray start --block` says then
OBJECT_STORE_BYTES = 150 * 2**20
CPUS = 3  # of a node but the head; with placement.cpus_per_worker=1 the actors need two nodes


class Nodes:
    """A head and `num - 1` others; `keep_up` starts anew what is gone."""

    def __init__(self, num: int, settings: Mapping[str, str]) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        unbuffered = {"PYTHONUNBUFFERED": "1"}  # what a node says is waited for
        self.env = {**kept, **unbuffered, "RAY_AUTH_MODE": "disabled", **settings}
        self._num = num
        self._head: subprocess.Popen[bytes] | None = None
        self._others: list[subprocess.Popen[bytes]] = []
        # Sockets lie below: a long path would be refused.
        self._temp = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
        self._logs: dict[int, Path] = {}
        self.address = ""

    def keep_up(self) -> None:
        """Start the head and the nodes that are not there, and wait for them."""
        if self._head is None or self._head.poll() is not None or not self._is_listening():
            self._start_head()
        self._others = [node for node in self._others if node.poll() is None]
        while len(self._others) < self._num - 1:
            self._add()

    def processes(self) -> list[psutil.Process]:
        """All that belongs to the nodes, actors included, but for the nodes' own commands."""
        found: list[psutil.Process] = []
        for node in self._commands():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += psutil.Process(node.pid).children(recursive=True)
        return found

    def others(self) -> list[psutil.Process]:
        """The raylets of all nodes but the head."""
        return [raylet for node in self._others for raylet in _raylets(node.pid)]

    def lose(self) -> None:
        """Kill all of it at once."""
        gone = self.processes()
        for process in gone:
            kill(process)
        for node in self._commands():
            node.kill()
            node.wait(10)
        psutil.wait_procs(gone, timeout=10)
        self._head, self._others = None, []

    def close(self) -> None:
        self.lose()
        shutil.rmtree(self._temp, ignore_errors=True)

    def _commands(self) -> list[subprocess.Popen[bytes]]:
        return [*([self._head] if self._head else []), *self._others]

    def _start_head(self) -> None:
        """Again where Ray gives up, as it does after 30 seconds on a busy machine."""
        for _ in range(NUM_TRIES):
            self.lose()
            port = free_port()
            self.address = f"127.0.0.1:{port}"
            head = self._head = self._start("--head", "--num-cpus=0", f"--port={port}",
                f"--temp-dir={self._temp}", "--include-dashboard=false",
                f"--ray-client-server-port={free_port()}")  # fmt: skip
            if self._comes_up(head) and self._is_listening():
                return
        raise RuntimeError(f"`ray start --head` ended {NUM_TRIES} times; look at {self._temp}")

    def _add(self) -> None:
        """One node; it is waited for, since two that start at once would share their sockets."""
        node = self._start(f"--address={self.address}", f"--num-cpus={CPUS}")
        self._others.append(node)
        self._comes_up(node)

    def _comes_up(self, node: subprocess.Popen[bytes]) -> bool:
        """Whether it is registered with the head, or ended instead."""
        log = self._logs[node.pid]
        self._wait(lambda: node.poll() is not None or IS_UP in log.read_text(), "no node came up")
        return node.poll() is None

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        ray = Path(sys.executable).parent / "ray"
        common = ("--block", f"--object-store-memory={OBJECT_STORE_BYTES}")
        with tempfile.NamedTemporaryFile(dir=self._temp, delete=False) as log:
            node = subprocess.Popen(
                [str(ray), "start", *words, *common], env=self.env, start_new_session=True,
                stdout=log, stderr=log,
            )  # fmt: skip
        self._logs[node.pid] = Path(log.name)
        return node

    def _is_listening(self) -> bool:
        host, _, port = self.address.partition(":")
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return True
        return False

    def _wait(self, is_done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while not is_done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} after {START_DEADLINE_S:.0f} s")
            time.sleep(0.2)


def _raylets(node: int) -> list[psutil.Process]:
    """The raylet below a node's command, if it is there."""
    try:
        below = psutil.Process(node).children(recursive=True)
        return [process for process in below if process.name() == "raylet"]
    except psutil.NoSuchProcess:
        return []


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
