"""The memory formula of docs/gpu-checks.md, so that a measured peak can be held against it.

It counts what PyTorch allocates; CUDA's own gigabytes are not in it. Bytes throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from train_checks.kit import model_config
from train_checks.scale import Shape
from virgo_ray.train.sizes import REDUCE_ELEMENTS, UPDATE_ELEMENTS, softmax_rows

BUCKET_BYTES = 8 * REDUCE_ELEMENTS  # of a reduction, and a copy of it


@dataclass(frozen=True)
class Size:
    """Parameters of a model by part, and the widths the formula needs."""

    decoder: int  # language model, its output layer counted, its input embedding not
    vision: int  # tower and connector
    connector: int
    embedding: int  # 0 where it is the output layer's
    layer: int  # of one decoder layer
    num_layers: int
    hidden: int
    intermediate: int
    vocabulary: int

    @property
    def trained(self) -> int:
        """Of a whole fine-tune with the vision tower frozen."""
        return self.decoder + self.embedding + self.connector

    @property
    def together(self) -> int:
        return self.decoder + self.vision + self.embedding


def size_of(shape: Shape) -> Size:
    """Counted on a model without storage."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(model_config(shape))
    total = sum(p.numel() for p in model.parameters())
    vision = sum(p.numel() for p in model.model.visual.parameters())
    layers = model.model.language_model.layers
    embedding = model.model.language_model.embed_tokens.weight.numel()
    own = 0 if shape.is_tied else embedding
    text = shape.text
    return Size(
        decoder=total - vision - own,
        vision=vision,
        connector=sum(p.numel() for p in model.model.visual.merger.parameters()),
        embedding=own,
        layer=sum(p.numel() for p in layers[0].parameters()),
        num_layers=len(layers),
        hidden=text["hidden_size"],
        intermediate=text["intermediate_size"],
        vocabulary=text["vocab_size"],
    )


def expected_bytes(
    size: Size,
    num_trained: int,
    num_tokens: int,
    num_targets: int,
    is_partitioned: bool,
    offload: str = "none",
) -> int:
    """Peak of one rank that holds everything, for a micro-batch of `num_tokens` padded tokens.

    18 bytes for a trained parameter, 2 for a frozen one, or what offloading leaves of them (the
    sum of gradients stays without ZeRO-3); to that the larger of two. In a micro-batch: kept
    activations, the layer being recomputed, the logits of a chunk, with ZeRO-3 the gathered output
    layer and two layers. In the update: the gradients of one group, flat and in float32. A group is
    at least the largest parameter.
    """
    frozen = size.together - num_trained
    parameters = {
        "none": 18 * num_trained + 2 * frozen,
        "optimizer": (2 if is_partitioned else 6) * num_trained + 2 * frozen,
        "optimizer_and_parameters": 0,
    }[offload]
    gathered = 2 * (size.hidden * size.vocabulary + 2 * size.layer) if is_partitioned else 0
    kept = 2 * size.num_layers * size.hidden * num_tokens
    recomputed = 12 * size.intermediate * num_tokens
    logits = 6 * size.vocabulary * min(num_targets, softmax_rows(size.vocabulary))
    micro_batch = gathered + kept + recomputed + logits
    group = min(num_trained, max(UPDATE_ELEMENTS, size.hidden * size.vocabulary))
    update = 4 * group if offload == "none" else 0
    return parameters + BUCKET_BYTES + max(micro_batch, update)


def flops(size: Size, num_tokens: int, num_patches: int, has_adapters: bool) -> float:
    """FLOP of a step by the count that MFU is quoted for, attention itself left out.

    Forward, recomputed forward and the gradient of the activations take 2 each per decoder
    parameter and token, the gradient of trained weights 2 more; a frozen vision tower 2 per patch.
    """
    per_token = 6 if has_adapters else 8
    return float(per_token * size.decoder * num_tokens + 2 * size.vision * num_patches)
