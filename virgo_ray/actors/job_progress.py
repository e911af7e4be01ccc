"""Shows how far a run is on Ray's jobs page, for a run that was submitted as a job.

Ray has no call of its own for that: the job's entry in the cluster's table is written anew with a
status message, which the page of jobs shows, and metadata, which `ray job list` prints. Nothing
else writes the entry while the job runs. Of a run that is no job, or where the entry is not there,
nothing is written.
"""

from __future__ import annotations

import json
import os
import time

import ray
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from virgo_ray.ports import Record

EVERY_S = 10.0
KEY = "virgo_ray"  # in the metadata
ENTRY, NAMESPACE = "_ray_internal_job_info_{}", "job"  # of Ray's JobInfoStorageClient
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in every submitted job
KINDS = ("phase", "sampling", "train", "round")


class JobProgressSink:
    """Writes one line on the newest record every EVERY_S."""

    def __init__(self, run_name: str, last_round: int) -> None:
        self._run_name = run_name
        self._last_round = last_round
        self._id = submission_id()
        self._written = 0.0

    def write(self, record: Record) -> None:
        is_due = time.monotonic() - self._written > EVERY_S
        if self._id and is_due and record.get("kind") in KINDS and ray.is_initialized():
            self._written = time.monotonic()
            try:
                put_progress(self._id, describe(self._run_name, self._last_round, record))
            except (RayError, RuntimeError, ValueError, OSError):
                self._id = ""  # only a view: the run goes on without it

    def close(self) -> None:
        """Nothing is held."""


def submission_id() -> str:
    """The id of the job that this process is; empty: it is none."""
    try:
        config = json.loads(os.environ.get(JOB_VARIABLE, "{}"))
        return str(config.get("metadata", {}).get("job_submission_id", ""))
    except (ValueError, AttributeError):
        return ""


def put_progress(job_id: str, text: str) -> None:
    """
    Raises:
        RayError, RuntimeError: the cluster did not answer.
        ValueError: the entry is not as this version of Ray writes it.
    """
    key = ENTRY.format(job_id).encode()
    entry = json.loads(_internal_kv_get(key, namespace=NAMESPACE) or b"{}")
    if entry.get("status") != "RUNNING":
        return
    entry["message"] = text
    entry["metadata"] = {**(entry.get("metadata") or {}), KEY: text}
    _internal_kv_put(key, json.dumps(entry).encode(), overwrite=True, namespace=NAMESPACE)


def describe(run_name: str, last_round: int, record: Record) -> str:
    """
    >>> describe("tiny", 3, {"kind": "train", "round": 1, "train_step": 9})
    'tiny: round 1 of 3, train, step 9'
    >>> describe("tiny", 3, {"kind": "sampling", "round": None, "phase": "evaluate",
    ...     "rollouts_done": 10, "rollouts_asked": 40})
    'tiny: base, evaluate, 10 of 40 rollouts'
    """
    round = record.get("round")
    where = "base" if round is None else f"round {round} of {last_round}"
    kind = record.get("kind")
    if kind == "train":
        return f"{run_name}: {where}, train, step {record.get('train_step')}"
    if kind == "sampling":
        done, asked = record.get("rollouts_done"), record.get("rollouts_asked")
        return f"{run_name}: {where}, {record.get('phase')}, {done} of {asked} rollouts"
    ended = "" if kind == "round" else f"{record.get('phase')} "
    return f"{run_name}: {where}, {ended}is done"
