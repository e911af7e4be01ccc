"""Many things asked about at once: how many, in which order, and how it ends."""

import threading

import pytest
from following import Following

from virgo_ray.endpoint.stream import NoAnswerError, stream_answers


class Counted:
    """Things that note how many were drawn."""

    def __init__(self, things):
        self.things, self.num_drawn = things, 0

    def __iter__(self):
        for thing in self.things:
            self.num_drawn += 1
            yield thing


def test_every_thing_gives_one_answer():
    answers = stream_answers(lambda x: x * x, range(100), 3, longest_s=60.0)
    assert sorted(answers) == [x * x for x in range(100)]
    assert list(stream_answers(lambda x: x, [], 3, longest_s=60.0)) == []


@pytest.mark.parametrize(("num_held", "expected"), [(None, 2), (5, 5)])
def test_things_are_drawn_lazily_up_to_what_is_held(num_held, expected):
    release, asked = threading.Event(), []

    def ask(x):
        asked.append(x)
        if x:
            release.wait(60)
        return x

    things = Counted(range(20))
    stream = stream_answers(ask, things, 2, 60.0, num_held)
    assert things.num_drawn == 0
    assert next(stream) == 0
    assert things.num_drawn <= expected and len(asked) <= 3
    release.set()
    assert sorted(stream) == list(range(1, 20))


def test_an_answer_overtakes_a_slow_one():
    release = threading.Event()
    stream = stream_answers(lambda x: (x or release.wait(60), x)[1], range(4), 2, 60.0)
    assert [next(stream) for _ in range(3)] == [1, 2, 3]
    release.set()
    assert list(stream) == [0]


def test_an_error_comes_after_the_answers_in_flight_and_ends_the_drawing():
    failed = threading.Event()

    def ask(x):
        if x == 1:
            failed.set()
            raise ValueError("no")
        failed.wait(60)
        return x

    things, got = Counted(range(50)), []
    with pytest.raises(ValueError, match="no"):
        for answer in stream_answers(ask, things, 3, 60.0):
            got.append(answer)
    assert things.num_drawn < 50 and sorted([*got, 1]) == list(range(things.num_drawn))


@pytest.mark.parametrize("num_held", [None, 20])
def test_things_may_follow_answers_that_are_not_held_back_then(num_held):
    things = Following(range(5), range(5, 9))
    answers = things.take(stream_answers(lambda x: x * x, things, 3, 60.0, num_held))
    assert sorted(answers) == [x * x for x in range(9)]


def test_an_error_of_the_things_comes_through():
    def things():
        yield 1
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        list(stream_answers(lambda x: x, things(), 2, 60.0))


def test_nothing_is_asked_once_the_consumer_has_left():
    release, asked = threading.Event(), []

    def ask(x):
        asked.append(x)
        if x:
            release.wait(60)
        return x

    before = set(threading.enumerate())
    stream = stream_answers(ask, range(50), 1, 60.0, num_held=8)
    assert next(stream) == 0
    (thread,) = set(threading.enumerate()) - before
    stream.close()  # returns while the thread is still asking
    release.set()
    thread.join(60)
    assert not thread.is_alive() and len(asked) <= 2


def test_an_answer_that_does_not_come_is_an_error():
    release = threading.Event()
    with pytest.raises(NoAnswerError, match=r"none of 2 requests ended within 0\.1 s"):
        list(stream_answers(lambda x: release.wait(60), range(5), 2, longest_s=0.1))
    release.set()
