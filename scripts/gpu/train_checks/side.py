"""A process that does what it is told: a JSON value per line, in and out.

What holds memory of the device, or dies on purpose, must not be the process that measures the other
rows. Such a process ends with the one that started it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from train_checks.table import Lines
from virgo_ray.node.orphans import die_with_parent

Say = Callable[[Mapping[str, Any]], None]
Commands = Mapping[str, Callable[..., Mapping[str, Any]]]


class Side:
    """A process of `train_checks.<module>`; what it prints goes to this process's stderr."""

    def __init__(self, module: str, *arguments: str) -> None:
        kit = str(Path(__file__).parents[1])
        known = [kit, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"train_checks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(known)},
        )
        assert self._process.stdout is not None
        self._lines = Lines(self._process.stdout.fileno())

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ask(self, do: str, seconds: float, **fields: Any) -> dict[str, Any]:
        self.tell(do, **fields)
        return self.answer(seconds)

    def tell(self, do: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next thing that it says.

        Raises:
            RuntimeError: it ended, or said nothing in time.
        """
        line = self._lines.next(seconds)
        if not line:
            why = f"said nothing in {seconds:g} s" if line is None else "ended"
            raise RuntimeError(f"the process {self._name} {why}; worker.log has what it printed")
        value: dict[str, Any] = json.loads(line)
        return value

    def kill(self) -> None:
        """End it without a word, and wait until it has gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def serve(commands: Callable[[Say], Commands]) -> None:
    """Be such a process: answer every command with what it returns, or with its `error`."""
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def say(value: Mapping[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")

    known = commands(say)
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = known[call.pop("do")](**call)
        except Exception as error:  # the boundary of a process: the row says what went wrong
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        say(answer)
