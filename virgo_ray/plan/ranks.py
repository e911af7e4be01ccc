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
    CPU_BUCKET_ELEMENTS,
    GATHER_ELEMENTS,
    KEPT_HIDDEN,
    KEPT_INTERMEDIATE,
    PIXEL_BYTES,
    REDUCE_ELEMENTS,
    UPDATE_ELEMENTS,
    kept_per_token,
    softmax_rows,
    sums_in_float32,
)

BYTES = {"float32": 4, "bfloat16": 2}
MOMENTS, MASTER = 8, 4  # AdamW's two, and the weights that it updates: float32
# ZeRO-3 keeps gathered what it needs again soon: DeepSpeed's stage3_max_live_parameters.
LIVE_ELEMENTS = 1_000_000_000
# Gradients of what a layer keeps, while it is gone through backwards; in widths of the model.
GRAD_HIDDEN, GRAD_INTERMEDIATE = 3, 2


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
    head_dtype: str | None = None

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

    @property
    def _is_offloaded(self) -> bool:
        """What AdamW needs, to the host. Ranks on CPUs have but one memory."""
        return self.is_gpu and self.train.offload != "none"

    @property
    def _is_all_offloaded(self) -> bool:
        return self.is_gpu and self.train.offload == "optimizer_and_parameters"

    @property
    def _is_summing(self) -> bool:
        """A bfloat16 model's gradients, in float32."""
        return self.dtype == "bfloat16" and sums_in_float32(self._stage)

    def _look_up(self, name: str, default: int) -> int:
        """A number of train.deepspeed."""
        return int(self.train.deepspeed.get("zero_optimization", {}).get(name, default))

    def _share(self, elements: int, from_stage: int) -> int:
        """Of a rank; what is partitioned from that ZeRO stage on."""
        return -(-elements // self.world_size) if self._stage >= from_stage else elements

    @property
    def _own(self) -> int:
        """Parameters that this rank updates."""
        return self._share(self.shape.trained, 1)

    @property
    def _weights(self) -> int:
        again = self._look_up("zero_hpz_partition_size", 1)
        copy = self._itemsize * (self.shape.held // again) if again > 1 else 0
        own = 0 if self._is_all_offloaded else self._itemsize * self._share(self.shape.held, 3)
        return own + copy

    @property
    def _bucket_elements(self) -> int:
        usual = REDUCE_ELEMENTS if self.is_gpu else CPU_BUCKET_ELEMENTS
        return self._look_up("reduce_bucket_size", usual)

    @property
    def _reduced_bytes(self) -> int:
        """Of a gradient on its way between ranks."""
        is_float32 = self.train.deepspeed.get("communication_data_type", "fp32") == "fp32"
        return 4 if self._is_summing and is_float32 else self._itemsize

    @property
    def _bucket(self) -> int:
        """Gradients that wait for their reduction: while a backward pass runs, in ZeRO-3 always.
        ZeRO-2 fills a second bucket while it reduces one, on a GPU."""
        if not self._stage:
            return 0
        if self._stage == 3:
            return self._reduced_bytes * self._bucket_elements
        num = 2 if self.is_gpu and self._stage == 2 else 1
        return num * self._itemsize * self._bucket_elements

    @property
    def _reducing(self) -> int:
        """Copies of a bucket, or of one larger gradient, that a reduction makes."""
        largest, bucket = self.shape.largest_trained, self._bucket_elements
        elements = max(largest, min(bucket, self.shape.trained))
        num = 2 if self._stage == 3 and self._is_summing and largest > bucket else 1
        return num * self._reduced_bytes * elements if sums_in_float32(self._stage) else 0

    @property
    def _gradients(self) -> int:
        """The sum over micro-batches."""
        size = 4 if self._is_summing else self._itemsize
        return size * self._share(self.shape.trained, 2)

    @property
    def _states(self) -> int:
        """Of AdamW, its own copy of the weights among them."""
        return 0 if self._is_offloaded else (MASTER + MOMENTS) * self._own

    @property
    def _rest(self) -> int:
        """Held between two steps."""
        flat = self._bucket if self._stage == 3 else 0
        flat += 0 if self._stage != 3 or self._is_offloaded else self._gradients
        return self._weights + self._states + flat

    def offloaded(self) -> int:
        """Bytes of this rank in host memory: AdamW's states, gradients, a copy of the weights."""
        if not self._is_offloaded:
            return 0
        states = (MASTER + MOMENTS + 4) * self._own  # and the gradient that AdamW is given
        if self._stage == 2:
            return states + self._itemsize * self._own
        whole = self._itemsize * self._share(self.shape.held, 3) if self._is_all_offloaded else 0
        return states + self._gradients + whole

    def waiting_on_host(self) -> int:
        """Bytes that a resident rank moves to host memory while engines need its GPU: weights,
        masters and moments, which DeepSpeed can move in ZeRO 1 and 2. Otherwise it frees them."""
        is_moved = self.is_gpu and self.train.resident and self._stage in (1, 2)
        return self._weights + self._states if is_moved else 0

    @property
    def _gathered(self) -> int:
        """Whole parameters of ZeRO-3 that are in use; a single rank gathers nothing that it has."""
        if self._stage != 3 or (self.world_size == 1 and not self._is_all_offloaded):
            return 0
        most = self._look_up("stage3_max_live_parameters", LIVE_ELEMENTS)
        live = min(self.shape.held, most + max(self.shape.layer, self.shape.largest))
        return self._itemsize * live

    def _load(self) -> int:
        """The master copy, and gradients of zeros with which DeepSpeed begins."""
        bucket = self._bucket if self._stage == 3 else 0
        zeros = 0 if self._is_offloaded else (MASTER + 4) * self._own
        return max(self._weights + bucket + zeros, self._reading())

    def _reading(self) -> int:
        """While weights are read: those of `start`, and with adapters that go on from round to
        round, those that they belong on beside them. Below ZeRO-3 a rank on a GPU reads into host
        memory (`reading_on_host`)."""
        return 0 if self._is_reading_on_host else self._num_read * self._weights

    def reading_on_host(self) -> int:
        """Bytes of this rank in host memory while weights are read, before they go to its GPU."""
        whole = self._itemsize * self.shape.saved
        return self._num_read * whole if self._is_reading_on_host else 0

    @property
    def _is_reading_on_host(self) -> bool:
        return self.is_gpu and self._stage < 3

    @property
    def _num_read(self) -> int:
        is_going_on = self.train.lora is not None and self.train.restart_from == "previous"
        return 2 if is_going_on else 1

    # -- a micro-batch ---------------------------------------------------------------------------

    def _at_logits(self, batch: MicroBatch) -> int:
        """The head's gradient and the logits of a chunk beside all that the backward pass needs."""
        head = self.shape.vocabulary * self.shape.hidden if self.train.lora is None else 0
        states = (3 * self._itemsize + 4) * self.shape.hidden * batch.tokens
        states += 2 * self._itemsize * self.shape.hidden * batch.targets
        return (
            self._earlier(batch) + self._gathered + self._kept(batch) + self._pictures(batch)
            + states + self._itemsize * head + self.logits_of_chunk(batch.targets)
            + self._copy_of_head
        )  # fmt: skip

    @property
    def _copy_of_head(self) -> int:
        """The float32 output layer that a CPU computes float32 logits with (`train/head.py`)."""
        if self.is_gpu or self.head_dtype != "float32" or self.dtype == "float32":
            return 0
        return 4 * self.shape.vocabulary * self.shape.hidden

    def logits_of_chunk(self, targets: int) -> int:
        """In float32, and as they are before and after that where weights are in bfloat16."""
        logits = self.shape.vocabulary * min(targets, softmax_rows(self.shape.vocabulary))
        return (4 + (self._itemsize if self.dtype == "bfloat16" else 0)) * logits

    def _at_the_end(self, batch: MicroBatch) -> int:
        """The last layer of the backward pass, when all gradients are there."""
        added = self._reducing
        if self._stage != 3:
            added += self._bucket + self._itemsize * self._share(self.shape.trained, 2)
        hidden = (KEPT_HIDDEN + GRAD_HIDDEN) * self.shape.hidden
        inner = (KEPT_INTERMEDIATE + GRAD_INTERMEDIATE) * self.shape.intermediate
        layer = self._itemsize * (hidden + inner) * batch.tokens
        return self._earlier(batch) + added + self._gathered + self._pictures(batch) + layer

    def _earlier(self, batch: MicroBatch) -> int:
        return 0 if batch.is_first or self._stage == 3 else self._gradients

    def _kept(self, batch: MicroBatch) -> int:
        """Activations that wait for the backward pass."""
        shape = self.shape
        per_token = kept_per_token(shape.hidden, shape.intermediate)
        if self.train.gradient_checkpointing:
            per_token = shape.hidden
        kept = self._itemsize * shape.num_layers * per_token * batch.tokens
        if self.train.freeze_vision:
            return kept
        per_patch = kept_per_token(shape.vision_hidden, shape.vision_intermediate)
        if self.train.gradient_checkpointing:
            per_patch = shape.vision_hidden
        return kept + self._itemsize * shape.vision_depth * per_patch * batch.patches

    def _pictures(self, batch: MicroBatch) -> int:
        """Pixels as the processor gives them: float32."""
        return PIXEL_BYTES * self.shape.patch_values * batch.patches

    # -- an update, and its publishing -----------------------------------------------------------

    def _update(self) -> int:
        """Gradients, and what comes and goes for a group of parameters: flat and in float32."""
        if self._is_offloaded:
            return 0 if self._stage == 3 else self._gradients
        group = min(self.shape.trained, max(UPDATE_ELEMENTS, self.shape.largest_trained))
        group = min(self._own, UPDATE_ELEMENTS) if self._stage == 3 else self._share(group, 1)
        scratch = 0 if self.is_gpu else 8 * min(group, ADAM_ELEMENTS)  # one pass on a GPU
        if self._is_summing:  # nothing to convert; ZeRO-3 makes a flat copy
            return 4 * group + scratch if self._stage == 3 else self._gradients + scratch
        gradients = self._gradients
        waiting = gradients if self._stage == 3 else 0  # these stay; those of ZeRO 1, 2 go
        after = max(gradients - self._itemsize * group, 0) + 4 * group + scratch
        converting = gradients + (self._itemsize + 4) * group
        return max(after, converting) - waiting

    def _publish(self) -> int:
        """Whole tensors, a bucket at a time; on a CPU the copies of all of them are there, too."""
        bucket = min(self.shape.saved, max(GATHER_ELEMENTS, self.shape.largest))
        is_gathering = self._stage == 3 and self.world_size > 1
        # On a CPU, adapters in float32 too: all, and as they are merged.
        copies = self._itemsize * self.shape.saved + 2 * MASTER * self.shape.adapters
        copies = 0 if self.is_gpu else copies
        return copies + self._itemsize * bucket * is_gathering
