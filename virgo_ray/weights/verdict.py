"""Whether an engine serves the weights that were published: the statistics of the parity probe.

Text and picture tokens are judged apart, and those asked through the prefix cache by themselves. An
engine passes if it differs from the trainer by no more than numeric noise, and if it has gone all
of the way from the weights before to the new ones wherever these differ. The noise is that of
version 0, where both sides hold the same weights by construction; absolute limits keep a fault that
is there already from becoming the norm. Pure: knows neither engines nor files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from virgo_ray.config import Config
from virgo_ray.errors import WeightsError
from virgo_ray.weights.probe import Probe

# Largest 99th percentile of |difference| that is ever accepted, in nats.
ABSOLUTE = {"float32": 1e-3, "bfloat16": 0.5}
RMS_SHARE = 1 / 3  # of the limit for the 99th percentile: 2.6 in a normal distribution
FLOOR = 0.02  # of the absolute limit: smaller noise at version 0 is not held against later ones
FACTOR = 3.0  # noise of later versions over that of version 0
# Tokens that differ, or nothing is said about the way between two versions.
MIN_CHANGED = {"text": 20, "image": 20, "cached": 4}
SHARE_MARGIN = 0.02
# Change of all tokens (RMS) over the noise, below which nothing is said about the way: the tokens
# that seem to differ are then those whose noise is the largest, on the trainer's side.
MIN_CHANGE = 3.0
# Standard errors of the share, taken from the noise of all tokens. Those that change most are the
# uncertain ones, whose noise is about twice that.
SHARE_ERRORS = 10.0
MAX_ALLOWED = 0.5  # beyond it, the two versions cannot be told apart
UNKNOWN_NOISE = 0.05  # RMS, in nats, where version 0 was not measured: at most that of bfloat16
NOISE_NAME = "probe_noise.json"
KINDS = ("text", "image", "cached")


@dataclass(frozen=True)
class Noise:
    """Of version 0, in nats."""

    rms: float
    p99: float


@dataclass(frozen=True)
class Evidence:
    """What an engine says of the weights that it serves."""

    logprobs: Sequence[Sequence[float]]  # one per target token of the probe's items, in nats
    # File name -> sha256 of what it read; of a stream, "stream" -> the digest of its tensors.
    read: Mapping[str, str] = field(default_factory=dict)
    cached: Sequence[float] = ()  # those of `Probe.cached_items`, asked through the prefix cache
    load_seconds: float = 0.0  # until the weights were in, fetching them included
    probe_seconds: float = 0.0  # of all that was scored


@dataclass(frozen=True)
class Change:
    """What came of the difference between the weights before and the new ones.

    `share` is the projection of (engine - before) on (new - before), over the tokens where these
    two differ by more than the noise: 0 for an engine that kept the weights before, 1 for the new
    ones. `error` is its standard error from noise alone.
    """

    num: int
    rms: float  # of new - before, in nats
    share: float
    error: float

    @property
    def allowed(self) -> float:
        """How far the share of an engine with the new weights may be from 1."""
        bias = self.num * self.error**2  # the trainer's own noise is in both differences
        return SHARE_MARGIN + bias + SHARE_ERRORS * self.error


@dataclass(frozen=True)
class Deviation:
    """Of an engine from the trainer, over one kind of token, in nats; 0 where there are none."""

    kind: str
    num: int = 0
    rms: float = 0.0
    p99: float = 0.0
    largest: float = 0.0
    change: Change | None = None


@dataclass(frozen=True)
class Tolerance:
    """Largest 99th percentile that is ever accepted, in nats.

    One that the user has set is the limit itself: the noise of version 0 is not asked.
    """

    p99: float
    is_set: bool = False

    @property
    def unknown_noise(self) -> float:
        """RMS, in nats, that is assumed where version 0 was not measured."""
        return min(UNKNOWN_NOISE, self.p99 * RMS_SHARE)


def tolerance_of(cfg: Config) -> Tolerance:
    limit = cfg.push.max_logprob_diff
    return Tolerance(ABSOLUTE[cfg.model.dtype]) if limit is None else Tolerance(limit, is_set=True)


def noise_of(kind: str, noise: Mapping[str, Noise]) -> Noise | None:
    """Of the few tokens through the cache: that of all tokens."""
    if kind != "cached" or not noise:
        return noise.get(kind)
    return Noise(max(n.rms for n in noise.values()), max(n.p99 for n in noise.values()))


@dataclass(frozen=True)
class Limits:
    """What is accepted of one kind of token, and what it comes from."""

    rms: float
    p99: float
    origin: str


def limits_of(tolerance: Tolerance, noise: Noise | None) -> Limits:
    """A multiple of the noise, but never above the absolute limit of the 99th percentile."""
    absolute = tolerance.p99
    if noise is None or tolerance.is_set:
        origin = "push.max_logprob_diff" if tolerance.is_set else "the absolute limit"
        return Limits(absolute * RMS_SHARE, absolute, origin)
    floor = absolute * FLOOR
    p99 = max(floor, FACTOR * noise.p99)
    rms = max(floor * RMS_SHARE, FACTOR * noise.rms)
    origin = (
        f"{FACTOR:g} times the noise of version 0, weights/v0000/{NOISE_NAME}, under the absolute "
        "limit"
    )
    return Limits(min(rms, absolute * RMS_SHARE), min(p99, absolute), origin)


def measure(
    probe: Probe,
    evidence: Evidence,
    noise: Mapping[str, Noise],
    unknown: float = UNKNOWN_NOISE,
) -> list[Deviation]:
    """How far an engine is from the trainer, by kind of token.

    `unknown` is the RMS that is assumed of kinds that `noise` lacks (`Tolerance.unknown_noise`).

    Raises:
        WeightsError: the engine did not answer with one value per token.
    """
    places = probe.cached_places()
    if len(evidence.cached) != len(places):
        raise WeightsError(
            f"engine scored {len(evidence.cached)} tokens through its prefix cache, expected "
            f"{len(places)}"
        )
    before = _rows_before(probe)
    cached = [
        (said, probe.logprobs[i][j], before[i][j])
        for said, (i, j) in zip(evidence.cached, places, strict=True)
    ]
    found = compare(probe, evidence.logprobs, noise, unknown)
    through = _deviation("cached", cached, noise_of("cached", noise), unknown)
    if all(deviation.change is None for deviation in found):
        through = replace(through, change=None)  # chosen for their change: it may be noise alone
    return [*found, through]


def compare(
    probe: Probe,
    scored: Sequence[Sequence[float]],
    noise: Mapping[str, Noise] | None = None,
    unknown: float = UNKNOWN_NOISE,
) -> list[Deviation]:
    """The same without the prefix cache.

    Raises:
        WeightsError: `scored` does not have one value per target token.
    """
    found = [len(row) for row in scored]
    expected = [len(row) for row in probe.logprobs]
    if found != expected:
        raise WeightsError(f"engine scored {found} tokens, expected {expected} (one per target)")
    rows: dict[str, list[tuple[float, float, float]]] = {"text": [], "image": []}
    for item, new, old, said in zip(
        probe.items, probe.logprobs, _rows_before(probe), scored, strict=True
    ):
        rows["text" if item.image is None else "image"] += zip(said, new, old, strict=True)
    return [_deviation(kind, own, (noise or {}).get(kind), unknown) for kind, own in rows.items()]


def _rows_before(probe: Probe) -> list[Sequence[float]]:
    """Not a number where the value is not known."""
    before = probe.before or ((),) * len(probe.items)
    return [old or (math.nan,) * len(new) for old, new in zip(before, probe.logprobs, strict=True)]


def faults(
    found: Sequence[Deviation], tolerance: Tolerance, noise: Mapping[str, Noise]
) -> list[str]:
    """What is wrong with an engine; nothing where it serves the new weights."""
    said = []
    for deviation in found:
        limits = limits_of(tolerance, noise_of(deviation.kind, noise))
        said += [*_distance_faults(deviation, limits), *_change_faults(deviation)]
    return said


def worst_noise(found: Sequence[Sequence[Deviation]]) -> dict[str, Noise]:
    """The largest of several engines' deviations, by kind."""
    return {
        kind: Noise(max(d.rms for d in own), max(d.p99 for d in own))
        for kind in KINDS
        if (own := [d for engine in found for d in engine if d.kind == kind and d.num])
    }


def largest(found: Sequence[Sequence[Deviation]], *kinds: str) -> float:
    """The largest difference of any engine over these kinds of tokens, or all, in nats."""
    own = [d for engine in found for d in engine if d.kind in (kinds or KINDS)]
    return max((d.largest for d in own), default=0.0)


def _deviation(
    kind: str, rows: Sequence[tuple[float, float, float]], noise: Noise | None, unknown: float
) -> Deviation:
    """Rows are (engine, new, before); `before` is not a number where it is not known."""
    if not rows:
        return Deviation(kind)
    sizes = sorted(_distance(said, new) for said, new, _ in rows)
    rms = math.sqrt(sum(x * x for x in sizes) / len(sizes))
    p99 = sizes[min(len(sizes) - 1, math.ceil(0.99 * len(sizes)) - 1)]
    sigma = noise.rms if noise is not None else unknown
    return Deviation(kind, len(rows), rms, p99, sizes[-1], _change(kind, rows, sigma))


def _change(kind: str, rows: Sequence[tuple[float, float, float]], sigma: float) -> Change | None:
    """None where the two versions hardly differ, or the engine's values are no numbers."""
    changes = [new - old for _, new, old in rows if math.isfinite(new - old)]
    if sum(x * x for x in changes) < len(changes) * (MIN_CHANGE * sigma) ** 2:
        return None
    pairs = [
        (said - old, new - old)
        for said, new, old in rows
        if abs(new - old) > 2 * sigma and math.isfinite(said)
    ]
    if len(pairs) < MIN_CHANGED[kind]:
        return None
    size = sum(moved * moved for _, moved in pairs)
    share = sum(went * moved for went, moved in pairs) / size
    rms = math.sqrt(size / len(pairs))
    return Change(len(pairs), rms, share, sigma / math.sqrt(size))


def _distance_faults(found: Deviation, limits: Limits) -> list[str]:
    """Of the few tokens through the cache, chosen for their change, distances prove nothing: a
    cache that was kept has the values before, which the share shows."""
    if found.kind == "cached":
        return [] if math.isfinite(found.largest) else ["cached: a log-probability is no number"]
    figures = (("RMS", found.rms, limits.rms), ("99th percentile", found.p99, limits.p99))
    return [
        f"{found.kind}: {name} of the differences {value:.3g} nats over {found.num} tokens, "
        f"expected at most {limit:.3g} ({limits.origin})"
        for name, value, limit in figures
        if not value <= limit
    ]


def _change_faults(found: Deviation) -> list[str]:
    change = found.change
    if change is None:
        return []
    if abs(change.share - 1) <= change.allowed or change.allowed > MAX_ALLOWED:
        return []
    return [
        f"{found.kind}: {change.share:.2f} of the way from the weights before to the new ones over "
        f"{change.num} tokens that differ by {change.rms:.3g} nats, expected 1 within "
        f"{change.allowed:.2f}"
    ]


def _distance(a: float, b: float) -> float:
    difference = abs(a - b)
    return difference if math.isfinite(difference) else math.inf
