"""A run as an iterator of its rounds, in the process of whoever asks for it.

Guarantees that a run and its actors end together: at the end of the iteration, when it is closed,
when the `with` block is left, or when nobody holds it any more. What is committed stays, so asking
again for the same run directory goes on. Knows no step of a run: it drives `virgo_ray.run.follow`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from virgo_ray.config import Config
from virgo_ray.config.opening import Opened, open_config
from virgo_ray.monitor.summary import intervals
from virgo_ray.records import Round

Source = str | os.PathLike[str] | Mapping[str, Any] | Config


@dataclass(frozen=True)
class CompletedRound(Round):
    """A round that is complete: what the ledger holds of it, and what follows from that.

    `evaluation` is None where `evaluate.every` leaves a round out. Example: `if done.evaluation:
    print(f"{done.label}: {done.evaluation.pass_at_1:.1%}, {done.intervals['pass_at_1']}")`.
    """

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of every accuracy that was measured, by its name in `evaluation`; empty
        for a round that was not evaluated."""
        return intervals(self.evaluation)

    @property
    def selected(self) -> dict[str, int]:
        """How many different examples the round was trained on, by where they come from:
        `{"seed_thoughts": 672, "text_traces": 0, "picture_traces": 542}`; empty where nothing was
        trained."""
        portions = self.fit.portions if self.fit else {}
        return {str(kind): portion.num_examples for kind, portion in portions.items()}


class Rounds(Iterator[CompletedRound]):
    """The rounds of a run, each as soon as it is complete; nothing starts before the first is asked
    for.

    Use it in a `for`, or as a context manager where it is kept in a variable:

        with virgo_ray.run_config("tiny") as rounds:
            for done in rounds:
                ...
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._rounds = _follow(config)

    @property
    def run_dir(self) -> Path:
        """The directory that the run is kept in."""
        return Path(self.config.run_dir)

    def __next__(self) -> CompletedRound:
        """The next round.

        Raises:
            VirgoError: what ends a run; GateError after the last round, where a gate ended it.
        """
        done = next(self._rounds)
        return CompletedRound(**{field.name: getattr(done, field.name) for field in fields(done)})

    def close(self) -> None:
        """End the actors and leave Ray; what is committed stays. Closing again changes nothing."""
        self._rounds.close()

    def __enter__(self) -> Rounds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def run_config(config: Source, overrides: Sequence[str] = ()) -> Rounds:
    """Do, or go on with, the run that a config describes; its rounds are what it iterates.

    Rounds that are already complete come first, from the ledger, then each as it is completed.

    Args:
        config: a YAML file, the name of a shipped config ("tiny"), what a file would hold
            (`{"include": "tiny", "seed": 1}`), or a Config.
        overrides: `key=value`, as on the command line.

    Raises:
        ConfigError: not readable, not valid, or with keys that contradict each other.
    """
    opened = _open(config, overrides)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # functions of the user's are found as by the command
    for remark in opened.remarks("the config"):
        warnings.warn(remark, stacklevel=2)
    return Rounds(opened.cfg)


def _open(config: Source, overrides: Sequence[str]) -> Opened:
    if isinstance(config, Config):
        return open_config(config.model_dump(mode="json", exclude_unset=True), overrides)
    return open_config(config if isinstance(config, Mapping) else os.fspath(config), overrides)


def _follow(config: Config) -> Generator[Round]:
    from virgo_ray.run import follow  # Ray and all rooms: only where something is run

    # Ray's and W&B's processes are forked from this one and exec at once.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    yield from follow(config)
