"""Whether a round may be kept: its held-out figures against limits and against earlier rounds.

Pure functions of evaluations. A gate has one figure, one limit and a
direction. Held-out sets are small, so a share must miss its limit by `gates.margin` standard errors
of the difference, computed as if the two rounds had answered different problems: they answer the
same ones, so the true error is smaller and the gate errs on the lenient side. What was not measured
is not judged. Knows no ledger and no model; docs/gates.md says what each gate is for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from virgo_ray.config import GatesConfig
from virgo_ray.records import BASE, Evaluation, Failure, Round


class Kind(StrEnum):
    """What a limit is relative to."""

    FALL = "fall"  # below the highest so far
    RISE = "rise"  # above the lowest so far
    MOST = "most"  # a fixed upper limit; the lowest so far where even that is above it
    LEAST = "least"  # a fixed lower limit; the highest so far where even that is below it
    SHORTER = "shorter"  # a share of the first accepted round's
    LONGER = "longer"  # a multiple of the first accepted round's

    @property
    def is_lower_bound(self) -> bool:
        return self in (Kind.FALL, Kind.LEAST, Kind.SHORTER)

    @property
    def is_fixed(self) -> bool:
        return self in (Kind.MOST, Kind.LEAST)

    @property
    def is_ratio(self) -> bool:
        return self in (Kind.SHORTER, Kind.LONGER)


@dataclass(frozen=True)
class Gate:
    """`key` is its limit in the config; `count` how many problems the figure is a mean over.

    Without `with_base` the base is no reference: it answers at once, so its thoughts are short, and
    a guesser finds one of four options within eight tries 90 % of the time.
    """

    key: str
    figure: str
    kind: Kind
    count: str = "num_problems"
    with_base: bool = True


GATES = (
    Gate("max_pass_at_1_fall", "pass_at_1", Kind.FALL),
    Gate("max_pass_at_k_fall", "pass_at_k", Kind.FALL, with_base=False),
    Gate("max_maj_at_k_fall", "maj_at_k", Kind.FALL),
    Gate("max_truncated_share", "truncated_share", Kind.MOST),
    Gate("max_repetitive_share", "repetitive_share", Kind.MOST),
    Gate("max_no_answer_share", "no_answer_share", Kind.MOST),
    Gate("min_length_ratio", "mean_thought_tokens", Kind.SHORTER, with_base=False),
    Gate("max_length_ratio", "mean_thought_tokens", Kind.LONGER, with_base=False),
    Gate("min_distinct_share", "distinct_share", Kind.LEAST),
    Gate("max_blank_image_rise", "blank_image_pass_at_1", Kind.RISE, "num_blank"),
    Gate("max_perception_fall", "perception_pass_at_1", Kind.FALL, "num_perception"),
    Gate("max_text_fall", "text_pass_at_1", Kind.FALL, "num_text"),
)


def failures(
    cfg: GatesConfig | None, now: Evaluation, references: Sequence[Round]
) -> tuple[Failure, ...]:
    """The gates that an evaluation does not pass, in the order of `GATES`.

    `references` are the base and the rounds accepted before, oldest first, each evaluated.
    """
    found = [] if cfg is None else [_check(gate, cfg, now, references) for gate in GATES]
    return tuple(failure for failure in found if failure)


def _check(
    gate: Gate, cfg: GatesConfig, now: Evaluation, references: Sequence[Round]
) -> Failure | None:
    limit: float | None = getattr(cfg, gate.key)
    value = _figure(gate, now)
    if limit is None or value is None or not _count(gate, now):
        return None
    best = _reference(gate, references)
    if best is None and not gate.kind.is_fixed:
        return None
    best_value = _figure(gate, best.measured) if best else None
    bound = _bound(gate.kind, limit, best_value)
    if gate.kind.is_fixed and bound == limit:
        best = best_value = None  # the limit itself decides
    noise = 0.0 if gate.kind.is_ratio else cfg.margin * _error(gate, now, best)
    is_low = gate.kind.is_lower_bound
    bound += -noise if is_low else noise
    if (value >= bound) if is_low else (value <= bound):
        return None
    label = best.label if best else None
    return Failure(gate.key, gate.figure, value, bound, limit, noise, is_low, best_value, label)


def _reference(gate: Gate, references: Sequence[Round]) -> Round | None:
    """The accepted round to compare with; None where none has the figure."""
    usable = [
        r
        for r in references
        if _figure(gate, r.measured) is not None
        and _count(gate, r.measured)
        and (gate.with_base or r.label != BASE)
    ]
    if not usable or gate.kind.is_ratio:
        return usable[0] if usable else None
    best = max if gate.kind.is_lower_bound else min
    return best(usable, key=lambda r: _figure(gate, r.measured) or 0.0)


def _bound(kind: Kind, limit: float, reference: float | None) -> float:
    """Where the figure must stay, before noise is forgiven.

    >>> _bound(Kind.FALL, 0.05, 0.5), _bound(Kind.MOST, 0.25, 0.6), _bound(Kind.SHORTER, 0.5, 110)
    (0.45, 0.6, 55.0)
    """
    if reference is None:
        return limit
    if kind is Kind.FALL:
        return reference - limit
    if kind is Kind.RISE:
        return reference + limit
    if kind is Kind.MOST:
        return max(limit, reference)
    if kind is Kind.LEAST:
        return min(limit, reference)
    return limit * reference


def _figure(gate: Gate, evaluation: Evaluation) -> float | None:
    figure: float | None = getattr(evaluation, gate.figure)
    return figure


def _count(gate: Gate, evaluation: Evaluation) -> int:
    count: int = getattr(evaluation, gate.count)
    return count


def _error(gate: Gate, now: Evaluation, best: Round | None) -> float:
    """Standard error of a figure, or of its difference to a reference."""
    evaluations = [now] if best is None else [now, best.measured]
    pairs = [(_figure(gate, e) or 0.0, _count(gate, e)) for e in evaluations]
    return math.sqrt(sum(_variance(share, num) for share, num in pairs))


def _variance(share: float, num: int) -> float:
    """Of a mean of `num` values between 0 and 1: at most that of as many yes-or-no answers.

    One success and one failure are added (Agresti and Caffo 2000), or 0 of 20 would be certain.
    """
    p = (share * num + 1.0) / (num + 2.0)
    return p * (1.0 - p) / (num + 2.0)
