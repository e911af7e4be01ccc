import itertools
import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virgo_ray.records import Outcome, Status
from virgo_ray.stats.tally import is_voted_for, pass_at_k, percentile, tally

outcomes = st.lists(
    st.builds(
        Outcome,
        problem_id=st.sampled_from("abc"),
        sample_index=st.integers(0, 5),
        source=st.sampled_from(["s", "t"]),
        status=st.sampled_from(Status),
        num_tokens=st.integers(0, 100),
    )
)


@given(outcomes)
def test_every_outcome_is_counted_once(found):
    counts = tally(found)
    assert sum(counts.statuses.values()) == counts.asked == len(found)
    assert sum(s.asked for s in counts.sources.values()) == len(found)
    assert sum(s.accepted for s in counts.sources.values()) == counts.accepted
    assert counts.accepted == counts.statuses["correct"]


@given(outcomes, st.randoms(use_true_random=False))
def test_a_tally_does_not_depend_on_the_order_and_is_json(found, shuffler):
    shuffled = list(found)
    shuffler.shuffle(shuffled)
    assert json.dumps(asdict(tally(found))) == json.dumps(asdict(tally(shuffled)))


def test_a_tally_of_nothing_is_zeros():
    counts = tally([])
    assert counts.asked == counts.accept_rate == counts.mean_thought_tokens == 0


def test_a_tally_by_hand():
    found = [
        Outcome("a", 0, "s", Status.CORRECT, 10),
        Outcome("a", 1, "s", Status.CORRECT, 20),
        Outcome("b", 0, "t", Status.TRUNCATED, 60),
        Outcome("b", 1, "t", Status.TIMEOUT, 10),
    ]
    counts = tally(found)
    assert (counts.num_problems, counts.num_solved) == (2, 1)
    assert (counts.mean_thought_tokens, counts.mean_accepted_tokens) == (25, 15)
    assert (counts.accept_rate, counts.truncated_share) == (0.5, 0.25)
    assert counts.not_judged_share == 0.25


@pytest.mark.parametrize("num_samples", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_correct_sample(num_samples):
    for num_correct in range(num_samples + 1):
        flags = [True] * num_correct + [False] * (num_samples - num_correct)
        for k in range(1, num_samples + 1):
            subsets = list(itertools.combinations(flags, k))
            expected = sum(map(any, subsets)) / len(subsets)
            assert math.isclose(pass_at_k(num_samples, num_correct, k), expected)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_pass_at_k_refuses_what_is_undefined(n, c, k):
    with pytest.raises(ValueError, match="undefined"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([("7", True), ("7.0", True), ("8", False)], True),
        ([("7", True), ("8", False), (" 8", False)], False),
        ([("7", True), ("8", False), ("9", False)], True),
        ([("8", False), ("7", True)], False),
        ([("7", True), ("", False), ("", False)], True),
        ([("", False)], False),
        ([], False),
    ],
)
def test_the_majority_of_answers_decides(answers, expected):
    assert is_voted_for((is_correct, text) for text, is_correct in answers) is expected


def test_a_tie_goes_to_the_answer_that_came_first():
    tied = [(True, "7"), (False, "8")]
    assert is_voted_for(tied) and not is_voted_for(reversed(tied))


@given(st.lists(st.integers(), min_size=1), st.floats(0, 1))
def test_a_percentile_covers_its_share_of_the_values(values, quantile):
    found = percentile(values, quantile)
    assert found in values
    assert sum(v <= found for v in values) >= quantile * len(values) - 1e-9
