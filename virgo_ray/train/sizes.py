"""How much the trainer takes up at a time: what a plan of its memory is computed from.

Elements, or bytes where the name says so. Numbers alone, so that they can be read without loading
torch or DeepSpeed.
"""

BUCKET_ELEMENTS = 200_000_000  # of one reduction: 400 MB in bfloat16
CPU_BUCKET_ELEMENTS = 5_000_000  # buffers of this size are allocated up front
# That an optimizer step converts to float32 and updates at a time: 6 bytes each of it come and go.
UPDATE_ELEMENTS = 50_000_000
ADAM_ELEMENTS = 1 << 24  # of one chunk of AdamW: two temporaries of 64 MiB
SOFTMAX_ELEMENTS = 1 << 26  # float32 scratch of one softmax chunk: 256 MiB
GATHER_ELEMENTS = 500_000_000  # of whole tensors at once: 1 GB in bfloat16
PICTURE_CACHE_BYTES = 256 * 1024**2  # of processed pictures that a rank keeps in memory
PICTURE_AHEAD_BYTES = 1024**3  # of pixels in micro-batches that no step has asked for yet
