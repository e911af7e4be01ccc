"""Mirrors the metrics stream to Ray's own metrics, so that Prometheus and the dashboard show it.

Every sample has the label `run`; text is left out. Writes nothing while no cluster is connected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge

from virgo_ray.ports import Record, Sample

Key = tuple[str, tuple[tuple[str, str], ...]]


class RayMetricsSink:
    """A gauge or a counter for each name, made when first seen.

    `samples` says what a record holds. A count that grows is added up: where it begins anew, as in
    a new phase, what it has is added.
    """

    def __init__(self, run_name: str, samples: Callable[[Record], Iterable[Sample]]) -> None:
        self._run_name = run_name
        self._samples = samples
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._seen: dict[Key, float] = {}
        self._ends_with_phase: set[Key] = set()

    def write(self, record: Record) -> None:
        if not ray.is_initialized():
            return
        for sample in self._samples(record):
            if sample.counts:
                self._count(sample)
            else:
                self._gauge(sample).set(sample.value, tags=dict(sample.labels))
        if record.get("kind") == "phase":
            for key in self._ends_with_phase:
                self._seen.pop(key, None)

    def close(self) -> None:
        self._gauges.clear()
        self._counters.clear()

    def _count(self, sample: Sample) -> None:
        key = (sample.name, tuple(sample.labels.items()))
        added = sample.value
        if sample.counts != "since the record before":
            seen = self._seen.get(key, 0.0)
            added = sample.value - seen if sample.value >= seen else sample.value
            self._seen[key] = sample.value
        if sample.counts == "in the phase":
            self._ends_with_phase.add(key)
        if added > 0:
            self._counter(sample).inc(added, tags=dict(sample.labels))

    def _gauge(self, sample: Sample) -> Gauge:
        if sample.name not in self._gauges:
            self._gauges[sample.name] = gauge = Gauge(**_about(sample))
            gauge.set_default_tags({"run": self._run_name})
        return self._gauges[sample.name]

    def _counter(self, sample: Sample) -> Counter:
        if sample.name not in self._counters:
            self._counters[sample.name] = counter = Counter(**_about(sample))
            counter.set_default_tags({"run": self._run_name})
        return self._counters[sample.name]


def _about(sample: Sample) -> dict[str, Any]:
    return {
        "name": sample.name,
        "description": sample.meaning,
        "tag_keys": ("run", *sample.labels),
    }
