"""The samples of one problem go to one engine, and nobody waits for that."""

import random
from collections import Counter

import pytest

from virgo_ray.actors.rollouts.routing import Routes
from virgo_ray.records import Problem, Request

LIMIT = 8


class Engine:
    num_in_flight = 0


def requests(num_problems, num_samples):
    return [
        Request(Problem(f"p{p}", "q", "a"), i, 0)
        for p in range(num_problems)
        for i in range(num_samples)
    ]


class Play:
    """Engines that finish their requests in a random order; `speeds` says how often each does."""

    def __init__(self, wanted, speeds, limit=LIMIT):
        self.routes, self.limit = Routes(iter(wanted), limit), limit
        self.engines = [Engine() for _ in speeds]
        self.speeds = dict(zip(self.engines, speeds, strict=True))
        self.alive = list(self.engines)
        self.out = {engine: [] for engine in self.engines}
        self.done = []
        self.rng = random.Random(0)

    def hand_out(self):
        self.routes.open_to(list(self.alive))
        while (found := self.routes.next()) is not None:
            request, engine = found
            self.out[engine].append(request)
            engine.num_in_flight += 1
            assert engine.num_in_flight <= self.limit and engine in self.alive

    def finish_one(self):
        busy = [engine for engine in self.alive if self.out[engine]]
        engine = self.rng.choices(busy, [self.speeds[e] for e in busy])[0]
        engine.num_in_flight -= 1
        self.routes.freed(engine)
        asked = self.out[engine].pop(self.rng.randrange(len(self.out[engine])))
        self.done.append((asked, engine))

    def lose(self, engine):
        self.alive.remove(engine)
        for request in self.out[engine]:
            self.routes.again(request)
        self.out[engine], engine.num_in_flight = [], 0

    def run(self, at=lambda num_done: None):
        self.hand_out()
        while any(self.out.values()) or not self.routes.is_empty:
            self.finish_one()
            at(len(self.done))
            self.hand_out()

    def num_pictures(self):
        """Each engine processes the picture of a problem once."""
        return len({(request.problem.id, id(engine)) for request, engine in self.done})


@pytest.mark.parametrize("num_engines", [1, 2, 5])
def test_the_samples_of_a_problem_go_to_one_engine(num_engines):
    wanted = requests(200, 8)
    play = Play(wanted, [1] * num_engines)
    play.run()
    assert Counter(r.key for r, _ in play.done) == Counter(r.key for r in wanted)
    assert 200 <= play.num_pictures() <= 200 * 1.1


def test_the_samples_of_a_problem_stay_together_however_they_are_ordered():
    wanted = sorted(requests(200, 8), key=lambda r: r.sample_index)
    play = Play(wanted, [1, 1])
    play.run()
    assert play.num_pictures() <= 200 * 1.3  # 400 without


def test_a_slow_engine_holds_nobody_up():
    play = Play(requests(50, 8), [1, 1000])
    slow, fast = play.engines

    def look(num_done):
        if fast.num_in_flight < LIMIT - 1:  # one was finished just now: nothing else is left
            assert play.routes.is_empty

    play.run(look)
    assert sum(engine is slow for _, engine in play.done) <= 3 * LIMIT


def test_one_problem_alone_is_asked_of_all_engines():
    play = Play(requests(1, 2 * LIMIT), [1, 1])
    play.hand_out()
    assert [engine.num_in_flight for engine in play.engines] == [LIMIT, LIMIT]


def test_what_waits_for_an_engine_that_dies_is_asked_of_the_others():
    wanted = requests(40, 8)
    play = Play(wanted, [1, 1, 1])
    num_waited = []

    def lose_one_that_is_waited_for(num_done):
        lines = {e: line for e, line in play.routes._waiting.items() if line}
        if lines and num_done > 50 * len(num_waited) and len(play.alive) > 1:
            num_waited.append(len(lines[next(iter(lines))]))
            play.lose(next(iter(lines)))

    play.run(lose_one_that_is_waited_for)
    assert len(num_waited) == 2
    assert Counter(r.key for r, _ in play.done) == Counter(r.key for r in wanted)


def test_no_engine_is_idle_while_something_waits():
    play = Play(requests(60, 16), [1, 3, 9])

    def look(num_done):
        has_room = [e for e in play.alive if e.num_in_flight < LIMIT]
        assert len(has_room) <= 1 or play.routes.is_empty

    play.run(look)


def test_at_most_twice_as_many_are_drawn_as_may_be_in_flight():
    drawn = 0

    def drawing():
        nonlocal drawn
        for request in requests(30, 50):
            drawn += 1
            yield request

    play = Play(drawing(), [1, 20])
    play.run(lambda num_done: check(drawn <= num_done + 4 * LIMIT))
    assert drawn == len(play.done)


def check(holds):
    assert holds
