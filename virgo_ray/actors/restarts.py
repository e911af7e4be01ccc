"""How soon something that failed is started again. Knows no actor, only counts and seconds."""

from __future__ import annotations

# What failed in its start, or again after it was replaced, is given a pause, each time a longer
# one: GPU memory of a dead process or a sick disk needs time.
PAUSE_S = 5.0
PAUSE_GROWTH = 3
MAX_PAUSE_S = 60.0


def pause_s(num_failures: int, has_worked: bool) -> float:
    """Seconds before the next start, after so many failures in a row.

    >>> [pause_s(1, True), pause_s(1, False), pause_s(2, True), pause_s(9, True)]
    [0.0, 5.0, 15.0, 60.0]
    """
    if has_worked and num_failures == 1:
        return 0.0
    return float(min(MAX_PAUSE_S, PAUSE_S * PAUSE_GROWTH ** (num_failures - 1)))
