"""What buckets carry, and what tensors add up to."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from virgo_ray.weights.wire import ALIGNMENT, buckets, digest_of, read_table, unpack

DTYPES = [
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.int64,
    torch.uint8, torch.bool, torch.float8_e4m3fn,
]  # fmt: skip
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def tensor_of(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def over_the_wire(tensors, limit):
    """What comes out at the other side, and the sizes of buckets."""
    out, sizes = [], []
    for bucket in buckets(tensors, limit):
        sizes.append(bucket.num_bytes)
        place = torch.full((bucket.num_bytes,), 7, dtype=torch.uint8)
        bucket.put(place)
        arrived = read_table(json.loads(json.dumps(bucket.table)))
        out += unpack(arrived, place)
    return out, sizes


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), max_size=12), st.integers(1, 400))
def test_tensors_arrive_in_order_bit_for_bit_whatever_their_formats_and_sizes(kinds, limit):
    sent = [(f"t{i}", tensor_of(*kind, i)) for i, kind in enumerate(kinds)]
    arrived, _ = over_the_wire(sent, limit)
    assert [name for name, _ in arrived] == [name for name, _ in sent]
    for (_, given_), (_, got) in zip(sent, arrived, strict=True):
        assert got.dtype == given_.dtype and got.shape == given_.shape
        assert torch.equal(got.float(), given_.float())
    assert digest_of(arrived) == digest_of(sent)


def test_a_bucket_is_full_before_the_next_begins_and_a_larger_tensor_has_its_own():
    sizes = [40, 40, 40, 500, 8]
    sent = [(f"t{i}", torch.zeros(size, dtype=torch.uint8)) for i, size in enumerate(sizes)]
    assert over_the_wire(sent, 100)[1] == [96, 48, 512, 16]


def test_every_tensor_begins_where_any_format_can_be_read():
    sent = [("odd", torch.zeros(3, dtype=torch.bfloat16)), ("wide", torch.ones(4))]
    (bucket,) = buckets(sent, 1000)
    assert [entry.offset % ALIGNMENT for entry in bucket.entries] == [0, 0]


def test_tensors_that_share_memory_travel_once_under_both_names():
    embedding = torch.randn(10, 10)
    sent = [("embed", embedding), ("other", torch.ones(4)), ("head", embedding)]
    arrived, sizes = over_the_wire(sent, 10_000)
    assert sizes == [400 + 16]
    assert torch.equal(dict(arrived)["head"], embedding)


def test_a_tensor_that_is_not_contiguous_arrives_as_it_reads():
    whole = torch.arange(12.0).reshape(3, 4)
    ((_, got),), _ = over_the_wire([("t", whole.T)], 1000)
    assert torch.equal(got, whole.T)


CHANGES = {
    "a value": ("a", torch.tensor([1.0, 2.0, 3.5])),
    "a name": ("b", torch.tensor([1.0, 2.0, 3.0])),
    "a format": ("a", torch.tensor([1.0, 2.0, 3.0]).view(torch.int32)),
    "a shape": ("a", torch.tensor([[1.0, 2.0, 3.0]])),
}


@pytest.mark.parametrize("what", ["a value", "a name", "a format", "a shape"])
def test_the_digest_sees_every_change(what):
    same = [("z", torch.zeros(2)), ("a", torch.tensor([1.0, 2.0, 3.0]))]
    assert digest_of([same[0], CHANGES[what]]) != digest_of(same)
    assert digest_of(same[:1]) != digest_of(same)


def test_the_digest_is_the_same_in_any_order_and_with_any_number_of_threads():
    many = [(f"t{i}", torch.full((i + 1,), float(i))) for i in range(40)]
    assert digest_of(many) == digest_of(reversed(many), num_threads=4)
