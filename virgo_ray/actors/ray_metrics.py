"""Mirrors the metrics stream to Ray's own metrics, so that Prometheus and the dashboard show it.

Gauges are named `virgo_ray_<key>`; text is left out. Writes nothing while no cluster is connected.
"""

from __future__ import annotations

import re

import ray
from ray.util.metrics import Gauge

from virgo_ray.ports import Record


class RayMetricsSink:
    """One gauge per number in the stream, made when first seen."""

    def __init__(self, run_name: str) -> None:
        self._run_name = run_name
        self._gauges: dict[str, Gauge] = {}

    def write(self, record: Record) -> None:
        if not ray.is_initialized():
            return
        for key, value in record.items():
            if isinstance(value, int | float) and key != "time":
                self._gauge(key).set(value)

    def close(self) -> None:
        self._gauges.clear()

    def _gauge(self, key: str) -> Gauge:
        if key not in self._gauges:
            name = "virgo_ray_" + re.sub(r"\W", "_", key)
            gauge = Gauge(name, description=f"virgo_ray metric {key}", tag_keys=("run",))
            gauge.set_default_tags({"run": self._run_name})
            self._gauges[key] = gauge
        return self._gauges[key]
