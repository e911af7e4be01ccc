"""Token ids of examples and plans: values like tuples, at four bytes each."""

import copy
import pickle
import random
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virgo_ray.config import TrainConfig
from virgo_ray.records import Example, LogProbs, Problem, Rollout, TokenIds, Trace
from virgo_ray.train.pack import pack

ids_of_a_model = st.lists(st.integers(0, 2**31 - 1), max_size=20)
MAX_BYTES_PER_TOKEN = 8


@given(ids_of_a_model, ids_of_a_model, st.slices(20))
def test_token_ids_are_values_like_tuples(ids, others, piece):
    made = TokenIds(ids)
    assert made == tuple(ids) == made and made == ids and hash(made) == hash(tuple(ids))
    assert (made == TokenIds(others)) == (ids == others)
    assert list(made) == ids and len(made) == len(ids) and bool(made) == bool(ids)
    assert made[piece] == tuple(ids[piece]) and (*made, 1) == (*ids, 1)
    for copied in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), TokenIds(made)):
        assert copied == made and hash(copied) == hash(made)
    for id in ids[:2]:
        assert id in made and made.count(id) == ids.count(id) and made[ids.index(id)] == id


def test_ids_that_no_model_has_are_refused():
    with pytest.raises(OverflowError):
        TokenIds([2**31])


def test_log_probabilities_are_float32_in_four_bytes_each():
    made = LogProbs([-0.1, -2.5])
    assert made == (-0.10000000149011612, -2.5) and made[1:] == LogProbs([-2.5])
    assert pickle.loads(pickle.dumps(made)) == made == copy.deepcopy(made) == LogProbs(made)
    assert made.tobytes() == LogProbs(tuple(made)).tobytes() and len(made.tobytes()) == 8
    rollout = Rollout(Problem("p", "?", "7"), 0, "7", (5, 6), "stop", 1, logprobs=[-0.1, -2.5])
    assert rollout.logprobs == made and replace(rollout, logprobs=()) != rollout
    assert pickle.loads(pickle.dumps(rollout)) == rollout


def test_records_that_are_kept_hold_token_ids_and_compare_by_value():
    one, other = (Example("a", kind([1, 2]), kind([3])) for kind in (tuple, list))
    assert one == other and hash(one) == hash(other) and isinstance(one.prompt_ids, TokenIds)
    assert one != Example("a", (1, 2), (4,))
    assert isinstance(Trace(Problem("p", "?", "7"), 1, 0, "7", [7], 1).token_ids, TokenIds)


def memory_of(make):
    """What `make` returns, and the bytes that it keeps."""
    tracemalloc.start()
    made = make()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return made, kept


def test_a_plan_takes_few_bytes_per_token_where_it_is_made_and_where_it_arrives():
    rng = random.Random(0)

    def ids(num):
        return [rng.randrange(1000, 150_000) for _ in range(num)]

    def make():
        examples = [Example(str(i), tuple(ids(100)), tuple(ids(400))) for i in range(64)]
        return pack(examples, TrainConfig(batch_size=16, num_epochs=1), rng)

    plan, kept = memory_of(make)
    num_tokens = sum(len(e.prompt_ids) + len(e.target_ids) for e in plan.examples)
    assert num_tokens == 64 * 500 and kept / num_tokens < MAX_BYTES_PER_TOKEN
    sent = pickle.dumps(plan)
    arrived, kept = memory_of(lambda: pickle.loads(sent))
    assert arrived == plan and kept / num_tokens < MAX_BYTES_PER_TOKEN
    assert len(sent) / num_tokens < MAX_BYTES_PER_TOKEN
    tuples, before = memory_of(lambda: [(tuple(ids(500)),) for _ in range(64)])
    assert before / (500 * len(tuples)) > 4 * MAX_BYTES_PER_TOKEN, "what tuples of integers take"
