"""Random streams that depend on what they are for, and on nothing that happened before. Pure."""

from __future__ import annotations

import random


def stream(seed: int, round: int, purpose: str) -> random.Random:
    """An independent random stream per (seed, round, purpose), the same in every process."""
    return random.Random(f"{seed}/{round}/{purpose}")
