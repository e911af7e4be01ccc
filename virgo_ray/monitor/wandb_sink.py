"""Mirrors the metrics stream to Weights & Biases. What it lacks, `virgo-ray sync` sends later.

Own x-axes (`round`, `train_step`) and a run id kept in the ledger, so that a resumed run goes on in
the same W&B run; W&B's internal step is the record's place in the JSONL file, so that no point is
dropped for arriving with a step that an earlier start used. The JSONL file is the truth: a W&B
failure is said once, counted, and never stops the run; where W&B does not answer, the run is
offline. Keys are read by W&B itself from its own environment; none is stored here.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import wandb

from virgo_ray.config import Config
from virgo_ray.monitor.catalog import HELD_OUT, KINDS
from virgo_ray.ports import Record

ALWAYS_SKIPPED = ("time", "kind", "phase")
BY_PHASE = frozenset(kind.name for kind in KINDS if kind.by_phase)
ANSWER_S = 15.0  # for W&B's server at the start; its own default is 90
FINISH_S = 30.0  # for what is still to be sent at the end; then `virgo-ray sync` sends it
UPLOADED = "uploaded"  # an empty file in the directory of an online run that was sent whole


class WandbSink:
    """Sends numbers to a W&B run; what is not sent lies in `run_dir/wandb` for `virgo-ray sync`.

    `num_unsent` counts the records that W&B never took, not even offline.
    """

    def __init__(
        self, cfg: Config, run_id: str, say: Callable[[str], None], num_before: int = 0
    ) -> None:
        """`num_before` records were written by earlier starts of the run."""
        self._step = num_before
        self._is_broken = False
        self._say = say
        self._dir = cfg.run_dir
        self.num_unsent = 0
        self._guarded(lambda: self._open(cfg, run_id))

    def _open(self, cfg: Config, run_id: str) -> None:
        mode = resolve_mode(cfg.wandb.mode)
        self._is_online = mode == "online"
        try:
            self._run = open_run(cfg, run_id, mode)
        except wandb.errors.Error as error:
            if not self._is_online:
                raise
            self._is_online = False
            self._say(
                f"W&B does not answer, so this start is offline ({_first_line(error)}); "
                f"`virgo-ray sync {cfg.run_dir}` sends it later"
            )
            wandb.teardown(1)  # W&B's own process would call the id "in use"
            self._run = open_run(cfg, run_id, "offline")

    def write(self, record: Record) -> None:
        values = to_row(record)
        self._guarded(lambda: self._run.log(values, step=self._step))
        self.num_unsent += self._is_broken
        self._step += 1

    def close(self) -> None:
        self._guarded(self._finish)
        if self.num_unsent:
            self._say(
                f"W&B never took {self.num_unsent} records; `virgo-ray sync {self._dir}` sends them"
            )

    def _finish(self) -> None:
        self._run.finish()
        if self._is_online:
            (Path(self._run.dir).parent / UPLOADED).touch()

    def _guarded(self, call: Callable[[], object]) -> None:
        if self._is_broken:
            return
        try:
            call()
        except Exception as error:  # of whatever kind W&B's own process made it: the run goes on
            self._is_broken = True
            self._say(
                f"W&B is off until the next start: {_first_line(error)}; metrics.jsonl has "
                f"everything, and `virgo-ray sync {self._dir}` sends it later"
            )


def open_run(
    cfg: Config, run_id: str, mode: Literal["online", "offline", "disabled"], directory: str = ""
) -> wandb.Run:
    """A W&B run with our axes, in `directory` or the run directory.

    Raises:
        wandb.errors.Error: W&B's server does not answer within ANSWER_S, or refuses.
    """
    run = wandb.init(
        project=cfg.wandb.project,
        entity=cfg.wandb.entity,
        name=cfg.name,
        id=run_id,
        resume="allow",
        mode=mode,
        dir=directory or cfg.run_dir,
        config=cfg.model_dump(mode="json"),
        settings=wandb.Settings(
            silent=True, console="off", init_timeout=ANSWER_S, login_timeout=ANSWER_S,
            finish_timeout=FINISH_S, finish_timeout_raises=True,
        ),
    )  # fmt: skip
    run.define_metric("train_step")
    run.define_metric("round")
    for kind in (*KINDS, HELD_OUT):
        run.define_metric(f"{kind.name}/*", step_metric=kind.axis)
    return run


def to_row(record: Record) -> dict[str, Any]:
    """What W&B is given of a record: its axes, and its numbers under the name of its kind.

    >>> to_row({"kind": "phase", "phase": "start engines", "round": 1, "phase_seconds": 9.0})
    {'round': 1, 'phase/start_engines/phase_seconds': 9.0}
    """
    kind, phase = record.get("kind"), str(record.get("phase", "")).replace(" ", "_")
    prefix = f"{kind}/{phase}" if kind in BY_PHASE and phase else f"{kind}"
    numbers = {k: v for k, v in record.items() if k not in ALWAYS_SKIPPED and v is not None}
    axes: dict[str, Any] = {k: numbers.pop(k) for k in ("round", "train_step") if k in numbers}
    return {**axes, **{k if "/" in k else f"{prefix}/{k}": v for k, v in numbers.items()}}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def resolve_mode(
    mode: Literal["auto", "online", "offline", "disabled"],
) -> Literal["online", "offline", "disabled"]:
    """`auto` is online where W&B has a key (environment or ~/.netrc), else offline."""
    if mode != "auto":
        return mode
    return "online" if os.environ.get("WANDB_API_KEY") or _is_logged_in() else "offline"


def _is_logged_in() -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
