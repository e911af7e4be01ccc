import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virgo_ray.selection import choose_for_round, overlap, repetition, signature

words = st.lists(st.sampled_from("abcdefgh"), max_size=40).map(" ".join)


def grams(text, num=3):
    found = text.split()
    return (
        {tuple(found[i : i + num]) for i in range(max(1, len(found) - num + 1))} if found else set()
    )


@given(words, words)
def test_the_overlap_of_short_texts_is_exact(first, second):
    a, b = grams(first), grams(second)
    measured = overlap(signature(first), signature(second))
    if len(a | b) <= 64:
        assert measured == (len(a & b) / len(a | b) if a | b else 1.0)
    assert measured == overlap(signature(second), signature(first))


@given(words)
def test_a_text_overlaps_itself_fully_however_it_is_spaced(text):
    assert overlap(signature(text), signature(text.upper().replace(" ", "\n "))) == 1.0


@pytest.mark.parametrize("num_changed", [0, 50, 200, 1000])
def test_the_overlap_of_long_texts_is_estimated(num_changed):
    rng = random.Random(0)
    first = [str(rng.randrange(10**6)) for _ in range(1000)]
    second = list(first)
    for place in rng.sample(range(1000), num_changed):
        second[place] = "changed" + str(place)
    a, b = grams(" ".join(first)), grams(" ".join(second))
    exact = len(a & b) / len(a | b)
    assert abs(overlap(signature(" ".join(first)), signature(" ".join(second))) - exact) < 0.15


def test_signs_are_words_and_numbers_matter():
    assert overlap(signature("3 + 4 = 7"), signature("3+4=7")) == 1.0
    assert overlap(signature("3 + 4 = 7"), signature("3 - 4 = 7")) == 0.2  # only "4 = 7"


@given(words)
def test_repetition_is_a_share(text):
    assert 0.0 <= repetition(text) < 1.0


def test_a_loop_is_repetitive_and_a_plain_thought_is_not():
    thought = "I see 3 and 4 in the picture. 3 + 4 = 7, and then 7 - 2 = 5."
    assert repetition(thought) == 0.0
    assert repetition(thought + " Wait, let me look again." * 20) > 0.7
    assert repetition("") == repetition("one word") == 0.0


def test_a_schedule_holds_its_last_value():
    assert [choose_for_round((0.8, 0.9, 1.1), t) for t in range(6)] == [
        0.8,
        0.8,
        0.9,
        1.1,
        1.1,
        1.1,
    ]
