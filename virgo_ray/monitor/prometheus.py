"""What Prometheus shows of a record: names and units by its conventions.

Base units (`_seconds`, `_bytes`), shares as `_ratio`, counters that end in `_total`, and
labels where a name of the catalog has places. Pure; `actors/ray_metrics.py` hands it to Ray, which
exports every name with `ray_` before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from virgo_ray.monitor.catalog import KINDS, MIB, PLACE, SHARE, TEXT, Kind, Metric, S, find
from virgo_ray.monitor.rows import BASE_ROUND
from virgo_ray.ports import Record, Sample

PREFIX = "virgo_ray_"
# Unit of the catalog: the base unit's ending, and what it is multiplied by.
UNITS = {
    S: ("seconds", 1.0),
    "ms": ("seconds", 1e-3),
    MIB: ("bytes", float(2**20)),
    "GB": ("bytes", 1e9),
    SHARE: ("ratio", 1.0),
}
UNIT_WORDS = {"seconds", "ms", "mib", "gb", "share", "rate", "p", "total"}  # said by the ending
LABELS = {"percent": "quantile"}
AXES = {
    "round": "round that goes on; -1: the base",
    "train_step": "optimizer steps, of all fits that were kept",
}
_KINDS = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Shape:
    """How a metric of the catalog is called, its labels beside `run`, and its factor."""

    name: str
    labels: tuple[str, ...]
    factor: float


@cache
def shape_of(kind: Kind, metric: Metric) -> Shape:
    """
    >>> memory = next(kind for kind in KINDS if kind.name == "memory")
    >>> shape_of(memory, Metric("rss_trainer_rank_{rank}_mib", MIB, ""))
    Shape(name='virgo_ray_memory_rss_trainer_rank_bytes', labels=('rank',), factor=1048576.0)
    """
    places = tuple(place.strip("{}") for place in PLACE.findall(metric.name))
    key = metric.name if "/" in metric.name else f"{kind.name}/{metric.name}"
    key = key.replace("per_s", "per_second")
    words = [w for w in re.split(r"[/_]", PLACE.sub("", key)) if w]
    unit, factor = UNITS.get(metric.unit, ("", 1.0))
    if unit or metric.counts:
        words = [w for w in words if w not in UNIT_WORDS]
    words = [w for n, w in enumerate(words) if n == 0 or w != words[n - 1]]
    words += [unit] if unit else []
    words += ["total"] if metric.counts else []
    phase = ("phase",) if kind.by_phase else ()
    labels = (*phase, *(LABELS.get(place, place) for place in places))
    return Shape(PREFIX + "_".join(words), labels, factor)


def samples(record: Record) -> Iterator[Sample]:
    """The numbers of a record; of a name that the catalog lacks, none."""
    kind = _KINDS.get(str(record.get("kind")))
    for axis, meaning in AXES.items():
        if axis in record:
            value = record[axis]
            yield Sample(PREFIX + axis, {}, BASE_ROUND if value is None else float(value), meaning)
    for key, value in record.items():
        metric = find(kind.name, key) if kind else None
        if kind and metric and isinstance(value, int | float):
            yield _sample(kind, metric, key, value, str(record.get("phase", "")))


def _sample(kind: Kind, metric: Metric, key: str, value: float, phase: str) -> Sample:
    shape = shape_of(kind, metric)
    pattern = r"(\w+)".join(map(re.escape, PLACE.split(metric.name)))
    found = re.fullmatch(pattern, key)
    words = [*([phase] if kind.by_phase else []), *(found.groups() if found else ())]
    labels = dict(zip(shape.labels, words, strict=True))
    if "quantile" in labels:
        labels["quantile"] = str(int(labels["quantile"]) / 100)
    meaning = f"{metric.meaning} (metrics.jsonl: {kind.name}, {metric.name})"
    return Sample(shape.name, labels, value * shape.factor, meaning, metric.counts)


def names() -> set[str]:
    """Everything that may be exported, without Ray's own `ray_` before it."""
    own = (shape_of(kind, m).name for kind in KINDS for m in kind.metrics if m.unit != TEXT)
    return {*own, *(PREFIX + axis for axis in AXES)}
