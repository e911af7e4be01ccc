"""Packs examples into the order of one fit: steps, ranks, micro-batches.

Guarantees: every optimizer step holds exactly `batch_size` examples; every rank has the same number
of micro-batches in it and every micro-batch at least one example; a micro-batch holds at most
`micro_batch_tokens` tokens, as `row_tokens` counts them, unless it is one single longer example or
pair, which is never torn apart;
the examples of a step depend on the seed and `batch_size` only, never on the number of ranks. How
they lie on ranks and micro-batches is part of a fit's checkpoints (virgo_ray/train/job.py). Pure:
no model, no files.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from virgo_ray.config import TrainConfig
from virgo_ray.errors import DataError
from virgo_ray.records import Example, Kind, Plan, Portion, Step, sequence_length
from virgo_ray.train.balance import arrange_packed, idle_share
from virgo_ray.train.padded import arrange_padded
from virgo_ray.train.units import (
    Unit,
    expand_units,
    find_units,
    join_loads,
    make_filler,
    share_evenly,
)
from virgo_ray.train.work import DUMMY_TOKENS, TOKENS, Load, Work


def pack(
    examples: Sequence[Example], cfg: TrainConfig, rng: random.Random, work: Work = TOKENS
) -> Plan:
    """Order `examples` for `cfg.num_epochs` passes, or for `cfg.num_tokens` tokens.

    `work` says what an example costs a rank, which the arrangement evens out.

    Epochs follow each other without a seam, each in a new order; the last step is filled from the
    next epoch. With `cfg.stop_epoch` the plan ends there; the learning rate is planned for all
    epochs. Example: 5 examples, `batch_size` 4, one epoch: 2 steps, 3 examples are seen twice.

    A pair counts as one example and stays in one micro-batch. Where `cfg.objective.steps` is set
    and there are groups, all examples are shared once over that many steps instead; what a step
    lacks to a multiple of the ranks is filled up with examples that have no loss.

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
    units = find_units(examples)
    batches: Iterable[list[int]]
    if cfg.objective.steps and any(e.group for e in examples):
        batches = share_evenly(len(units), cfg.objective.steps, cfg.num_workers, rng)
        units = [*units, (len(examples),)]
        examples = [*examples, make_filler(examples)]
    else:
        batches = _batches([_num_tokens(examples, unit) for unit in units], cfg, rng)
    loads = [join_loads([work.load(examples[i]) for i in unit]) for unit in units]
    steps = [arrange(batch, loads, cfg) for batch in batches]
    scheduled = math.ceil(cfg.num_epochs * len(units) / cfg.batch_size)
    idle = tuple(idle_share(step, loads, is_meeting_often(cfg)) for step in steps)
    expanded = tuple(expand_units(step, units) for step in steps)
    return Plan(tuple(examples), expanded, scheduled if cfg.stop_epoch else None, idle)


def arrange(batch: Sequence[int], loads: Sequence[Load], cfg: TrainConfig) -> Step:
    """Spread one optimizer step, of the examples at these places, over ranks and micro-batches.

    Raises:
        DataError: the number of examples is not a multiple of the number of ranks. With one that is
            not, some ranks could have too few examples for micro-batches within the limit.
    """
    num_ranks, limit = cfg.num_workers, cfg.micro_batch_tokens
    if not batch or len(batch) % num_ranks:
        raise DataError(
            f"{len(batch)} examples cannot be spread over {num_ranks} ranks; "
            "train.batch_size must be a multiple of train.num_workers"
        )
    if cfg.packing:
        return arrange_packed(batch, loads, num_ranks, limit, is_meeting_often(cfg))
    return arrange_padded(batch, [load.tokens for load in loads], num_ranks, limit)


def is_meeting_often(cfg: TrainConfig) -> bool:
    """Whether ranks wait for each other in every micro-batch; otherwise at the end of a step.

    ZeRO-2 and ZeRO-3 partition gradients, which DeepSpeed therefore reduces in every backward pass;
    ZeRO-3 gathers parameters besides.
    """
    return cfg.zero_stage >= 2


def row_tokens(examples: Sequence[Example], is_packed: bool) -> int:
    """Tokens of one micro-batch: of its only row with a dummy picture where it has no other, or of
    its padded rows."""
    lengths = [sequence_length(e) for e in examples]
    if not is_packed:
        return len(lengths) * max(lengths)
    return sum(lengths) + (0 if any(e.images for e in examples) else DUMMY_TOKENS)


def step_examples(plan: Plan, step: int) -> Iterator[Example]:
    """Every example of one optimizer step, over all ranks and micro-batches."""
    for rank in plan.steps[step]:
        for micro_batch in rank:
            for index in micro_batch:
                yield plan.examples[index]


def real_examples(plan: Plan, step: int) -> Iterator[Example]:
    """Those of `step_examples` that count."""
    return (example for example in step_examples(plan, step) if not example.is_filler)


def num_tokens(plan: Plan, step: int) -> int:
    """Tokens the model reads in one optimizer step, all ranks together, without fillers."""
    return sum(sequence_length(e) for e in real_examples(plan, step))


def num_target_tokens(plan: Plan, step: int) -> int:
    """Target tokens of one optimizer step, all ranks together: what imitation divides its loss
    by."""
    return sum(len(e.target_ids) for e in real_examples(plan, step))


def count_portions(examples: Sequence[Example]) -> dict[str, Portion]:
    """How many examples and tokens there are of every kind, each example counted once."""
    lengths: dict[Kind, list[int]] = {kind: [] for kind in Kind}
    for example in examples:
        if example.is_filler:
            continue
        lengths[example.kind].append(sequence_length(example))
    return {str(kind): Portion(len(found), sum(found)) for kind, found in lengths.items()}


def _num_tokens(examples: Sequence[Example], unit: Unit) -> int:
    return sum(sequence_length(examples[i]) for i in unit)


def _batches(lengths: Sequence[int], cfg: TrainConfig, rng: random.Random) -> Iterator[list[int]]:
    """Whole batches of units, of which `lengths` are the tokens, until the epochs or the tokens are
    reached."""
    order = _shuffled_forever(len(lengths), rng)
    wanted = cfg.num_tokens or (cfg.stop_epoch or cfg.num_epochs) * len(lengths)
    done = 0
    while done < wanted:
        batch = list(islice(order, cfg.batch_size))
        done += sum(lengths[i] for i in batch) if cfg.num_tokens else len(batch)
        yield batch


def _shuffled_forever(num_examples: int, rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(range(num_examples), num_examples)
