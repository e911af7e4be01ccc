"""A run of reinforcement whose rewards say nothing, or the opposite: what must not learn.

    python scripts/control_rewards.py shuffled configs/tiny_grpo.yaml run_dir=runs/shuffled
    python scripts/control_rewards.py flipped configs/tiny_grpo.yaml run_dir=runs/flipped

`shuffled` gives the rewards of a group to its members at random: what a run gains then does not
come from what is right. `flipped` gives right rollouts the reward that wrong ones had, and the
other way round. All else is the command `virgo_ray.run`: tallies and metrics of rewards tell what
the verifier said. A run that is started again goes on with the same rewards.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence

from virgo_ray import run
from virgo_ray.records import Member
from virgo_ray.selection import reinforcing
from virgo_ray.selection.advantages import Group, Rewarded

Control = Callable[[tuple[Rewarded, ...]], tuple[Rewarded, ...]]


def shuffled(members: tuple[Rewarded, ...]) -> tuple[Rewarded, ...]:
    """The same rewards, for others; the same whenever it is asked."""
    rewards = [reward for _, reward in members]
    random.Random(_name(members[0][0])).shuffle(rewards)
    return tuple((member, reward) for (member, _), reward in zip(members, rewards, strict=True))


def flipped(members: tuple[Rewarded, ...]) -> tuple[Rewarded, ...]:
    """What was worth most is worth least."""
    ends = max(reward for _, reward in members) + min(reward for _, reward in members)
    return tuple((member, ends - reward) for member, reward in members)


CONTROLS: dict[str, Control] = {"shuffled": shuffled, "flipped": flipped}


def control(groups: Sequence[Group], change: Control) -> list[Group]:
    """Groups with other rewards; what has no signal has none after it."""
    return [Group(change(group.members)) if group.has_signal else group for group in groups]


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1] not in CONTROLS:
        print(__doc__, file=sys.stderr)
        return 2
    change, make = CONTROLS[sys.argv[1]], reinforcing.make_groups
    reinforcing.make_groups = lambda members, cfg: control(make(members, cfg), change)
    return run.main(sys.argv[2:])


def _name(member: Member) -> str:
    return f"{member.round}/{member.problem_id}"


if __name__ == "__main__":
    sys.exit(main())
