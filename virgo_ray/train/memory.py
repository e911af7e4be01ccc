"""Running out of memory, said at once and in words that help.

It is no accident that another try would mend: the same micro-batch needs the same memory again. So
it becomes a TrainingError, which the group of ranks does not retry. Knows no DeepSpeed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from virgo_ray.config import TrainConfig
from virgo_ray.errors import TrainingError
from virgo_ray.records import Plan, sequence_length
from virgo_ray.train.pack import row_tokens
from virgo_ray.train.shape import ModelShape
from virgo_ray.train.sizes import PIXEL_BYTES, kept_per_token
from virgo_ray.train.work import num_picture_tokens

# How torch on a CPU, CUDA, cuBLAS and NCCL say it, in errors that are no torch.OutOfMemoryError.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")


@contextlib.contextmanager
def memory_errors(where: str, cfg: TrainConfig) -> Iterator[None]:
    """Turn memory that runs out in the block into a TrainingError that names the place.

    Raises:
        TrainingError: the device, or the host for a rank on CPU, has no memory left.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        is_named = any(words in str(error) for words in OUT_OF_MEMORY)
        if not (isinstance(error, torch.OutOfMemoryError) or is_named):
            raise
        said = str(error).splitlines()[0]
        raise TrainingError(
            f"out of memory {where}: {said} Expected it to fit; it would not at a second try. "
            f"{_ways_out(cfg)}"
        ) from error


def describe(plan: Plan, micro_batch: tuple[int, ...], is_packed: bool) -> str:
    """For instance: 3 examples of at most 812 tokens = 2436 with padding, the longest is 'a-17';
    or = 1630 in one row."""
    examples = [plan.examples[i] for i in micro_batch]
    longest = max(examples, key=sequence_length)
    return (
        f"{len(examples)} examples of at most {sequence_length(longest)} tokens = "
        f"{row_tokens(examples, is_packed)} {'in one row' if is_packed else 'with padding'}, "
        f"the longest is {longest.id!r}"
    )


@dataclass(frozen=True)
class Growth:
    """Bytes by which the memory of a forward and backward pass grows."""

    token: float  # of the decoder, padding included
    picture_token: float = 0.0  # of the patches behind it, on top


TOKENS_ALONE = Growth(token=1.0)


def growth_of(shape: ModelShape, train: TrainConfig, itemsize: int) -> Growth:
    """An estimate from what layers keep: pixels, and where the tower is trained its activations."""
    decoder = kept_per_token(shape.hidden, shape.intermediate)
    tower = kept_per_token(shape.vision_hidden, shape.vision_intermediate)
    token, patch = shape.num_layers * decoder, shape.vision_depth * tower
    if train.gradient_checkpointing:  # what goes into each layer, and all of one
        token = shape.num_layers * shape.hidden + decoder
        patch = shape.vision_depth * shape.vision_hidden + tower
    pixels = PIXEL_BYTES * shape.patch_values
    of_patch = pixels + (0 if train.freeze_vision else itemsize * patch)
    return Growth(itemsize * token, shape.patches_per_token * of_patch)


def largest_micro_batch(
    plan: Plan, rank: int, is_packed: bool, growth: Growth = TOKENS_ALONE
) -> tuple[int, ...]:
    """Of all that `rank` is given in a fit, the one that should take the most memory; of equals the
    first with the longest example.

    Packed rows are nearly all full: then the pictures decide.
    """

    def size(micro_batch: tuple[int, ...]) -> tuple[float, int]:
        examples = [plan.examples[i] for i in micro_batch]
        pictures = sum(num_picture_tokens(e) for e in examples if e.images)
        num_bytes = growth.token * row_tokens(examples, is_packed) + growth.picture_token * pictures
        return num_bytes, max(map(sequence_length, examples))

    return max((mine for step in plan.steps for mine in step[rank]), key=size)


def _ways_out(cfg: TrainConfig) -> str:
    """What this config leaves to change, the cheapest first."""
    ways = [f"lower train.micro_batch_tokens={cfg.micro_batch_tokens}"]
    if not cfg.gradient_checkpointing:
        ways.append("set train.gradient_checkpointing=true (activations are recomputed)")
    if cfg.zero_stage != 3:
        ways.append(f"set train.zero_stage=3 instead of {cfg.zero_stage}, with more ranks")
    else:
        ways.append(f"raise train.num_workers={cfg.num_workers}")
    if cfg.gpus_per_worker and cfg.offload == "none":
        ways.append("set train.offload=optimizer with ZeRO 2 or 3 (updates are much slower)")
    if cfg.lora is None:
        ways.append("train adapters (train.lora)")
    return f"{', '.join(ways)}, or leave the longest examples out (model.max_length)"
