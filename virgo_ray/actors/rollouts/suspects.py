"""Which requests were in flight when workers died, and which of them ended its worker.

A worker that dies takes all its requests with it, and nothing says which one ended it, if any did:
a full node ends workers too. So a request that was lost twice is asked in smaller company, then
alone. Guarantees that only one is blamed that was alone, and that a node which went away is blamed
on nobody. Does not know actors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from virgo_ray.config import RolloutConfig
from virgo_ray.errors import RolloutError
from virgo_ray.records import Request

SHRINKING = 16  # what the company of a request is divided by, for each loss beyond the first
NUM_NAMED = 8  # requests in a message


class Suspects:
    """The losses of each request that has no rollout yet."""

    def __init__(self, limits: RolloutConfig) -> None:
        self._limits = limits
        self._losses: Counter[tuple[str, int, bool]] = Counter()

    def company(self, request: Request) -> int:
        """How many requests its worker may have in flight, this one among them."""
        repeats = max(0, self._losses[request.identity] - 1)
        return max(1, self._limits.max_in_flight // SHRINKING**repeats)

    def is_one(self, request: Request) -> bool:
        """Whether it must not be asked in full company."""
        return self.company(request) < self._limits.max_in_flight

    def note_loss(self, request: Request, why: str) -> None:
        """It was lost with its worker.

        Raises:
            RolloutError: it was asked alone, and has ended more workers than `max_restarts`.
        """
        was_alone = self.company(request) == 1
        self._losses[request.identity] += 1
        num, limit = self._losses[request.identity], self._limits.max_restarts
        if was_alone and num > limit:
            name = request.problem.id
            raise RolloutError(
                f"problem {name!r} (sample {request.sample_index}) was in flight when {num} "
                f"rollout workers died, the last time alone; expected at most "
                f"rollout.max_restarts={limit}. It seems to end every engine that is asked. The "
                f"last one {why}. Take its row out of the data and start the same command with "
                f"data.accept_changes='[\"{name}\"]'; or raise rollout.max_restarts, if workers "
                "die often here for other reasons"
            )

    def note_rollout(self, request: Request) -> None:
        """It is done."""
        self._losses.pop(request.identity, None)

    def in_flight(self, requests: Sequence[Request]) -> str:
        """Names what a worker was doing, for a message: first what was lost most often."""
        worst = sorted(requests, key=lambda r: -self._losses[r.identity])
        names = [self._name(request) for request in worst[:NUM_NAMED]]
        more = f" and {len(worst) - NUM_NAMED} more" if len(worst) > NUM_NAMED else ""
        return f" (in flight: {', '.join(names)}{more})" if names else ""

    def _name(self, request: Request) -> str:
        num = self._losses[request.identity]
        return f"problem {request.problem.id!r}" + (f", lost {num} times before" if num else "")
