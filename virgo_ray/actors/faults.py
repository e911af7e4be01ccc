"""How a worker may fail, and when all would fail alike.

A worker that was killed says nothing about the others. One that raises an error in its start, or
with what it is given, may be the only one on a sick node, or the first of all: that is
decided by whether any worker got past this point, and by a second error of the same kind. Does not
know actors.
"""

from __future__ import annotations

import re
from collections import Counter

from virgo_ray.errors import VirgoError

NUM_ALIKE = 2  # errors of one kind that prove that all workers would meet it
VARYING = re.compile(r"0x[0-9a-f]+|\b(inf|nan)\b|\d+(\.\d+)?(e[+-]?\d+)?")


class Fault(Exception):
    """A worker failed and must be replaced; `why` goes on "rollout worker 3 ...".

    `raises` is the error of a run whose workers all fail so; None where the worker was killed or
    is gone, which proves nothing. `detail` is said too, but makes no other kind of fault.
    """

    def __init__(self, why: str, raises: type[VirgoError] | None = None, detail: str = "") -> None:
        super().__init__(why)
        self.why = why + detail
        self.raises = raises
        self.kind = kind_of(why)


class Commonness:
    """Whether all workers would fail alike at one point, such as starting or loading weights."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._has_passed = False

    def passed(self) -> None:
        """Some worker got past this point: what others meet there is their own."""
        self._has_passed = True

    def is_common(self, fault: Fault) -> bool:
        """Whether `fault` is one that every worker would meet; counts it."""
        if fault.raises is None or self._has_passed:
            return False
        self._seen[fault.kind] += 1
        return self._seen[fault.kind] >= NUM_ALIKE


def kind_of(message: str) -> str:
    """A message without what differs between workers: numbers and addresses.

    >>> kind_of("has 1.5 GiB at 0x7f01, expected 2")
    'has # GiB at #, expected #'
    """
    return VARYING.sub("#", message)
