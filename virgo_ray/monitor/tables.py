"""The tables of docs/metrics.md: every metric, and what each sink calls it.

`python -m virgo_ray.monitor.tables` writes them.
"""

from __future__ import annotations

from collections.abc import Iterator

from virgo_ray.monitor.catalog import KINDS, TEXT, Kind, Metric
from virgo_ray.monitor.prometheus import shape_of
from virgo_ray.monitor.rows import axis_of, prefix_of

PHASE = "{phase}"


def markdown() -> str:
    """A table of every kind, then one of the keys by sink."""
    tables = ["\n".join(_table(kind)) for kind in KINDS]
    return "\n\n".join([*tables, "\n".join(_keys())]) + "\n"


def _table(kind: Kind) -> Iterator[str]:
    yield f"## `{kind.name}`: {kind.when}\n"
    yield "| name | unit | meaning | only with |"
    yield "|---|---|---|---|"
    for metric in kind.metrics:
        yield f"| `{metric.name}` | {metric.unit} | {metric.meaning} | {metric.when} |"


def _keys() -> Iterator[str]:
    yield "## Keys by sink\n"
    yield "Ray exports every Prometheus name with `ray_` before it.\n"
    yield "| kind | metrics.jsonl | W&B and trackers | over | Prometheus |"
    yield "|---|---|---|---|---|"
    for kind in KINDS:
        for metric in kind.metrics:
            if metric.unit != TEXT:
                yield f"| {kind.name} | `{metric.name}` | {' | '.join(_names(kind, metric))} |"


def _names(kind: Kind, metric: Metric) -> list[str]:
    phase = PHASE if kind.by_phase else ""
    key = metric.name if "/" in metric.name else f"{prefix_of(kind, phase)}/{metric.name}"
    shape = shape_of(kind, metric)
    labels = ", ".join(shape.labels)
    shown = f"`{shape.name}{{{labels}}}`" if labels else f"`{shape.name}`"
    return [f"`{key}`", f"`{axis_of(kind, phase)}`", shown]


if __name__ == "__main__":
    print(markdown(), end="")
