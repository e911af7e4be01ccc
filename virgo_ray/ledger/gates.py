"""Whether a round may be kept: its held-out figures against limits and against earlier rounds.

Pure functions of evaluations. A gate has one figure, one limit and a direction. Held-out sets are
small, so noise is forgiven: `gates.margin` standard errors. Rounds that were asked the same
problems are compared problem by problem, against the average of the earlier rounds that were as
good as the best of them. A fall fails when it is larger than its limit *and* than the noise. A
fixed limit must be missed by the noise. What was not measured is not judged. Knows no ledger and no
model; docs/gates.md says what each gate is for, and how often it errs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum

import numpy as np
from pydantic import TypeAdapter, ValidationError

from virgo_ray.config import GatesConfig
from virgo_ray.config.importing import blaming, import_function
from virgo_ray.errors import ConfigError
from virgo_ray.records import BASE, Evaluation, Failure, FitReport, Round
from virgo_ray.stats.paired import paired_error, pool_equals, read_flags

OWN_KEY = "gates.custom"
_FAILURE = TypeAdapter(Failure)


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


# Of fits: the limit's key, the figure, and whether it is a lower limit.
FIT_GATES = (("min_entropy", "entropy", True), ("max_kl", "start_kl", False))


def failures(
    cfg: GatesConfig | None,
    now: Evaluation,
    references: Sequence[Round],
    fits: Sequence[FitReport] = (),
) -> tuple[Failure, ...]:
    """The gates that an evaluation does not pass, in the order of `GATES`, then those that the
    `fits` since the evaluation before do not pass, and the user's own.

    `references` are the base and the rounds accepted before, oldest first, each evaluated.

    Raises:
        ConfigError: a gate of the user's cannot be called, failed, or returned something else.
    """
    if cfg is None:
        return ()
    found = [c for c in checks(cfg, now, references, fits) if not is_passed(c)]
    own = [_check_custom(where, now, references) for where in cfg.custom or ()]
    return (*found, *(failure for failure in own if failure))


def checks(
    cfg: GatesConfig | None,
    now: Evaluation,
    references: Sequence[Round],
    fits: Sequence[FitReport] = (),
) -> tuple[Failure, ...]:
    """Every gate that there are figures for, passed or not, in the same order; the user's own say
    nothing of a round that passes."""
    if cfg is None:
        return ()
    found = [_check(gate, cfg, now, references) for gate in GATES]
    found += [_check_fits(*gate, cfg, fits) for gate in FIT_GATES]
    return tuple(check for check in found if check)


def is_passed(check: Failure) -> bool:
    """Whether the value lies within the bound."""
    if check.is_lower_bound:
        return check.value >= check.bound
    return check.value <= check.bound


def _check_fits(
    key: str, figure: str, is_low: bool, cfg: GatesConfig, fits: Sequence[FitReport]
) -> Failure | None:
    """The worst of the fits against a fixed limit. They are means over all tokens of a step, so no
    noise is forgiven."""
    limit: float | None = getattr(cfg, key)
    values = [value for fit in fits if (value := getattr(fit, figure)) is not None]
    if limit is None or not values:
        return None
    value = min(values) if is_low else max(values)
    return Failure(key, figure, value, limit, limit, 0.0, is_low)


def find_gate(where: str) -> Callable[..., Failure | None]:
    """The user's own gate that `where` names.

    Raises:
        ConfigError: it cannot be imported or called so.
    """
    return import_function(OWN_KEY, where, "gate(now, earlier) -> Failure | None", 2)


def _check_custom(where: str, now: Evaluation, references: Sequence[Round]) -> Failure | None:
    gate = find_gate(where)
    with blaming(OWN_KEY, where):
        failure = gate(now, tuple(references))
    if failure is None:
        return None
    if not isinstance(failure, Failure):
        raise ConfigError(
            f"{OWN_KEY}={where!r} returned {failure!r:.100}; expected virgo_ray.Failure, or None "
            "where the round passes"
        )
    found = {field.name: _plain(getattr(failure, field.name)) for field in fields(Failure)}
    try:  # as the ledger will read it
        text = json.dumps(found, default=lambda value: [repr(value)])  # no field may be a list
        return replace(_FAILURE.validate_json(text, strict=True), gate="custom")
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ConfigError(
            f"{OWN_KEY}={where!r} returned a Failure with {name}={found[name]!r:.100}: "
            f"{first['msg']}; mend it and start again: what was committed is kept"
        ) from error


def _plain(value: object) -> object:
    """A number of NumPy's as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _check(
    gate: Gate, cfg: GatesConfig, now: Evaluation, references: Sequence[Round]
) -> Failure | None:
    limit: float | None = getattr(cfg, gate.key)
    value = _figure(gate, now)
    if limit is None or value is None or not _count(gate, now):
        return None
    against = _reference(gate, now, references)
    if against is None and not gate.kind.is_fixed:
        return None
    bound = _bound(gate.kind, limit, against.value if against else None)
    if gate.kind.is_fixed and bound == limit:
        against = None  # the limit itself decides
    noise = cfg.margin * _error(gate, now, against)
    bound = _forgive(gate.kind, bound, noise, against)
    is_low = gate.kind.is_lower_bound
    best_value, label = (against.value, against.label) if against else (None, None)
    return Failure(gate.key, gate.figure, value, bound, limit, noise, is_low, best_value, label)


@dataclass(frozen=True)
class _Reference:
    """What a round is compared with: a figure, whose it is, its error to the round of now."""

    value: float
    label: str | int
    error: float


def _forgive(kind: Kind, bound: float, noise: float, against: _Reference | None) -> float:
    """Where a figure must stay once noise is forgiven: a fixed limit moves by the noise, a fall may
    be as large as its limit or the noise, whichever is more."""
    if kind in (Kind.FALL, Kind.RISE) and against is not None:
        if kind is Kind.FALL:
            return min(bound, against.value - noise)
        return max(bound, against.value + noise)
    return bound - noise if kind.is_lower_bound else bound + noise


def _reference(gate: Gate, now: Evaluation, references: Sequence[Round]) -> _Reference | None:
    """The accepted rounds to compare with; None where none has the figure."""
    usable = [
        r
        for r in references
        if _figure(gate, r.measured) is not None
        and _count(gate, r.measured)
        and (gate.with_base or r.label != BASE)
    ]
    if not usable:
        return None
    if gate.kind.is_ratio:
        return _Reference(_figure(gate, usable[0].measured) or 0.0, usable[0].label, 0.0)
    best = (max if gate.kind.is_lower_bound else min)(
        usable, key=lambda r: _figure(gate, r.measured) or 0.0
    )
    same = [r for r in usable if _are_paired(gate, now, r.measured)]
    if best in same:
        return _pooled(gate, now, same)
    error = _unpaired_error(gate, [now, best.measured])
    return _Reference(_figure(gate, best.measured) or 0.0, best.label, error)


def _are_paired(gate: Gate, now: Evaluation, other: Evaluation) -> bool:
    """Whether both answered the same problems, and it is known which of them they solved."""
    ours, theirs = now.solved.get(gate.figure, ""), other.solved.get(gate.figure, "")
    return bool(ours) and len(ours) == len(theirs)


def _pooled(gate: Gate, now: Evaluation, rounds: Sequence[Round]) -> _Reference:
    """The average of the rounds that are as good as the best of them."""
    values = [read_flags(r.measured.solved[gate.figure]) for r in rounds]
    places = pool_equals(values, 1.0 if gate.kind.is_lower_bound else -1.0)
    average = np.mean([values[i] for i in places], axis=0)
    error = paired_error(read_flags(now.solved[gate.figure]), average)
    labels = [rounds[i].label for i in places]
    label = labels[0] if len(labels) == 1 else ", ".join(map(str, labels))
    return _Reference(float(np.mean(average)), label, error)


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


def _error(gate: Gate, now: Evaluation, against: _Reference | None) -> float:
    """Standard error of a figure, or of its difference to a reference."""
    if gate.kind.is_ratio:
        return 0.0
    return against.error if against else _unpaired_error(gate, [now])


def _unpaired_error(gate: Gate, evaluations: Sequence[Evaluation]) -> float:
    """Standard error of a share, or of the difference of two over different problems."""
    pairs = [(_figure(gate, e) or 0.0, _count(gate, e)) for e in evaluations]
    return math.sqrt(sum(_variance(share, num) for share, num in pairs))


def _variance(share: float, num: int) -> float:
    """Of a mean of `num` values between 0 and 1: at most that of as many yes-or-no answers.

    One success and one failure are added (Agresti and Caffo 2000), or 0 of 20 would be certain.
    """
    p = (share * num + 1.0) / (num + 2.0)
    return p * (1.0 - p) / (num + 2.0)
