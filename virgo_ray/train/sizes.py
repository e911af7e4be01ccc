"""How much the trainer takes up at a time: what a plan of its memory is computed from.

Elements, or bytes where the name says so. Numbers, and what follows from them, so that they can be
read without loading torch or DeepSpeed.
"""

BUCKET_ELEMENTS = 200_000_000  # of weights that are gathered together: 400 MB in bfloat16
REDUCE_ELEMENTS = 100_000_000  # of gradients that are reduced together: 400 MB in float32
CPU_BUCKET_ELEMENTS = 5_000_000  # buffers of this size are allocated up front
# That an optimizer step converts to float32 and updates at a time: 6 bytes each of it come and go.
UPDATE_ELEMENTS = 50_000_000
ADAM_ELEMENTS = 1 << 24  # of one chunk of AdamW: two temporaries of 64 MiB
# Logits of one chunk of the output head: 512 MiB in float32, and as many again in bfloat16 are half
# of that. With fewer a GPU would read the head's weight more often than it computes.
SOFTMAX_ELEMENTS = 1 << 27
GATHER_ELEMENTS = 500_000_000  # of whole tensors at once: 1 GB in bfloat16

# Elements of a token that one decoder layer keeps for its backward pass, in widths of the model:
# normalisations (in float32), query, key, value, their rotated copies, attention and residuals.
KEPT_HIDDEN, KEPT_INTERMEDIATE = 15, 4
PIXEL_BYTES = 4  # of a number of a patch, as the processor gives it
PICTURE_CACHE_BYTES = 256 * 1024**2  # of processed pictures that a rank keeps in memory
PICTURE_AHEAD_BYTES = 1024**3  # of pixels in micro-batches that no step has asked for yet


def softmax_rows(vocabulary: int) -> int:
    """Targets whose logits exist at a time; many of them are whole tiles of a matrix product.

    >>> softmax_rows(151_936), softmax_rows(1_500_000)
    (768, 89)
    """
    rows = max(1, SOFTMAX_ELEMENTS // vocabulary)
    return rows - rows % 128 if rows > 128 else rows


def kept_per_token(hidden: int, intermediate: int) -> int:
    """Elements that one layer of these widths keeps of a token, or of a patch."""
    return KEPT_HIDDEN * hidden + KEPT_INTERMEDIATE * intermediate


def sums_in_float32(stage: int) -> bool:
    """Whether a ZeRO stage can sum a bfloat16 model's gradients in float32.

    DeepSpeed refuses it in stage 0; in stage 1 another optimizer takes over, which keeps the whole
    model's gradients in float32 on every rank.
    """
    return stage in (2, 3)
