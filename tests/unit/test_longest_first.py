"""The micro-batch whose memory is tried before the first step."""

import pytest

from virgo_ray.records import Example, Plan
from virgo_ray.train.memory import describe, longest_micro_batch


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
    assert longest_micro_batch(plan, 0, is_packed) == expected
    assert describe(plan, expected, is_packed).startswith(said)
