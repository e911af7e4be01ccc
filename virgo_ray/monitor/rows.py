"""What W&B and the other trackers show of a record: names, axes, and where the base lies.

Pure, and the same for a run that goes on and for `virgo-ray sync`, so that both draw one curve. No
two records of a curve share a place on its axis: `round` (the base is BASE_ROUND, not round 0),
`train_step`, `hours` since the run's first record, or, for sampling, the rollouts of that phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from virgo_ray.monitor.catalog import HOURS, KINDS, ROLLOUTS, Kind
from virgo_ray.ports import Record

BASE_ROUND = -1
NO_NUMBERS = ("time", "kind", "phase", "round", "train_step")
SAMPLING_PHASES = ("sample", "evaluate")
_KINDS = {kind.name: kind for kind in KINDS}


def to_row(record: Record, began: float = 0.0) -> dict[str, Any]:
    """Axes and numbers of a record; `began` is the time of the run's first one.

    >>> to_row({"kind": "phase", "phase": "start engines", "round": 1, "phase_seconds": 9.0})
    {'round': 1, 'phase/start_engines/phase_seconds': 9.0}
    >>> to_row({"kind": "round", "round": None, "heldout/pass_at_1": 0.5})
    {'round': -1, 'heldout/pass_at_1': 0.5}
    >>> to_row({"kind": "memory", "round": 1, "time": 7200.0, "rss_driver_mib": 300.0}, 3600.0)
    {'round': 1, 'hours': 1.0, 'memory/rss_driver_mib': 300.0}
    """
    name, phase = str(record.get("kind")), str(record.get("phase", ""))
    kind = _KINDS.get(name, Kind(name, "", ()))
    row: dict[str, Any] = {}
    if "round" in record:
        row["round"] = BASE_ROUND if record["round"] is None else record["round"]
    if "train_step" in record:
        row["train_step"] = record["train_step"]
    if kind.axis == HOURS and "time" in record:
        row[HOURS] = round((float(record["time"] or 0.0) - began) / 3600, 5)
    prefix = prefix_of(kind, phase)
    for key, value in record.items():
        if key not in NO_NUMBERS and value is not None:
            row[key if "/" in key else f"{prefix}/{key}"] = value
    return row


def prefix_of(kind: Kind, phase: str) -> str:
    """What stands before a name: of kinds about a phase the phase too, so that no curve mixes two.

    >>> prefix_of(Kind("phase", "", (), by_phase=True), "start engines")
    'phase/start_engines'
    """
    return f"{kind.name}/{phase.replace(' ', '_')}" if kind.by_phase and phase else kind.name


def axis_of(kind: Kind, phase: str = "") -> str:
    """The key that a kind's curves are drawn over."""
    return f"{prefix_of(kind, phase)}/{ROLLOUTS}" if kind.axis == ROLLOUTS else kind.axis


def curves() -> Iterator[tuple[str, str]]:
    """(pattern of keys, key of their axis) of everything, as W&B is told them."""
    for kind in KINDS:
        if kind.axis == ROLLOUTS:
            yield from ((f"{kind.name}/{p}/*", axis_of(kind, p)) for p in SAMPLING_PHASES)
            continue
        firsts = [m.name.partition("/")[0] for m in kind.metrics if "/" in m.name]
        yield from ((f"{first}/*", kind.axis) for first in dict.fromkeys((kind.name, *firsts)))


def step_of(record: Record, began: float = 0.0) -> int:
    """The place on the axis of whole numbers that trackers other than W&B have: the train step, the
    rollouts, the round, or the seconds since the run's first record.

    >>> step_of({"kind": "train", "train_step": 7, "round": 1}), step_of({"kind": "round"})
    (7, -1)
    """
    name = str(record.get("kind"))
    axis = _KINDS[name].axis if name in _KINDS else "round"
    if axis == HOURS:
        return int(float(record.get("time") or began) - began)
    found = record.get("round" if axis == "round" else axis)
    return BASE_ROUND if found is None else int(found)
