"""Which further problems a round asks because groups had no signal. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from virgo_ray.config import ObjectiveConfig
from virgo_ray.records import Member
from virgo_ray.selection.advantages import make_groups


def choose_refills(
    asked: Sequence[str],
    reserve: Sequence[str],
    num_samples: int,
    found: Collection[tuple[str, int]],
    members: Mapping[str, Sequence[Member]],
    cfg: ObjectiveConfig,
) -> list[str]:
    """List the problems of `reserve` to ask beside `asked`, as far as what was found decides it.

    `found` are the samples that were judged, `members` the groups that they make. As many problems
    follow as groups had no signal, and again as many as of these had none, `cfg.max_refills` times
    or until the reserve is used up. Every refill depends only on complete ones before it, so an
    interrupted round asks the same when it goes on.
    """
    with_signal = {
        group.members[0][0].problem_id
        for group in make_groups(members, cfg.rewards)
        if group.has_signal
    }
    batch, left, refills = list(asked), list(reserve), []
    for _ in range(cfg.max_refills):
        if any((id, index) not in found for id in batch for index in range(num_samples)):
            break
        num = sum(id not in with_signal for id in batch)
        batch, left = left[:num], left[num:]
        refills += batch
    return refills
