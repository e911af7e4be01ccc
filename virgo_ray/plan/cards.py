"""Cards by name, and how fast a fit was on those that were measured.

Memory, dense bfloat16 peak and bandwidth are NVIDIA's data sheets' (SXM versions where there are
several). The measured rows are those of docs/gpu-results.md, and peaks are those of
train/speed.py; tests compare them.
"""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.errors import ConfigError

RESERVED = 0.03  # of a card's memory, that CUDA and the driver keep from programs


@dataclass(frozen=True)
class Card:
    name: str
    memory: int  # bytes
    flops: float  # dense bfloat16, per second
    bandwidth: float  # bytes per second

    @property
    def usable(self) -> int:
        return round(self.memory * (1 - RESERVED))


@dataclass(frozen=True)
class Measured:
    """MFU of a fit, as `docs/gpu-checks.md` counts it."""

    card: str
    row: str
    has_adapters: bool
    stage: int
    tokens: int
    mfu: float


CARDS = {
    card.name: card
    for card in (
        Card("a100", 80_000_000_000, 312e12, 2.04e12),  # A100 80GB SXM data sheet
        Card("h100", 80_000_000_000, 989e12, 3.35e12),  # H100 SXM data sheet
        Card("h200", 141_000_000_000, 989e12, 4.8e12),  # H200 SXM data sheet
        Card("b200", 180_000_000_000, 2250e12, 8.0e12),  # HGX B200 data sheet
        Card("l40s", 48_000_000_000, 362e12, 0.864e12),  # L40S data sheet
    )
}
MEASURED = (
    Measured("h200", "fit/3b/zero2/8192", False, 2, 8192, 0.1076),
    Measured("h200", "fit/3b/zero2/16384", False, 2, 16384, 0.2175),
    Measured("h200", "fit/3b/zero2/32768", False, 2, 32768, 0.2212),
    Measured("h200", "fit/3b/zero3/8192", False, 3, 8192, 0.0907),
    Measured("h200", "fit/3b/zero3/16384", False, 3, 16384, 0.1404),
    Measured("h200", "fit/3b/zero3/32768", False, 3, 32768, 0.2058),
    Measured("h200", "fit/7b_lora/zero2/16384", True, 2, 16384, 0.2285),
    Measured("h200", "fit/7b_lora/zero2/32768", True, 2, 32768, 0.2798),
    Measured("h200", "fit/7b_lora/zero3/16384", True, 3, 16384, 0.2199),
    Measured("h200", "fit/7b_lora/zero3/32768", True, 3, 32768, 0.2418),
)


def find_card(name: str) -> Card:
    """
    Raises:
        ConfigError: its figures are not known.
    """
    if name.lower() not in CARDS:
        raise ConfigError(f"--card {name!r} is not known, expected one of {', '.join(CARDS)}")
    return CARDS[name.lower()]


def nearest(has_adapters: bool, stage: int, tokens: int) -> Measured:
    """The measured row that is most like a fit: adapters first, then stage, then tokens."""
    kind = 3 if stage == 3 else 2

    def distance(row: Measured) -> tuple[bool, bool, int]:
        return row.has_adapters != has_adapters, row.stage != kind, abs(row.tokens - tokens)

    return min(MEASURED, key=distance)
