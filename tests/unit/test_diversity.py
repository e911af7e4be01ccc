"""When two sampled thoughts are the same thought."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virgo_ray.stats.similarity import RUN, distinct_share, jaccard, num_distinct, runs
from virgo_ray.tiny.puzzles import make_puzzles
from virgo_ray.tiny.thoughts import long_thought

TOKENS = tuple(range(100))
A, B, C, D = ((x,) * 6 for x in range(4))


def changed(places):
    return tuple(1000 + t if t in places else t for t in TOKENS)


@pytest.mark.parametrize(("places", "num"), [([], 1), ([50], 1), ([20, 50], 1), (range(50), 2)])
def test_a_few_other_words_make_no_other_thought_and_another_half_does(places, num):
    assert num_distinct([TOKENS, changed(places)]) == num


def test_different_solutions_are_distinct_and_their_copies_are_not():
    thoughts = [tuple(map(ord, long_thought(p))) for p in make_puzzles("seed", 4, 0)]
    assert num_distinct(thoughts) == 4 and num_distinct(thoughts * 2) == 4


@pytest.mark.parametrize(
    ("groups", "share"),
    [
        ([], None),
        ([[A]], None),
        ([[A, A, A, A]], 0.0),
        ([[A, B, C, D]], 1.0),
        ([[A, A, B], [A, B, C], [D]], 0.75),
        ([[(), ()]], 0.0),
        ([[(7,), (8,)]], 1.0),
    ],
)
def test_the_share_is_of_further_samples_and_a_mean_over_problems(groups, share):
    assert distinct_share(groups) == share


THOUGHTS = st.lists(st.integers(0, 2), max_size=12)


@given(st.lists(THOUGHTS, min_size=1, max_size=6))
def test_counts_lie_between_one_and_all_and_copies_add_nothing(thoughts):
    num = num_distinct(thoughts)
    assert 1 <= num <= len(thoughts)
    assert num_distinct([*thoughts, thoughts[0]]) == num


@given(THOUGHTS, THOUGHTS)
def test_the_overlap_is_symmetric_and_one_only_for_equal_runs(one, other):
    a, b = set(runs(one, RUN)), set(runs(other, RUN))
    assert jaccard(a, b) == jaccard(b, a) and (jaccard(a, b) == 1.0) == (a == b)
