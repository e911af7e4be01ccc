"""What a trainer says of a push that it has opened, and of one that is over: values for the driver.

They travel through Ray's own calls, as offers do.
"""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.weights.probe import Probe


@dataclass(frozen=True)
class Opening:
    """Where engines can fetch a version that is held in memory, and what proves it.

    `base` is the directory that adapters are merged into, `device` where buckets travel;
    `gather_seconds` is what it took to make the tensors whole, at the end of the fit.
    """

    address: str
    port: int
    nonce: str
    base: str
    device: str
    probe: Probe
    gather_seconds: float


@dataclass(frozen=True)
class Sent:
    """All receivers have taken everything; `digest` is what each must have computed."""

    digest: str
    seconds: float
