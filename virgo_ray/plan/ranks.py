"""The memory of one trainer rank, phase by phase, by what its allocator counts.

The formulas follow the tensors that DeepSpeed and `train/` keep; docs/plan.md holds them against
measured peaks. Bytes throughout. What is no tensor (CUDA, NCCL, Python) is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.config import TrainConfig
from virgo_ray.train.shape import ModelShape
from virgo_ray.train.sizes import (
    ADAM_ELEMENTS,
    BUCKET_ELEMENTS,
    CPU_BUCKET_ELEMENTS,
    GATHER_ELEMENTS,
    UPDATE_ELEMENTS,
    softmax_rows,
)

BYTES = {"float32": 4, "bfloat16": 2}
MOMENTS, MASTER = 8, 4  # AdamW's two, and the weights that it updates: float32
# ZeRO-3 keeps gathered what it needs again soon: DeepSpeed's stage3_max_live_parameters.
LIVE_ELEMENTS = 1_000_000_000
# Elements of a token that one decoder layer keeps for its backward pass, in widths of the model:
# normalisations (in float32), query, key, value, their rotated copies, attention and residuals.
KEPT_HIDDEN, KEPT_INTERMEDIATE = 15, 4
GRAD_HIDDEN, GRAD_INTERMEDIATE = 3, 2  # and their gradients, while it is gone through backwards


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward takes: tokens (with padding, where rows are not packed), those
    that are targets, patches of pictures, and whether there is a sum of earlier gradients."""

    tokens: int
    targets: int
    patches: int
    is_first: bool = False


@dataclass(frozen=True)
class RankMemory:
    """Peak bytes of each phase of a fit."""

    load: int
    micro_batch: int
    update: int
    publish: int

    @property
    def peak(self) -> int:
        return max(self.load, self.micro_batch, self.update, self.publish)


@dataclass(frozen=True)
class Rank:
    """One of `world_size` ranks that train a model of `shape`."""

    shape: ModelShape
    train: TrainConfig
    dtype: str
    world_size: int
    is_gpu: bool

    def memory(self, batch: MicroBatch) -> RankMemory:
        """The peaks of a fit whose largest micro-batch is `batch`."""
        return RankMemory(
            load=self._load(),
            micro_batch=self._rest + max(self._at_logits(batch), self._at_the_end(batch)),
            update=self._rest + self._update(),
            publish=self._rest + self._publish(),
        )

    @property
    def _itemsize(self) -> int:
        return BYTES[self.dtype]

    @property
    def _stage(self) -> int:
        return self.train.zero_stage

    def _share(self, elements: int, from_stage: int) -> int:
        """Of a rank; what is partitioned from that ZeRO stage on."""
        return -(-elements // self.world_size) if self._stage >= from_stage else elements

    @property
    def _own(self) -> int:
        """Parameters that this rank updates."""
        return self._share(self.shape.trained, 1)

    @property
    def _weights(self) -> int:
        return self._itemsize * self._share(self.shape.held, 3)

    @property
    def _bucket(self) -> int:
        """Gradients that wait for their reduction: while a backward pass runs, in ZeRO-3 always."""
        size = BUCKET_ELEMENTS if self.is_gpu else CPU_BUCKET_ELEMENTS
        return self._itemsize * min(size, self.shape.trained) if self._stage else 0

    @property
    def _gradients(self) -> int:
        """The sum over micro-batches."""
        return self._itemsize * self._share(self.shape.trained, 2)

    @property
    def _rest(self) -> int:
        """Held between two steps."""
        flat = self._gradients + self._bucket if self._stage == 3 else 0
        return self._weights + (MASTER + MOMENTS) * self._own + flat

    @property
    def _gathered(self) -> int:
        """Whole parameters of ZeRO-3 that are in use; a single rank gathers nothing."""
        if self._stage != 3 or self.world_size == 1:
            return 0
        live = min(self.shape.held, LIVE_ELEMENTS + max(self.shape.layer, self.shape.largest))
        return self._itemsize * live

    def _load(self) -> int:
        """The master copy, and gradients of zeros with which DeepSpeed begins."""
        bucket = self._bucket if self._stage == 3 else 0
        return self._weights + bucket + (MASTER + 4) * self._own

    # -- a micro-batch ---------------------------------------------------------------------------

    def _at_logits(self, batch: MicroBatch) -> int:
        """The head's gradient and the logits of a chunk beside all that the backward pass needs."""
        head = self.shape.vocabulary * self.shape.hidden if self.train.lora is None else 0
        states = (3 * self._itemsize + 4) * self.shape.hidden * batch.tokens
        states += 2 * self._itemsize * self.shape.hidden * batch.targets
        return (
            self._earlier(batch) + self._gathered + self._kept(batch) + self._pictures(batch)
            + states + self._itemsize * head + self.logits_of_chunk(batch.targets)
        )  # fmt: skip

    def logits_of_chunk(self, targets: int) -> int:
        """In float32, and as they are before and after that where weights are in bfloat16."""
        logits = self.shape.vocabulary * min(targets, softmax_rows(self.shape.vocabulary))
        return (4 + (self._itemsize if self.dtype == "bfloat16" else 0)) * logits

    def _at_the_end(self, batch: MicroBatch) -> int:
        """The last layer of the backward pass, when all gradients are there."""
        added = 0 if self._stage == 3 else self._gradients + self._bucket
        hidden = (KEPT_HIDDEN + GRAD_HIDDEN) * self.shape.hidden
        inner = (KEPT_INTERMEDIATE + GRAD_INTERMEDIATE) * self.shape.intermediate
        layer = self._itemsize * (hidden + inner) * batch.tokens
        return self._earlier(batch) + added + self._gathered + self._pictures(batch) + layer

    def _earlier(self, batch: MicroBatch) -> int:
        return 0 if batch.is_first or self._stage == 3 else self._gradients

    def _kept(self, batch: MicroBatch) -> int:
        """Activations that wait for the backward pass."""
        shape = self.shape
        per_token = KEPT_HIDDEN * shape.hidden + KEPT_INTERMEDIATE * shape.intermediate
        if self.train.gradient_checkpointing:
            per_token = shape.hidden
        kept = self._itemsize * shape.num_layers * per_token * batch.tokens
        if self.train.freeze_vision:
            return kept
        per_patch = (
            KEPT_HIDDEN * shape.vision_hidden + KEPT_INTERMEDIATE * shape.vision_intermediate
        )
        if self.train.gradient_checkpointing:
            per_patch = shape.vision_hidden
        return kept + self._itemsize * shape.vision_depth * per_patch * batch.patches

    def _pictures(self, batch: MicroBatch) -> int:
        """Pixels as the processor gives them: float32."""
        return 4 * self.shape.patch_values * batch.patches

    # -- an update, and its publishing -----------------------------------------------------------

    def _update(self) -> int:
        """Gradients, and what comes and goes for a group of parameters: flat and in float32."""
        group = min(self.shape.trained, max(UPDATE_ELEMENTS, self.shape.largest_trained))
        group = min(self._own, UPDATE_ELEMENTS) if self._stage == 3 else self._share(group, 1)
        gradients = self._gradients
        waiting = gradients if self._stage == 3 else 0  # these stay; those of ZeRO 1, 2 go
        scratch = 8 * min(group, ADAM_ELEMENTS)
        after = max(gradients - self._itemsize * group, 0) + 4 * group + scratch
        converting = gradients + (self._itemsize + 4) * group
        return max(after, converting) - waiting

    def _publish(self) -> int:
        """Whole tensors, a bucket at a time; on a CPU the copies of all of them are there, too."""
        bucket = min(self.shape.saved, max(GATHER_ELEMENTS, self.shape.largest))
        is_gathering = self._stage == 3 and self.world_size > 1
        copies = 0 if self.is_gpu else self._itemsize * self.shape.saved
        return copies + self._itemsize * bucket * is_gathering
