"""What a fit is given, and what it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from virgo_ray.records.tokens import LogProbs, TokenIds


class Kind(StrEnum):
    """Where an example comes from; the value names it in records and metrics."""

    SEED_THOUGHT = "seed_thoughts"
    TEXT_TRACE = "text_traces"
    PICTURE_TRACE = "picture_traces"


@dataclass(frozen=True)
class Example:
    """A training item.

    `prompt_ids` hold one image placeholder id per image (un-expanded); the trainer's processor
    expands them. The loss is taken on `target_ids` only. `weight` scales the item's loss.
    `is_trace` tells what the run sampled from what it was given. Whatever sequences the ids are
    given as, they are kept as TokenIds.

    What reinforcement learns from belongs to a `group`, all examples about one problem or the two
    of a pair, which have a `role`. There `weight` is the advantage, which may be negative;
    `old_logprobs` are those of the targets when they were sampled, at `temperature`.
    """

    id: str
    prompt_ids: Sequence[int]
    target_ids: Sequence[int]
    images: tuple[str, ...] = ()
    num_tokens: int = 0
    weight: float = 1.0
    is_trace: bool = False
    old_logprobs: Sequence[float] = ()  # kept as LogProbs
    temperature: float = 1.0
    group: str = ""
    role: Literal["", "chosen", "rejected"] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "old_logprobs", LogProbs(self.old_logprobs))
        object.__setattr__(self, "prompt_ids", TokenIds(self.prompt_ids))
        object.__setattr__(self, "target_ids", TokenIds(self.target_ids))

    @property
    def is_filler(self) -> bool:
        """Whether it only fills a step up, so that all ranks have work: it has no loss and counts
        nowhere."""
        return self.weight == 0.0 and not self.group

    @property
    def kind(self) -> Kind:
        if not self.is_trace:
            return Kind.SEED_THOUGHT
        return Kind.PICTURE_TRACE if self.images else Kind.TEXT_TRACE


def sequence_length(example: Example) -> int:
    """Tokens the model reads of the example: prompt with images expanded, and target."""
    return max(example.num_tokens, len(example.prompt_ids) + len(example.target_ids))


# One optimizer step: its ranks, their micro-batches, the places of their examples.
Step = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Plan:
    """The packed order of one fit: `steps[step][rank]` is that rank's tuple of micro-batches.

    Every rank has the same number of micro-batches in every step, and every micro-batch at least
    one example, so that no collective ever waits for a rank that has nothing to do.
    """

    examples: tuple[Example, ...]
    steps: tuple[Step, ...]
    scheduled_steps: int | None = None  # the learning rate is planned for; None: as many as `steps`
    idle_shares: tuple[float, ...] = ()  # of each step, as expected; () where nobody counted


@dataclass(frozen=True)
class Weights:
    """A published model: a version and a directory. Immutable once published."""

    version: int
    path: str


@dataclass(frozen=True)
class Portion:
    """A part of what a fit trains on, each example counted once, however often it is read."""

    num_examples: int
    num_tokens: int  # as `sequence_length` counts them


@dataclass(frozen=True)
class FitReport:
    """What a fit did, for the ledger and the metrics.

    `num_examples` and the tokens count every pass over an example. `portions` counts each example
    once, by `Kind`; empty for fits of earlier versions. `entropy` and `start_kl` are those of the
    last step, in nats per token, where the objective says them.
    """

    weights: Weights
    num_steps: int
    num_examples: int
    num_tokens: int  # read by the model: prompts with images expanded, and targets
    num_target_tokens: int  # of them with a loss
    first_loss: float
    last_loss: float
    seconds: float
    resumed_from_step: int = 0
    portions: Mapping[str, Portion] = field(default_factory=dict)
    entropy: float | None = None
    start_kl: float | None = None


@dataclass(frozen=True)
class PushReport:
    """Parity after a push: largest |log-prob difference| between the trainer and any worker."""

    version: int
    max_diff_text: float
    max_diff_image: float
    seconds: float
    transport: str = "disk"
    gather_seconds: float = 0.0  # at the end of the fit; 0: the weights came from disk
    wire_seconds: float = 0.0  # of the sender
    load_seconds: float = 0.0  # of the slowest worker, fetching included
    probe_seconds: float = 0.0  # of the slowest worker
    probe: Mapping[str, float] = field(default_factory=dict)  # `weights.probe_metrics`
