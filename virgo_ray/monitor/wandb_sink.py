"""Mirrors the metrics stream to Weights & Biases.

Own x-axes (`round`, `train_step`) and a run id kept in the ledger, so that a resumed run goes on in
the same W&B run; W&B's internal step is the record's place in the JSONL file, so that no point is
dropped for arriving with a step that an earlier start used. The JSONL file is
the truth: a W&B failure is reported once and never stops the run. Keys are read by W&B itself from
its own environment; none is stored here.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import wandb

from virgo_ray.config import Config
from virgo_ray.ports import Record

ALWAYS_SKIPPED = ("time", "kind", "phase")


class WandbSink:
    """Sends numbers to a W&B run; offline runs lie in `run_dir/wandb` for `wandb sync`."""

    def __init__(
        self, cfg: Config, run_id: str, say: Callable[[str], None], num_before: int = 0
    ) -> None:
        """`num_before` records were written by earlier starts of the run."""
        self._step = num_before
        self._is_broken = False
        self._say = say
        self._guarded(lambda: self._open(cfg, run_id))

    def _open(self, cfg: Config, run_id: str) -> None:
        self._run = wandb.init(
            project=cfg.wandb.project,
            entity=cfg.wandb.entity,
            name=cfg.name,
            id=run_id,
            resume="allow",
            mode=resolve_mode(cfg.wandb.mode),
            dir=cfg.run_dir,
            config=cfg.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("train_step")
        self._run.define_metric("round")
        self._run.define_metric("train/*", step_metric="train_step")
        groups = ("heldout", "sampling", "push", "fit", "explore", "gate", "memory")
        for group in (f"{name}/*" for name in groups):
            self._run.define_metric(group, step_metric="round")

    def write(self, record: Record) -> None:
        kind = record.get("kind")
        numbers = {k: v for k, v in record.items() if k not in ALWAYS_SKIPPED and v is not None}
        axes: dict[str, Any] = {k: numbers.pop(k) for k in ("round", "train_step") if k in numbers}
        named = {k if "/" in k else f"{kind}/{k}": v for k, v in numbers.items()}
        self._guarded(lambda: self._run.log({**axes, **named}, step=self._step))
        self._step += 1

    def close(self) -> None:
        self._guarded(lambda: self._run.finish())

    def _guarded(self, call: Callable[[], object]) -> None:
        if self._is_broken:
            return
        try:
            call()
        except Exception as error:  # of whatever kind W&B's own process made it: the run goes on
            self._is_broken = True
            self._say(f"W&B is off until the next start: {error}; metrics.jsonl has everything")


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
