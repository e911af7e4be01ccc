"""What Ray is told of a run: its counters, and its progress on the page of jobs."""

import json
from collections import Counter as Tally
from typing import ClassVar

import pytest

from virgo_ray.actors import job_progress, ray_metrics
from virgo_ray.actors.job_progress import JOB_VARIABLE, JobProgressSink
from virgo_ray.actors.ray_metrics import RayMetricsSink
from virgo_ray.monitor.prometheus import samples


class Exported:
    """Stands in for Ray's Gauge and Counter."""

    counts: ClassVar[Tally] = Tally()
    gauges: ClassVar[dict] = {}

    def __init__(self, name, description, tag_keys):
        self.name = name

    def set_default_tags(self, tags):
        assert tags == {"run": "tiny"}

    def inc(self, value, tags):
        assert value > 0
        self.counts[self.name, *tags.values()] += value

    def set(self, value, tags):
        self.gauges[self.name, *tags.values()] = value


@pytest.fixture
def sink(monkeypatch):
    monkeypatch.setattr(ray_metrics, "Gauge", Exported)
    monkeypatch.setattr(ray_metrics, "Counter", Exported)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    Exported.counts.clear()
    return RayMetricsSink("tiny", samples)


def test_counters_add_up_over_phases_rounds_and_steps(sink):
    def sampling(status_wrong, rollouts_total):
        numbers = {"status_wrong": status_wrong, "rollouts_total": rollouts_total}
        sink.write({"kind": "sampling", "phase": "sample", **numbers})

    sampling(3, 3)
    sampling(5, 5)
    sink.write({"kind": "phase", "phase": "sample", "phase_seconds": 1.0})
    sampling(6, 11)  # of a new phase, which has more than the one before already
    for _ in range(2):
        sink.write({"kind": "train", "train_step": 1, "train/num_tokens": 100})
    assert dict(Exported.counts) == {
        ("virgo_ray_sampling_status_total", "sample", "wrong"): 11,
        ("virgo_ray_sampling_rollouts_total", "sample"): 11,
        ("virgo_ray_train_num_tokens_total",): 200,
    }


@pytest.fixture
def table(monkeypatch):
    """The cluster's table of jobs, with one that runs."""
    found = {b"_ray_internal_job_info_job-1": b'{"status": "RUNNING", "metadata": {"mine": "x"}}'}
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr(job_progress, "_internal_kv_get", lambda key, namespace: found.get(key))
    monkeypatch.setattr(
        job_progress,
        "_internal_kv_put",
        lambda key, value, overwrite, namespace: found.update({key: value}),
    )
    return found


def test_a_job_says_how_far_it_is_beside_what_it_was_submitted_with(table, monkeypatch):
    monkeypatch.setenv(JOB_VARIABLE, '{"metadata": {"job_submission_id": "job-1"}}')
    sink = JobProgressSink("tiny", 3)
    sink.write({"kind": "memory", "round": 1})  # says nothing of progress
    for step in (9, 10):  # the second comes too soon
        sink.write({"kind": "train", "round": 1, "train_step": step})
    entry = json.loads(table[b"_ray_internal_job_info_job-1"])
    said = "tiny: round 1 of 3, train, step 9"
    assert entry == {
        "status": "RUNNING", "message": said, "metadata": {"mine": "x", "virgo_ray": said},
    }  # fmt: skip


@pytest.mark.parametrize("status", ["SUCCEEDED", "STOPPED"])
def test_a_job_that_is_over_and_a_run_that_is_none_are_left_alone(table, monkeypatch, status):
    key = b"_ray_internal_job_info_job-1"
    table[key] = before = json.dumps({"status": status}).encode()
    for variable in ('{"metadata": {"job_submission_id": "job-1"}}', "{}", "no JSON"):
        monkeypatch.setenv(JOB_VARIABLE, variable)
        JobProgressSink("tiny", 3).write({"kind": "train", "round": 1, "train_step": 9})
    assert table == {key: before}
