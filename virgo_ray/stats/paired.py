"""Comparing rounds that answered the same problems, problem by problem.

Numbers only, no ledger and no gates. The answers to one problem are alike from round to round, so
the error of a difference is smaller than that of two independent shares, by half where answers
correlate by 0.75.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POOL_MARGIN = 2.0  # standard errors within which rounds count as equally good

Values = NDArray[np.float64]  # (num_problems,), 0 to 1


def read_flags(flags: str) -> Values:
    """One value for each character: "101" -> 1, 0, 1."""
    return np.frombuffer(flags.encode("ascii"), dtype=np.uint8).astype(np.float64) - ord("0")


def paired_error(ours: Values, theirs: Values) -> float:
    """The standard error of mean(ours - theirs), if the true mean is 0.

    This is the score test's (McNemar's for values of 0 and 1). One change is added, so that the
    error of few or equal answers is not 0: all of 8 problems lost still is noise at 2.75 errors.

    >>> round(paired_error(read_flags("1111"), read_flags("1010")), 3)
    0.433
    """
    changes = ours - theirs
    return float(np.sqrt(np.sum(changes**2) + 1.0)) / len(changes)


def pool_equals(rounds: Sequence[Values], sign: float) -> list[int]:
    """The places of the rounds that are as good as the best one, as far as can be told.

    `sign` is 1 where more is better, -1 where less is. The best of several equal rounds was also
    the luckiest one: compared with it alone, an unchanged model seems to fall. The average of all
    that are as good has less luck and less noise in it.

    >>> pool_equals([read_flags("1" * 80 + "0" * 20), read_flags("1" * 79 + "0" * 21)], 1)
    [0, 1]
    >>> pool_equals([read_flags("1" * 80 + "0" * 20), read_flags("1" * 9 + "0" * 91)], 1)
    [0]
    """
    best = max(rounds, key=lambda values: sign * float(np.mean(values)))
    return [
        place
        for place, values in enumerate(rounds)
        if sign * float(np.mean(best - values)) <= POOL_MARGIN * paired_error(best, values)
    ]
