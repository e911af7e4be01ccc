"""What a round learns from, of all that is stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from virgo_ray.config import Config, Format
from virgo_ray.records import Candidate, Example
from virgo_ray.selection.choosing import select
from virgo_ray.selection.exploration import stopping_rule
from virgo_ray.selection.measuring import measuring_for
from virgo_ray.selection.mixing import choose_for_round, draw_order, mix, num_within_share
from virgo_ray.selection.streams import stream


class CandidateSource(Protocol):
    """A store of judged rollouts, or a reader of one."""

    def candidates(
        self, rounds: Iterable[int], formats: Sequence[Format], with_words: bool
    ) -> list[Candidate]: ...

    def taken_rounds(self) -> list[int]: ...


def latest_rounds(first_to_last: Sequence[int], num: int | None) -> Sequence[int]:
    """The last `num` of these rounds; None: all.

    >>> latest_rounds([-1, 1, 2], 2), latest_rounds([-1, 1, 2], None)
    ([1, 2], [-1, 1, 2])
    """
    return first_to_last if num is None else first_to_last[max(0, len(first_to_last) - num) :]


def choose_traces(cfg: Config, t: int, store: CandidateSource) -> list[Candidate]:
    """What round `t` learns from, of all that was accepted up to then."""
    rounds = latest_rounds([*store.taken_rounds(), *range(1, t + 1)], cfg.select.last_rounds)
    measuring = measuring_for(cfg.verify.formats, cfg.select)
    candidates = store.candidates(rounds, measuring.formats, measuring.with_words)
    rule = stopping_rule(cfg.explore)
    return select(candidates, cfg.select, stream(cfg.seed, t, "select"), rule)


def add_seeds(
    cfg: Config, t: int, seeds: Sequence[Example], traces: Sequence[Example]
) -> list[Example]:
    """What round `t` is trained on: the seed thoughts that belong to it, then its traces."""
    rng = stream(cfg.seed, t, "mix")
    return mix(seeds, traces, seed_share(cfg, t), cfg.train.seed_floor, rng)


def find_seeds(
    cfg: Config, t: int, num_seeds: int, num_traces: int, num_taken: int | None
) -> list[int] | None:
    """The indices of those of `num_seeds` seed thoughts that round `t` was trained on.

    `num_taken` is how many these were. None: the round does not say; then they are known only if
    they do not depend on tokens, and None is returned if they do.
    """
    share = seed_share(cfg, t)
    if not num_traces:
        return list(range(num_seeds))
    num_least = num_within_share(num_seeds, num_traces, share)
    if num_taken is None and num_least < num_seeds and cfg.train.seed_floor:
        return None
    order = draw_order(num_seeds, num_least, stream(cfg.seed, t, "mix"))
    return sorted(order[: num_least if num_taken is None else num_taken])


def seed_share(cfg: Config, t: int) -> float:
    """Most of round `t`'s examples that seed thoughts may be."""
    shares = cfg.train.seed_share
    return choose_for_round(shares, t) if isinstance(shares, tuple) else shares
