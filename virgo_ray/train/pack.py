"""Packs examples into the order of one fit: steps, ranks, micro-batches.

Guarantees: every optimizer step holds exactly `batch_size` examples; every rank has the same number
of micro-batches in it and every micro-batch at least one example; a micro-batch holds at most
`micro_batch_tokens` padded tokens unless it is one single longer example; the examples of a step
depend on the seed and `batch_size` only, never on the number of ranks. Pure: no model, no files.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice

from virgo_ray.config import TrainConfig
from virgo_ray.errors import DataError
from virgo_ray.records import Example, Kind, Plan, Portion, sequence_length

MicroBatch = tuple[int, ...]
Ranks = tuple[tuple[MicroBatch, ...], ...]


def pack(examples: Sequence[Example], cfg: TrainConfig, rng: random.Random) -> Plan:
    """Order `examples` for `cfg.num_epochs` passes, or for `cfg.num_tokens` tokens.

    Epochs follow each other without a seam, each in a new order; the last step is filled from the
    next epoch. With `cfg.stop_epoch` the plan ends there; the learning rate is planned for all
    epochs. Example: 5 examples, `batch_size` 4, one epoch: 2 steps, 3 examples are seen twice.

    Raises:
        DataError: nothing to train on, or an example without target tokens.
    """
    if not examples:
        raise DataError(
            "there are 0 examples to train on, expected at least one; "
            "check data.seed_thoughts and how many traces the selection keeps"
        )
    empty = [e.id for e in examples if not e.target_ids]
    if empty:
        raise DataError(
            f"example {empty[0]!r} (and {len(empty) - 1} more) has no target tokens; "
            "expected at least the end token"
        )
    lengths = [sequence_length(e) for e in examples]
    steps = tuple(
        arrange(batch, lengths, cfg.num_workers, cfg.micro_batch_tokens)
        for batch in _batches(examples, cfg, rng)
    )
    scheduled = math.ceil(cfg.num_epochs * len(examples) / cfg.batch_size)
    return Plan(tuple(examples), steps, scheduled if cfg.stop_epoch else None)


def step_examples(plan: Plan, step: int) -> Iterator[Example]:
    """Every example of one optimizer step, over all ranks and micro-batches."""
    for rank in plan.steps[step]:
        for micro_batch in rank:
            for index in micro_batch:
                yield plan.examples[index]


def num_tokens(plan: Plan, step: int) -> int:
    """Tokens the model reads in one optimizer step, all ranks together."""
    return sum(sequence_length(e) for e in step_examples(plan, step))


def num_target_tokens(plan: Plan, step: int) -> int:
    """Target tokens of one optimizer step, all ranks together: what its loss is divided by."""
    return sum(len(e.target_ids) for e in step_examples(plan, step))


def count_portions(examples: Sequence[Example]) -> dict[str, Portion]:
    """How many examples and tokens there are of every kind, each example counted once."""
    lengths: dict[Kind, list[int]] = {kind: [] for kind in Kind}
    for example in examples:
        lengths[example.kind].append(sequence_length(example))
    return {str(kind): Portion(len(found), sum(found)) for kind, found in lengths.items()}


def _batches(
    examples: Sequence[Example], cfg: TrainConfig, rng: random.Random
) -> Iterator[list[int]]:
    """Whole batches of example indices until the epochs or the tokens are reached."""
    order = _shuffled_forever(len(examples), rng)
    wanted = cfg.num_tokens or (cfg.stop_epoch or cfg.num_epochs) * len(examples)
    done = 0
    while done < wanted:
        batch = list(islice(order, cfg.batch_size))
        done += sum(sequence_length(examples[i]) for i in batch) if cfg.num_tokens else len(batch)
        yield batch


def _shuffled_forever(num_examples: int, rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(range(num_examples), num_examples)


def arrange(batch: Sequence[int], lengths: Sequence[int], num_ranks: int, max_tokens: int) -> Ranks:
    """Spread one optimizer step over ranks: few micro-batches, little padding, equal work.

    Examples are sorted by length and cut into contiguous groups so that the largest group is as
    small as it can be; each micro-step then takes `num_ranks` groups of similar size.

    Raises:
        DataError: the number of examples is not a multiple of the number of ranks.
    """
    if not batch or len(batch) % num_ranks:
        raise DataError(
            f"{len(batch)} examples cannot be spread over {num_ranks} ranks; "
            "train.batch_size must be a multiple of train.num_workers"
        )
    ordered = sorted(batch, key=lambda i: (-lengths[i], i))
    sizes = [lengths[i] for i in ordered]
    num_groups = _round_up(len(_cut(sizes, max_tokens)), num_ranks)
    groups = _split_to(_cut(sizes, _smallest_cap(sizes, num_groups, max_tokens)), sizes, num_groups)
    cost = {group: (group[1] - group[0]) * sizes[group[0]] for group in groups}
    queues: list[list[MicroBatch]] = [[] for _ in range(num_ranks)]
    load = [0] * num_ranks
    by_cost = sorted(groups, key=lambda g: (-cost[g], g))
    for first in range(0, num_groups, num_ranks):
        least_loaded = sorted(range(num_ranks), key=lambda r: (load[r], r))
        for rank, group in zip(least_loaded, by_cost[first : first + num_ranks], strict=True):
            queues[rank].append(tuple(ordered[group[0] : group[1]]))
            load[rank] += cost[group]
    return tuple(tuple(queue) for queue in queues)


def _cut(sizes: Sequence[int], cap: int) -> list[tuple[int, int]]:
    """Contiguous groups `[start, stop)` of descending sizes, each at most `cap` when padded."""
    groups, start = [], 0
    for stop in range(1, len(sizes) + 1):
        is_full = stop == len(sizes) or (stop + 1 - start) * sizes[start] > cap
        if is_full:
            groups.append((start, stop))
            start = stop
    return groups


def _smallest_cap(sizes: Sequence[int], num_groups: int, max_tokens: int) -> int:
    """The least cap with which `_cut` needs at most `num_groups` groups."""
    low, high = 1, max_tokens
    while low < high:
        middle = (low + high) // 2
        if len(_cut(sizes, middle)) <= num_groups:
            high = middle
        else:
            low = middle + 1
    return low


def _split_to(
    groups: list[tuple[int, int]], sizes: Sequence[int], num_groups: int
) -> list[tuple[int, int]]:
    """Halve the most expensive group with several examples until there are `num_groups`."""
    groups = list(groups)
    while len(groups) < num_groups:
        start, stop = max(
            (g for g in groups if g[1] - g[0] > 1), key=lambda g: ((g[1] - g[0]) * sizes[g[0]], g)
        )
        middle = (start + stop) // 2
        groups.remove((start, stop))
        groups += [(start, middle), (middle, stop)]
    return groups


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
