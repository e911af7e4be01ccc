"""Spreads one optimizer step over ranks in packed micro-batches, so that no rank waits long.

Under ZeRO-2 and 3 ranks wait for each other in every micro-batch: a step lasts as long as the sum
of its slowest micro-batches. Under ZeRO-0 and 1 they meet at its end, and it lasts as long as the
slowest rank. Whichever holds is kept small, in FLOPs (virgo_ray/train/work.py), with as few
micro-batches as the tokens allow. Guarantees what virgo_ray/train/pack.py promises of a step; the
same batch has the same arrangement. It is a greedy one: the best is not searched for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from virgo_ray.records import Step
from virgo_ray.train.work import DUMMY_TOKENS, Load


def arrange_packed(
    batch: Sequence[int],
    loads: Sequence[Load],
    num_ranks: int,
    max_tokens: int,
    is_meeting_often: bool,
) -> Step:
    """Place the costliest example first, each where it delays the step least.

    The number of examples is a multiple of `num_ranks`. Then an arrangement is always found: at the
    latest with one example a micro-batch.
    """
    ordered = sorted(batch, key=lambda i: (-loads[i].flops, i))
    num_long = sum(2 * loads[i].tokens > max_tokens for i in batch)  # no two fit into one row
    least = max(math.ceil(sum(loads[i].tokens for i in batch) / max_tokens), num_long)
    most = len(batch) // num_ranks
    for num_micro_batches in range(min(math.ceil(least / num_ranks), most), most + 1):
        rows = _Rows(num_ranks, num_micro_batches, max_tokens, is_meeting_often)
        if all(rows.place(i, loads[i], len(ordered) - n) for n, i in enumerate(ordered)):
            break
    return rows.step()


def idle_share(step: Step, loads: Sequence[Load], is_meeting_often: bool) -> float:
    """Share of all ranks' time in a step in which they wait for a slower one, by FLOPs.

    Padding is no idling: a rank computes it. Dummy pictures are not counted.

    >>> loads = [Load(1, 4.0, False), Load(1, 2.0, False), Load(1, 1.0, False), Load(1, 3.0, False)]
    >>> step = (((0,), (2,)), ((1,), (3,)))
    >>> round(idle_share(step, loads, is_meeting_often=True), 3)  # 10 of 2 * (4 + 3)
    0.286
    >>> idle_share(step, loads, is_meeting_often=False)  # both ranks have 5
    0.0
    """
    flops = [[sum(loads[i].flops for i in row) for row in rank] for rank in step]
    if is_meeting_often:
        slowest = sum(max(rows) for rows in zip(*flops, strict=True))
    else:
        slowest = max(sum(rank) for rank in flops)
    return 1.0 - sum(map(sum, flops)) / (len(step) * slowest)


class _Rows:
    """The micro-batches of a step while it is filled; number `s` is `s // num_ranks` of rank
    `s % num_ranks`."""

    def __init__(
        self, num_ranks: int, num_micro_batches: int, max_tokens: int, is_meeting_often: bool
    ) -> None:
        num = num_ranks * num_micro_batches
        self._num_ranks, self._is_meeting_often = num_ranks, is_meeting_often
        self._max_tokens = max_tokens
        self._examples: list[list[int]] = [[] for _ in range(num)]
        self._tokens, self._flops, self._has_picture = [0] * num, [0.0] * num, [False] * num
        # Tokens that still fit, of an example without a picture, and with one. An example that is
        # longer than a row may be has one of its own.
        self._room = ([math.inf] * num, [math.inf] * num)
        self._num_empty = num
        self._slowest = [0.0] * num_micro_batches  # FLOPs of the slowest rank in each micro-batch
        self._of_rank = [0.0] * num_ranks

    def place(self, example: int, load: Load, num_left: int) -> bool:
        """Add an example to a row; `num_left` are to be placed, this one included.

        Returns False where it fits nowhere.
        """
        least = math.inf if num_left == self._num_empty else load.tokens  # none may stay empty
        room = self._room[load.has_picture]
        fitting = [s for s, tokens in enumerate(room) if tokens >= least]
        if not fitting:
            return False
        delay = self._delay_of_micro_batch if self._is_meeting_often else self._delay_of_rank
        self._add(min(fitting, key=lambda s: delay(s, load.flops)), example, load)
        return True

    def _delay_of_micro_batch(self, s: int, flops: float) -> tuple[float, float]:
        """By how much the slowest of a micro-batch gets slower; of equals the fullest row."""
        longer = self._flops[s] + flops - self._slowest[s // self._num_ranks]
        return (longer if longer > 0 else 0.0), -self._flops[s]

    def _delay_of_rank(self, s: int, flops: float) -> tuple[float, int]:
        """How much the rank has to do already; of its rows the fullest."""
        return self._of_rank[s % self._num_ranks], -self._tokens[s]

    def _add(self, s: int, example: int, load: Load) -> None:
        micro_batch, rank = divmod(s, self._num_ranks)
        self._num_empty -= not self._examples[s]
        self._examples[s].append(example)
        self._tokens[s] += load.tokens
        self._flops[s] += load.flops
        self._has_picture[s] |= load.has_picture
        self._room[True][s] = self._max_tokens - self._tokens[s]
        dummy = 0 if self._has_picture[s] else DUMMY_TOKENS
        self._room[False][s] = self._max_tokens - self._tokens[s] - dummy
        self._of_rank[rank] += load.flops
        self._slowest[micro_batch] = max(self._slowest[micro_batch], self._flops[s])

    def step(self) -> Step:
        return tuple(
            tuple(map(tuple, self._examples[rank :: self._num_ranks]))
            for rank in range(self._num_ranks)
        )
