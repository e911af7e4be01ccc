"""TensorBoard, MLflow and trackio, by `trackers` of the config, through accelerate's trackers.

They are given the numbers that W&B is given, under the same names (`monitor/rows.py`); steps are
whole numbers. Each is a package of its own, asked for before anything starts. A tracker that fails
is said once and is off until the next start: metrics.jsonl has everything.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from virgo_ray.config import Config
from virgo_ray.errors import ConfigError
from virgo_ray.monitor.catalog import HOURS
from virgo_ray.monitor.metrics import Before
from virgo_ray.monitor.rows import NO_NUMBERS, step_of, to_row
from virgo_ray.ports import Record, Sink

MLFLOW_RUN = "mlflow.run"  # in the run directory: the id that MLflow gave to the run
MLFLOW_URI = "MLFLOW_TRACKING_URI"
# A server that does not answer holds the run up for so long, and is off then. MLflow's own defaults
# try for many minutes.
MLFLOW_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def check_trackers(names: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: the package of a tracker is missing; the message says how to install it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"trackers={list(names)} needs the package {name}, which is not installed; "
                f"`pip install {name}`, or leave it out"
            )


def open_trackers(
    cfg: Config, run_id: str, say: Callable[[str], None], before: Before
) -> Iterator[Sink]:
    """A sink for each tracker that the config names, opened when it is asked for."""
    return (TrackerSink(name, cfg, run_id, say, before) for name in cfg.trackers)


class TrackerSink:
    """Gives the numbers of every record to one tracker."""

    def __init__(
        self, name: str, cfg: Config, run_id: str, say: Callable[[str], None], before: Before
    ) -> None:
        self._name = name
        self._say = say
        self._began = before.began
        self._tracker: Any = None
        self._guarded(lambda: self._start(cfg, run_id))

    def _start(self, cfg: Config, run_id: str) -> None:
        from accelerate import PartialState

        PartialState(cpu=True)  # without it, accelerate's trackers refuse to log
        tracker = OPEN[self._name](cfg, run_id, self._say)
        tracker.start()
        self._tracker = tracker
        if self._name == "mlflow":
            (Path(cfg.run_dir) / MLFLOW_RUN).write_text(tracker.tracker.info.run_id)

    def write(self, record: Record) -> None:
        if self._began is None:
            self._began = float(record.get("time") or 0.0)
        row, step = to_row(record, self._began), step_of(record, self._began)
        numbers = {
            key: value
            for key, value in row.items()
            if key not in (*NO_NUMBERS, HOURS) and isinstance(value, int | float)
        }
        if self._tracker is not None and numbers:
            self._guarded(lambda: self._tracker.log(numbers, step=step))

    def close(self) -> None:
        if self._tracker is not None:
            self._guarded(lambda: self._tracker.finish())

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # of whatever kind the package made it: the run goes on
            self._tracker = None
            self._say(
                f"{self._name} is off until the next start: {error}; metrics.jsonl has everything"
            )


def _tensorboard(cfg: Config, run_id: str, say: Callable[[str], None]) -> Any:
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker(cfg.name, Path(cfg.run_dir) / "tensorboard")


def _mlflow(cfg: Config, run_id: str, say: Callable[[str], None]) -> Any:
    """In the place that MLFLOW_TRACKING_URI names, else in a database in the run directory. A run
    that this place does not know is begun anew."""
    for name, value in MLFLOW_PATIENCE.items():
        os.environ.setdefault(name, value)
    import mlflow
    from accelerate.tracking import MLflowTracker

    if MLFLOW_URI not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{Path(cfg.run_dir).absolute()}/mlflow.db")
    known = Path(cfg.run_dir) / MLFLOW_RUN
    return MLflowTracker(
        experiment_name="virgo_ray",
        run_id=_known_to_mlflow(known.read_text(), say) if known.is_file() else None,
        run_name=cfg.name,
        tags={"virgo_ray_run": run_id},
    )


def _known_to_mlflow(run_id: str, say: Callable[[str], None]) -> str | None:
    """`run_id` where MLflow can go on with it; None where it was deleted or is of another server.

    Raises:
        MlflowException: the server does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        stage = MlflowClient().get_run(run_id).info.lifecycle_stage
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        stage = "unknown"
    if stage == "active":
        return run_id
    say(f"MLflow has no active run {run_id!r} ({stage}); a new one is begun there")
    return None


def _trackio(cfg: Config, run_id: str, say: Callable[[str], None]) -> Any:
    from accelerate.tracking import TrackioTracker

    return TrackioTracker("virgo_ray", name=run_id, resume="allow")


OPEN: dict[str, Callable[[Config, str, Callable[[str], None]], Any]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
