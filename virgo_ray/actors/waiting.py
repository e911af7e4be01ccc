"""`python -m virgo_ray.actors.waiting ADDRESS NUM DEADLINE_S`: wait until so many nodes are alive.

For scripts that start the nodes of a cluster themselves. It looks at the cluster's own list of
nodes, and says how many there are if the deadline passes (exit code 1).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from virgo_ray.actors.head import answers, is_listening

LOOK_EVERY_S = 2.0
ANSWER_DEADLINE_S = 10


def wait_for_nodes(address: str, num: int, deadline_s: float) -> int:
    """Wait until `num` nodes of the cluster at host:port are alive, or the deadline has passed;
    returns how many are."""
    end = time.monotonic() + deadline_s
    while (alive := count_nodes(address)) < num and time.monotonic() < end:
        time.sleep(LOOK_EVERY_S)
    return alive


def count_nodes(address: str) -> int:
    """How many nodes are alive; 0 where nothing answers yet."""
    if not (is_listening(address) and answers(address)):
        return 0
    try:
        found = list_nodes(
            address=address, filters=[("state", "=", "ALIVE")], timeout=ANSWER_DEADLINE_S
        )
    except (RayStateApiException, ConnectionError, RuntimeError):  # no dashboard yet
        return 0
    return len(found)


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    address, num, deadline_s = argv[0], int(argv[1]), float(argv[2])
    began = time.monotonic()
    alive = wait_for_nodes(address, num, deadline_s)
    if alive < num:
        print(f"{alive} of {num} nodes joined {address} within {deadline_s:g} s", file=sys.stderr)
        return 1
    print(f"{alive} nodes are up after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
