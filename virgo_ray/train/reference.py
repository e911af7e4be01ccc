"""Log-probabilities under the start weights of a fit, computed once, by the model that is trained.

They are taken in one pass without gradients before the first optimizer step, in the micro-batches
in which the examples are first trained on, so that a ratio to them begins at 1. They are kept in a
file beside the checkpoints: a fit that goes on repeats nothing and changes nothing, and no second
model is ever in memory. Every rank calls the same functions with the same arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from virgo_ray.errors import TrainingError
from virgo_ray.files import disk_errors, draft_of
from virgo_ray.records import Plan
from virgo_ray.train import zero
from virgo_ray.train.batch import MicroBatch

DIGEST = "sha256"  # of all values, in the file's header

StartLogprobs = Mapping[int, Tensor]  # by the place of the example in the plan, (targets,) on CPU


def find_first_steps(plan: Plan) -> list[int]:
    """The steps in which examples with a group are trained on for the first time."""
    seen: set[int] = set()
    steps = []
    for step, ranks in enumerate(plan.steps):
        places = {i for rank in ranks for micro in rank for i in micro if plan.examples[i].group}
        if places - seen:
            steps.append(step)
            seen |= places
    return steps


def micro_batches_of(plan: Plan, rank: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(step, places of examples) of what a rank scores, in order."""
    for step in find_first_steps(plan):
        for micro_batch in plan.steps[step][rank]:
            yield step, micro_batch


@torch.no_grad()
def score_start(
    plan: Plan,
    rank: int,
    take: Callable[[], MicroBatch],
    score: Callable[[MicroBatch], Tensor],
) -> StartLogprobs:
    """Score every example with a group; all ranks get all of them. `take` gives the micro-batches
    of `micro_batches_of`."""
    mine: dict[int, tuple[int, Tensor]] = {}
    for step, places in micro_batches_of(plan, rank):
        batch = take()
        parts = score(batch).float().cpu().split(list(batch.lengths))
        for place, part in zip(places, parts, strict=True):
            if plan.examples[place].group:
                mine.setdefault(place, (step, part.clone()))
    gathered: list[dict[int, tuple[int, Tensor]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)  # deadline: the process group's
    found: dict[int, tuple[int, Tensor]] = {}
    for own in gathered:
        for place, (step, values) in own.items():
            if place not in found or step < found[place][0]:
                found[place] = step, values
    return {place: values for place, (_, values) in sorted(found.items())}


def load_or_make(path: Path, is_begun: bool, make: Callable[[], StartLogprobs]) -> StartLogprobs:
    """What lies at `path`; where nothing does, what `make` gives, which is then kept there.

    Raises:
        TrainingError: the file is damaged; or it is missing and the fit `is_begun`, so that the
            weights in memory are no longer those of its start.
    """
    known = zero.broadcast_from_first(_try_to_read(path) if dist.get_rank() == 0 else None)
    if isinstance(known, TrainingError):
        raise known  # on every rank: none waits for one that stopped
    if known is not None:
        return known
    if is_begun:
        raise TrainingError(
            f"{path} is missing, expected the log-probabilities under the start weights beside the "
            "checkpoints: move the checkpoints aside, and the same command trains this round anew"
        )
    made = make()
    if dist.get_rank() == 0:
        write_start(path, made)
    dist.barrier()  # deadline: the process group's
    return made


def write_start(path: Path, values: StartLogprobs) -> None:
    """Raises TrainingError where the file system refuses."""
    tensors = {str(place): tensor for place, tensor in values.items()}
    with disk_errors(TrainingError, f"{path} could not be written", "nothing was changed"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(path) as draft:
            save_file(tensors, draft, {DIGEST: _digest(values)})


def read_start(path: Path) -> StartLogprobs:
    """The inverse of `write_start`.

    Raises:
        TrainingError: it is not what was written.
    """
    try:
        with safe_open(path, "pt") as file:
            values = {int(name): file.get_tensor(name) for name in list(file.keys())}
            expected = (file.metadata() or {}).get(DIGEST)
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(_damaged(path, str(error))) from error
    values = dict(sorted(values.items()))
    if (found := _digest(values)) != expected:
        raise TrainingError(_damaged(path, f"its values have sha256 {found}, expected {expected}"))
    return values


def _try_to_read(path: Path) -> StartLogprobs | TrainingError | None:
    """A value that can be sent to the other ranks."""
    try:
        return read_start(path) if path.exists() else None
    except TrainingError as error:
        return error


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} is damaged ({why}). Nothing was changed. Move it and the checkpoints beside it "
        "aside, and the same command trains this round anew"
    )


def _digest(values: StartLogprobs) -> str:
    digest = hashlib.sha256()
    for place, tensor in sorted(values.items()):
        digest.update(f"{place} {len(tensor)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
