"""What an example costs a rank: FLOPs of its forward and backward pass, by what they grow with.

Counted are the matrix products: those of the decoder (with its tokens), attention (with pairs of
tokens of one example), the output layer (with targets alone) and the vision tower (with patches,
and pairs of them in a window or a picture). Two operations per multiply and add. Left out are
normalisations, activation functions, the optimizer and all communication. `scripts/bench_work.py`
holds the count against measured times. Pure: it knows no torch, and no ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from virgo_ray.config import TrainConfig
from virgo_ray.records import Example, sequence_length
from virgo_ray.train.shape import ModelShape

DUMMY_TOKENS = 3  # of the picture behind a micro-batch without one: begin, one token, end
# Backward passes take twice the operations of the forward pass. Attention takes half of it more:
# its kernels compute the scores again instead of keeping them.
BACKWARD, ATTENTION_BACKWARD = 2.0, 2.5
HEAD_PASSES = 2.0  # forward, and again in the backward pass, where logits are not kept


@dataclass(frozen=True)
class Load:
    """One example, as it weighs on a micro-batch."""

    tokens: int
    flops: float
    has_picture: bool


@dataclass(frozen=True)
class Work:
    """FLOPs of a forward and backward pass, each by what it is multiplied with.

    >>> Work(token=10, pair=1).load(Example("1", (1, 1), (1, 1))).flops
    50.0
    """

    token: float
    pair: float = 0.0  # of tokens of one example, of which the later sees the earlier or itself
    target: float = 0.0
    picture_token: float = 0.0
    patch_pair: float = 0.0  # of patches of one picture
    window_pair: float = 0.0  # of patches of one window
    window: int = 0  # patches
    patches_per_token: int = 4

    def load(self, example: Example) -> Load:
        tokens = sequence_length(example)
        flops = (
            self.token * tokens
            + self.pair * tokens * (tokens + 1) / 2
            + self.target * len(example.target_ids)
        )
        if example.images:
            flops += self._pictures(num_picture_tokens(example), len(example.images))
        return Load(tokens, flops, bool(example.images))

    def _pictures(self, tokens: int, num: int) -> float:
        """Of pictures that are alike; how the tokens of an example are divided is not known."""
        patches = self.patches_per_token * tokens / num
        pairs = self.patch_pair * patches + self.window_pair * min(patches, self.window)
        return self.picture_token * tokens + num * patches * pairs


TOKENS = Work(token=1.0)  # every token costs the same


def num_picture_tokens(example: Example) -> int:
    """Tokens of its pictures, which have one placeholder each among its prompt's."""
    ids = len(example.prompt_ids) + len(example.target_ids)
    return sequence_length(example) - ids + len(example.images)


def count_work(shape: ModelShape, train: TrainConfig) -> Work:
    """The FLOPs of a model of `shape`, trained as `train` says.

    What is frozen needs no gradients of its weights; below the first trained layer, which in the
    vision tower may be none, there is no backward pass at all.
    """
    forward = 1.0 + train.gradient_checkpointing
    backward = BACKWARD if train.lora is None else BACKWARD / 2
    head_params = shape.hidden * shape.vocabulary
    layers = shape.num_layers * shape.layer
    tower, tower_attention = 1.0, 1.0
    if not train.freeze_vision:
        tower, tower_attention = forward + BACKWARD, forward + ATTENTION_BACKWARD
    is_through = not (train.freeze_connector and train.freeze_vision)
    connector = 1.0 + is_through * (BACKWARD / 2 if train.freeze_connector else BACKWARD)
    merge = shape.patches_per_token
    attention = 4.0 * tower_attention * shape.vision_hidden
    return Work(
        token=2.0 * (layers * (forward + backward) + shape.adapters * (forward + BACKWARD)),
        pair=4.0 * shape.query_width * shape.num_layers * (forward + ATTENTION_BACKWARD),
        target=2.0 * head_params * (HEAD_PASSES + backward),
        picture_token=2.0 * (merge * shape.vision * tower + shape.connector * connector),
        patch_pair=attention * shape.vision_full_layers,
        window_pair=attention * (shape.vision_depth - shape.vision_full_layers),
        window=shape.vision_window,
        patches_per_token=merge,
    )
