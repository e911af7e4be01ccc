"""The micro-batch whose memory is tried before the first step."""

import pytest

from virgo_ray.config import TrainConfig
from virgo_ray.records import Example, Plan
from virgo_ray.train.memory import describe, growth_of, largest_micro_batch
from virgo_ray.train.shape import ModelShape


@pytest.mark.parametrize(
    ("is_packed", "expected", "said"),
    [
        (True, (2,), "1 examples of at most 80 tokens = 83 in one row, the longest is '2'"),
        (
            False,
            (0, 1, 3),
            "3 examples of at most 40 tokens = 120 with padding, the longest is '0'",
        ),
    ],
)
def test_the_micro_batch_with_the_most_tokens_is_tried_first_and_named(is_packed, expected, said):
    sizes = [40, 10, 80, 12]
    examples = tuple(Example(str(i), (1,), (2,) * (n - 1)) for i, n in enumerate(sizes))
    plan = Plan(examples, ((((1,), (0, 1, 3), (2,)),),))
    assert largest_micro_batch(plan, 0, is_packed) == expected
    assert describe(plan, expected, is_packed).startswith(said)


# Widths of Qwen2.5-VL-3B; what does not matter here is 0.
SHAPE_3B = ModelShape(
    **{"kind": "", "num_tensors": 0, "language": 0, "vision": 0, "connector": 0, "adapters": 0},
    **{"trained": 0, "largest_trained": 0, "largest": 0, "layer": 0, "embedding": 0},
    num_layers=36, hidden=2048, intermediate=11008, vocabulary=151936,
    query_width=2048, kv_width=256, kv_head=128,
    vision_depth=32, vision_hidden=1280, vision_intermediate=3420, vision_full_layers=4,
    vision_window=64, patch_values=1176, token_pixels=784, patches_per_token=4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "num_tokens", "expected"),
    [
        ({}, 8190, "pictures"),
        ({}, 8000, "text"),  # pixels are little beside what a decoder keeps
        ({"gradient_checkpointing": True}, 8000, "pictures"),
        ({"gradient_checkpointing": True}, 7000, "text"),
        ({"freeze_vision": False}, 7000, "pictures"),
        ({"freeze_vision": False, "gradient_checkpointing": True}, 7000, "pictures"),
    ],
)
def test_of_rows_that_are_about_full_the_pictures_decide(keys, num_tokens, expected):
    """A row of text with 8,192 tokens, and one with `num_tokens`, of which 7,000 are pictures."""
    text = Example("text", (1,) * 189, (1,) * 8000)
    num_prompt = num_tokens - 900 - 7000 + 7 if num_tokens > 7900 else 7
    num_targets = 900 if num_tokens > 7900 else 1
    pictures = Example("pictures", (1,) * num_prompt, (1,) * num_targets, ("p",) * 7, num_tokens)
    plan = Plan((text, pictures), ((((0,), (1,)),),))
    growth = growth_of(SHAPE_3B, TrainConfig(**keys), itemsize=2)
    (chosen,) = largest_micro_batch(plan, 0, True, growth)
    assert plan.examples[chosen].id == expected
