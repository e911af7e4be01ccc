"""What a push's parity probe found, as flat numbers: all that `verdict.py` judges, not the largest
difference alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from virgo_ray.weights.verdict import KINDS, Deviation


def probe_metrics(found: Sequence[Sequence[Deviation]]) -> dict[str, float]:
    """The worst of all engines, by kind of token: `found` holds each engine's deviations.

    A kind without tokens has no numbers. Of those through the prefix cache, chosen for their
    change, only the share says something.

    >>> text = Deviation("text", num=300, rms=0.01, p99=0.03, largest=0.2)
    >>> probe_metrics([[text], [Deviation("text", num=300, rms=0.02, p99=0.02, largest=0.1)]])
    {'probe/text_rms': 0.02, 'probe/text_p99': 0.03}
    """
    numbers: dict[str, float] = {}
    for kind in KINDS:
        own = [d for engine in found for d in engine if d.kind == kind and d.num]
        if own and kind != "cached":
            numbers[f"probe/{kind}_rms"] = max(d.rms for d in own)
            numbers[f"probe/{kind}_p99"] = max(d.p99 for d in own)
        shares = [d.change.share for d in own if d.change is not None]
        if shares:
            numbers[f"probe/{kind}_share"] = max(shares, key=lambda share: abs(share - 1))
    return numbers
