"""How a replay buffer of an older schema becomes one of the present: one small step per version.

A step is a pure function from a batch of old rows to a batch with the columns its version added; it
never changes or drops a column, so readers of what was there before go on working. Steps are never
edited once a version was released: a new column gets a new number and a new step. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Step:
    """`compute` gets a batch with the columns `reads` and returns one with the columns `adds`."""

    adds: pa.Schema
    reads: tuple[str, ...]
    compute: Callable[[pa.RecordBatch], pa.RecordBatch]


OLD_VERDICTS = pa.schema([("old_verdicts", pa.string())])


def no_old_verdicts(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Version 2: verdicts that a later verifier replaced; none was replaced so far."""
    return pa.record_batch([pa.array(["[]"] * batch.num_rows, pa.string())], schema=OLD_VERDICTS)


OPINIONS = pa.schema([("opinions", pa.string())])


def no_opinions(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Version 3: second opinions; none was asked for so far."""
    return pa.record_batch([pa.array(["{}"] * batch.num_rows, pa.string())], schema=OPINIONS)


MEASURES = pa.schema(
    [
        ("measured_by", pa.string()),
        ("fingerprint", pa.string()),
        ("num_reflections", pa.int32()),
        ("is_complete", pa.bool_()),
        ("has_thought", pa.bool_()),
        ("repetition", pa.float64()),
        ("signature", pa.binary()),
    ]
)


def no_measures(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Version 4: measures of accepted texts; none was taken so far."""
    return pa.record_batch([pa.nulls(batch.num_rows, f.type) for f in MEASURES], schema=MEASURES)


LOGPROBS = pa.schema([("logprobs", pa.list_(pa.float32()))])


def no_logprobs(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Version 5: the sampler's log-probabilities; none was kept so far."""
    return pa.record_batch([pa.nulls(batch.num_rows, f.type) for f in LOGPROBS], schema=LOGPROBS)


# {version: what leads to it from the version before}
STEPS = {
    2: Step(OLD_VERDICTS, ("round",), no_old_verdicts),
    3: Step(OPINIONS, ("round",), no_opinions),
    4: Step(MEASURES, ("round",), no_measures),
    5: Step(LOGPROBS, ("round",), no_logprobs),
}


def steps_after(version: int) -> list[tuple[int, Step]]:
    """The steps from `version` to the present one, in order.

    >>> [number for number, _ in steps_after(1)]
    [2, 3, 4, 5]
    """
    return [(number, step) for number, step in sorted(STEPS.items()) if number > version]
