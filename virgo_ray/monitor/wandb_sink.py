"""Mirrors the metrics stream to Weights & Biases. What it lacks, `virgo-ray sync` sends later.

Own x-axes (`monitor/rows.py`) and a run id kept in the ledger, so that a resumed run goes on in
the same W&B run; W&B's internal step is the record's place in the JSONL file, so that no point is
dropped for arriving with a step that an earlier start used. The JSONL file is the truth: a W&B
failure is said once, counted, and never stops the run; where W&B does not answer, the run is
offline. Keys are read by W&B itself from its own environment; none is stored here.

Beside numbers: a table of a round's examples, alerts where a gate rejects a round, and artifacts
that only name where weights and rollouts lie (`monitor/wandb_rounds.py`).
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import wandb

from virgo_ray.config import Config
from virgo_ray.config.describing import published
from virgo_ray.monitor.catalog import HOURS
from virgo_ray.monitor.metrics import Before
from virgo_ray.monitor.rows import curves, to_row
from virgo_ray.monitor.wandb_rounds import EXAMPLES, round_artifacts, round_table
from virgo_ray.ports import Record
from virgo_ray.records import Judged, Round

ANSWER_S = 15.0  # for W&B's server at the start; its own default is 90
FINISH_S = 30.0  # for what is still to be sent at the end; then `virgo-ray sync` sends it
UPLOADED = "uploaded"  # an empty file in the directory of an online run that was sent whole


class WandbSink:
    """Sends records to a W&B run; what is not sent lies in `run_dir/wandb` for `virgo-ray sync`.

    `num_unsent` counts the records that W&B never took, not even offline.
    """

    def __init__(
        self, cfg: Config, run_id: str, say: Callable[[str], None], before: Before | None = None
    ) -> None:
        """`before` is what earlier starts of the run wrote."""
        before = before or Before()
        self._step = before.num_records
        self._began = before.began
        self._is_broken = False
        self._say = say
        self._cfg = cfg
        self._run_id = run_id
        self.num_unsent = 0
        self._guarded(self._open)

    def _open(self) -> None:
        mode = resolve_mode(self._cfg.wandb.mode)
        self._is_online = mode == "online"
        try:
            self._run = open_run(self._cfg, self._run_id, mode)
        except wandb.errors.Error as error:
            if not self._is_online:
                raise
            self._is_online = False
            self._say(
                f"W&B does not answer, so this start is offline ({_first_line(error)}); "
                f"`virgo-ray sync {self._cfg.run_dir}` sends it later"
            )
            wandb.teardown(1)  # W&B's own process would call the id "in use"
            self._run = open_run(self._cfg, self._run_id, "offline")

    def write(self, record: Record) -> None:
        if self._began is None:
            self._began = float(record.get("time") or 0.0)
        values = to_row(record, self._began)
        self._guarded(lambda: self._run.log(values, step=self._step))
        if record.get("kind") == "gate":
            self._guarded(lambda: self._alert(record))
        self.num_unsent += self._is_broken
        self._step += 1

    def end_round(self, done: Round, examples: Sequence[Judged]) -> None:
        self._guarded(lambda: self._show_round(done, examples))

    def _show_round(self, done: Round, examples: Sequence[Judged]) -> None:
        """The table goes into the row of the round's last record, which is still open."""
        if examples:
            self._run.log({EXAMPLES: round_table(examples)}, step=max(self._step - 1, 0))
        for artifact, aliases in round_artifacts(self._cfg, self._run_id, done):
            self._run.log_artifact(artifact, aliases=aliases)

    def _alert(self, record: Record) -> None:
        self._run.alert(
            title=f"{self._cfg.name}: round {record.get('round')} is rejected",
            text=f"gates.{record.get('gate/gate')}={record.get('gate/limit')}: "
            f"{record.get('gate/figure')} is {record.get('gate/value')}, expected "
            f"{'at least' if record.get('gate/is_lower_bound') else 'at most'} "
            f"{record.get('gate/bound')}",
            level="WARN",
        )

    def close(self) -> None:
        self._guarded(self._finish)
        if self.num_unsent:
            self._say(
                f"W&B never took {self.num_unsent} records; "
                f"`virgo-ray sync {self._cfg.run_dir}` sends them"
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
                f"everything, and `virgo-ray sync {self._cfg.run_dir}` sends it later"
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
        group=cfg.wandb.group,
        tags=cfg.wandb.tags,
        name=cfg.name,
        id=run_id,
        resume="allow",
        mode=mode,
        dir=directory or cfg.run_dir,
        config=published(cfg),
        settings=wandb.Settings(
            silent=True, console="off", init_timeout=ANSWER_S, login_timeout=ANSWER_S,
            finish_timeout=FINISH_S, finish_timeout_raises=True,
        ),
    )  # fmt: skip
    for axis in ("round", "train_step", HOURS):
        run.define_metric(axis)
    for pattern, axis in curves():
        if "/" in axis:
            run.define_metric(axis)  # not over itself
        # Not the last value of the axis where a record has none: a curve has only its own places.
        run.define_metric(pattern, step_metric=axis, step_sync=False)
    run.define_metric(EXAMPLES, step_metric="round", step_sync=False)
    return run


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
