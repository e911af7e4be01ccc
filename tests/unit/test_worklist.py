"""A worker's end of an exchange: what is begun, what is waited for, what leaves, and when."""

import asyncio
import gc

import pytest

from virgo_ray.actors.rollouts import worklist
from virgo_ray.actors.rollouts.worklist import Finished, Worklist
from virgo_ray.errors import RolloutError
from virgo_ray.records import Problem, Request, Rollout

LONG = 60.0  # seconds that nobody waits here


class Engine:
    """Rollouts that are done when the test says so."""

    def __init__(self):
        self.asked, self.ended = [], []
        self.logprobs, self.error = (), None
        self.futures = {}

    async def generate(self, request, sampling):
        self.asked.append(request.seed)
        self.futures[request.seed] = asyncio.get_running_loop().create_future()
        try:
            text = await self.futures[request.seed]
        except asyncio.CancelledError:
            self.ended.append(request.seed)
            if self.error is not None:
                raise self.error from None
            raise
        return Rollout(request.problem, 0, text, (1,), "stop", 0, logprobs=self.logprobs)

    async def finish(self, *seeds, text="x"):
        await until_idle()
        for seed in seeds:
            self.futures[seed].set_result(text)
        await until_idle()


async def until_idle():
    for _ in range(10):
        await asyncio.sleep(0)


def asked(*numbers):
    return {n: Request(Problem(f"p{n}", "q", "a"), 0, n) for n in numbers}


@pytest.fixture
def play():
    """Runs a coroutine of (worklist, engine, exchange), which opens an exchange in a task."""

    def play(scene):
        async def main():
            engine = Engine()
            lists = Worklist(engine.generate)

            def exchange(*numbers, linger_s=0.0):
                return asyncio.create_task(lists.exchange(asked(*numbers), None, linger_s))

            await asyncio.wait_for(scene(lists, engine, exchange), LONG / 2)

        asyncio.run(main())

    return play


def numbers(exchange):
    return list(exchange.result().rollouts)


def test_an_exchange_is_open_until_something_is_done_and_keeps_the_order(play):
    async def scene(lists, engine, exchange):
        first = exchange(1, 2, 3)
        await until_idle()
        assert not first.done() and engine.asked == [1, 2, 3]
        await engine.finish(3, 1)
        assert numbers(first) == [3, 1]
        second = exchange()
        await engine.finish(2)
        assert numbers(second) == [2]

    play(scene)


def test_more_is_waited_for_until_nothing_is_left_or_somebody_pokes(play):
    async def scene(lists, engine, exchange):
        first = exchange(1, 2, linger_s=LONG)
        await engine.finish(1)
        assert not first.done()
        await engine.finish(2)
        assert numbers(first) == [1, 2]
        second = exchange(3, 4, linger_s=LONG)
        await engine.finish(3)
        lists.poke()
        await until_idle()
        assert numbers(second) == [3]
        third = exchange(linger_s=LONG)
        await until_idle()
        assert not third.done()  # a poke is for the exchange that was open then
        lists.poke()
        await until_idle()
        assert third.result() == Finished()

    play(scene)


def test_an_exchange_with_nothing_to_say_returns_after_a_while(play, monkeypatch):
    monkeypatch.setattr(worklist, "POLL_S", 0.01)

    async def scene(lists, engine, exchange):
        assert await exchange(1) == Finished()

    play(scene)


def test_what_is_handed_in_twice_is_worked_on_once(play):
    async def scene(lists, engine, exchange):
        first = exchange(1, 2, linger_s=LONG)
        await engine.finish(1)
        second = exchange(1, 2, 3)
        await until_idle()
        assert engine.asked == [1, 2, 3]
        assert first.result() == Finished()  # its turn is over, and nothing was lost with it
        assert numbers(second) == [1]

    play(scene)


def test_what_has_left_is_worked_on_again_if_it_is_asked_for_again(play):
    async def scene(lists, engine, exchange):
        exchange(1, 2)
        await engine.finish(1)
        again = exchange(1, 2)
        await until_idle()
        assert engine.asked == [1, 2, 1]
        await engine.finish(1)
        assert numbers(again) == [1]

    play(scene)


def test_a_request_that_fails_is_told_in_words_beside_the_others(play):
    async def scene(lists, engine, exchange):
        both = exchange(1, 2, linger_s=LONG)
        await until_idle()
        engine.futures[1].set_exception(RolloutError("too long"))
        await engine.finish(2)
        assert both.result().failed == {1: "RolloutError: too long"}
        assert numbers(both) == [2]

    play(scene)


def test_a_reply_is_bounded_and_the_rest_comes_with_the_next(play, monkeypatch):
    monkeypatch.setattr(worklist, "REPLY_BYTES", 1000)

    async def scene(lists, engine, exchange):
        first = exchange(1, 2, 3, linger_s=LONG)
        await engine.finish(1, 2, 3, text="x" * 600)
        assert numbers(first) == [1, 2]
        assert list((await exchange()).rollouts) == [3]

    play(scene)


def test_a_reply_counts_log_probabilities(play, monkeypatch):
    monkeypatch.setattr(worklist, "REPLY_BYTES", 1000)

    async def scene(lists, engine, exchange):
        engine.logprobs = (-1.0,) * 200
        first = exchange(1, 2, 3, linger_s=LONG)
        await engine.finish(1, 2, 3)
        assert numbers(first) == [1, 2]

    play(scene)


def test_a_late_end_takes_nothing_of_what_others_asked_since(play):
    async def scene(lists, engine, exchange):
        exchange(1, 2)
        later = exchange(3, 4, linger_s=LONG)
        await until_idle()
        assert await lists.end([1, 2]) == 2
        await engine.finish(4)
        assert numbers(later) == [] and engine.ended == [1, 2]  # it was poked, and nothing is lost
        assert list((await exchange()).rollouts) == [4]
        third = exchange()
        await engine.finish(3)
        assert numbers(third) == [3]

    play(scene)


def test_what_was_ended_leaves_no_error_that_nobody_looked_at(play, caplog):
    async def scene(lists, engine, exchange):
        exchange(1, 2, linger_s=LONG)
        await until_idle()
        engine.futures[1].set_exception(RolloutError("too long"))
        await until_idle()
        engine.error = RolloutError("aborted")
        assert await lists.end([1, 2]) == 1
        await until_idle()
        engine.futures.clear()
        gc.collect()

    play(scene)
    gc.collect()
    assert caplog.text == ""


def test_what_is_ended_does_not_come_later(play):
    async def scene(lists, engine, exchange):
        open_one = exchange(1, 2, 3, linger_s=LONG)
        await engine.finish(1)
        assert await lists.end([1, 2, 3]) == 2
        await until_idle()
        assert open_one.result() == Finished()
        assert sorted(engine.ended) == [2, 3]
        later = exchange(4)
        await engine.finish(4)
        assert numbers(later) == [4]

    play(scene)
