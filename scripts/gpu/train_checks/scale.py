"""How large the models and batches of the rows are: real sizes, or small ones for a CPU.

Widths, depths and vocabularies are those of Qwen2.5-VL-3B and 7B (their `config.json` on the hub).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from train_checks.table import Group

VISION: dict[str, Any] = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
    "patch_size": 14, "spatial_patch_size": 14, "window_size": 112, "tokens_per_second": 2,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
TEXT_3B: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
TEXT_7B: dict[str, Any] = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
}  # fmt: skip
ROPE: dict[str, Any] = {
    "max_position_embeddings": 128000, "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24],
    },
}  # fmt: skip
SMALL_VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "window_size": 32,
    "fullatt_block_indexes": [1],
}  # fmt: skip
SMALL_TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1088,
    "max_position_embeddings": 4096,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A model to be made: fields of its config's two halves, and of its processor."""

    text: dict[str, Any]
    vision: dict[str, Any]
    is_tied: bool
    patch_size: int
    pixels: tuple[int, int]  # least and most of a picture


@dataclass(frozen=True)
class Scale:
    """The models by name, and the sizes that the rows are measured at."""

    shapes: dict[str, Shape]
    full: str  # is trained whole
    lora: str  # is trained by adapters
    shallow: str  # of real width, few layers: for checkpoints
    micro_batches: tuple[int, ...]  # padded tokens
    thought: tuple[int, int]  # tokens of the shortest and the longest example
    head_targets: tuple[int, ...]
    attention_tokens: int
    side: int  # of a picture, pixels
    num_pictures: int  # that the vision tower is timed on
    push_bytes: int  # of weights that are pushed, in buckets of `bucket_bytes`
    bucket_bytes: int
    served: str  # the model of an engine: one of `shapes`, or the bundled one
    noise_tokens: int  # targets of each kind, a multiple of 256
    limit_s: float  # for a row

    @property
    def groups(self) -> tuple[Group, ...]:
        """All rows, the most valuable first."""
        head = tuple(f"head/{n}" for n in self.head_targets)
        paths = ("padded", "one_row", "varlen")
        towers = ("windows_looped", "windows_varlen")
        noise = (
            "bfloat16_to_float32",
            "padded_to_one_row",
            "eager_to_one_row",
            "varlen_to_one_row",
        )
        resume = ("stop_and_go", "publish_and_reload", "dummy_picture", "memory_freed")
        push = tuple(f"push/{p}" for p in ("ipc", "broadcast", "killed"))
        return (
            Group("card", ("card",), self.limit_s),
            self._fits(self.full, 2),
            Group("attention", tuple(f"attention/decoder/{p}" for p in paths), self.limit_s),
            Group("attention", tuple(f"attention/vision/{t}" for t in towers), self.limit_s),
            Group("head", head, self.limit_s),
            Group("noise", tuple(f"noise/{n}" for n in noise), self.limit_s),
            Group("resume", tuple(f"resume/{r}" for r in resume), self.limit_s),
            Group("push", push, self.limit_s),
            Group("push", ("push/sleep",), 2 * self.limit_s),  # vLLM starts
            self._fits(self.full, 3),
            self._fits(self.lora, 2),
            Group("trace", ("trace",), self.limit_s),
            self._fits(self.lora, 3),
            *(Group("fit", (row,), 2 * self.limit_s) for row in self._variants),
        )

    @property
    def _variants(self) -> tuple[str, ...]:
        """Each beside the row of `fit` without it."""
        stages = ("zero2_offload", "zero3_offload", "zero3_offload_all")
        offloaded = (f"fit/{self.full}/{s}/{self.micro_batches[1]}" for s in stages)
        return (f"liger/{self.full}/zero2_liger/{self.micro_batches[1]}", *offloaded)

    def _fits(self, model: str, stage: int) -> Group:
        rows = tuple(f"fit/{model}/zero{stage}/{n}" for n in self.micro_batches)
        return Group("fit", rows, self.limit_s)


REAL = Scale(
    shapes={
        "3b": Shape(TEXT_3B | ROPE, VISION, True, 14, (3136, 12845056)),
        "7b_lora": Shape(TEXT_7B | ROPE, VISION, False, 14, (3136, 12845056)),
        "3b_shallow": Shape(
            TEXT_3B | ROPE | {"num_hidden_layers": 2},
            VISION | {"depth": 2, "fullatt_block_indexes": [1]}, True, 14, (3136, 12845056),
        ),
    },
    full="3b",
    lora="7b_lora",
    shallow="3b_shallow",
    micro_batches=(8192, 16384, 32768),
    thought=(1600, 4000),
    head_targets=(16384, 32768),
    attention_tokens=16384,
    side=1008,
    num_pictures=10,
    push_bytes=4_000_000_000,
    bucket_bytes=2**30,
    served="3b_shallow",
    noise_tokens=1024,
    limit_s=90.0,
)  # fmt: skip
SMALL = Scale(
    shapes={
        "small": Shape(SMALL_TEXT, SMALL_VISION, True, 8, (256, 9216)),
        "small_lora": Shape(SMALL_TEXT, SMALL_VISION, False, 8, (256, 9216)),
    },
    full="small",
    lora="small_lora",
    shallow="small",
    micro_batches=(128, 256, 512),
    thought=(40, 100),
    head_targets=(64, 128),
    attention_tokens=256,
    side=64,
    num_pictures=3,
    push_bytes=4_000_000,
    bucket_bytes=2**20,
    served="tiny",
    noise_tokens=256,
    limit_s=60.0,
)
