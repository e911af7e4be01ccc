"""How much the trainer takes up at a time, in elements; what a plan of its memory is computed from.

Numbers, and what follows from them, so that they can be read without loading torch or DeepSpeed.
"""

BUCKET_ELEMENTS = 200_000_000  # of weights that are gathered together: 400 MB in bfloat16
REDUCE_ELEMENTS = 100_000_000  # of gradients that are reduced together: 400 MB in float32
CPU_BUCKET_ELEMENTS = 5_000_000  # buffers of this size are allocated up front
# That an optimizer step converts to float32 and updates at a time: 6 bytes each of it come and go.
UPDATE_ELEMENTS = 50_000_000
ADAM_ELEMENTS = 1 << 24  # of one chunk of AdamW: two temporaries of 64 MiB
SOFTMAX_ELEMENTS = 1 << 26  # float32 scratch of one softmax chunk: 256 MiB
GATHER_ELEMENTS = 500_000_000  # of whole tensors at once: 1 GB in bfloat16


def sums_in_float32(stage: int) -> bool:
    """Whether a ZeRO stage can sum a bfloat16 model's gradients in float32.

    DeepSpeed refuses it in stage 0; in stage 1 another optimizer takes over, which keeps the whole
    model's gradients in float32 on every rank.
    """
    return stage in (2, 3)
