"""Verifier workers that are lost, late or broken: the pool's own code, on a stand-in for Ray."""

import threading
import time
from itertools import chain, repeat

import pytest
from following import Following
from ray import exceptions
from stub_ray import NEVER, Ref, StubRay, lost, raised

from virgo_ray.actors import restarts
from virgo_ray.actors.verifiers import pool
from virgo_ray.actors.verifiers.pool import MAX_RESTARTS, VerifierPool
from virgo_ray.config import VerifyConfig
from virgo_ray.errors import VerifierError
from virgo_ray.records import Problem, Rollout, Status, Verdict

DIED = exceptions.ActorDiedError()
CORRECT = Verdict(Status.CORRECT, "a")


def answer(actor, method, *args):
    if method == "judge":
        return Ref((dict.fromkeys(args[0], CORRECT), 0), after=0.005)
    return Ref(1.0)


@pytest.fixture
def ray(monkeypatch):
    stub = StubRay(answer)
    monkeypatch.setattr(pool, "ray", stub)
    monkeypatch.setattr(restarts, "PAUSE_S", 0.005)
    monkeypatch.setattr(restarts, "MAX_PAUSE_S", 0.01)
    return stub


def judge(verifiers, num=20):
    rollouts = [Rollout(Problem(f"p{i}", "q", "a"), 0, "x", (1,), "stop", 0) for i in range(num)]
    judged = [j.rollout.key for j in verifiers.judge(iter(rollouts))]
    assert sorted(judged) == sorted(r.key for r in rollouts)


def start():
    return VerifierPool(VerifyConfig(batch_size=2, num_workers=2), {})


def held_back(results):
    """As a consumer does that holds some for a while: all once nothing more comes now."""
    held = []
    for result in results:
        held.append(result)
        if result is None:
            yield from held
            held = []
    yield from held


@pytest.mark.parametrize("loses", [False, True])
def test_rollouts_may_follow_verdicts(ray, loses):
    verifiers = start()
    lose = lambda actor, method, *_: (  # noqa: E731
        lost(DIED) if loses and method == "judge" and actor.number == 1 else None
    )
    ray.script = lose
    rollouts = [Rollout(Problem(f"p{i}", "q", "a"), 0, "x", (1,), "stop", 0) for i in range(9)]
    following = Following(rollouts[:5], rollouts[5:])
    judged = following.take(held_back(verifiers.judge(following)))
    assert sorted(j.rollout.key for j in judged) == sorted(r.key for r in rollouts)


def test_the_thread_ends_though_the_stream_has_nothing_more_now(ray):
    """And closes the stream, which then ends what is out."""
    closed = threading.Event()

    def stream():
        try:
            yield from chain([Rollout(Problem("p", "q", "a"), 0, "x", (1,), "stop", 0)], nones())
        finally:
            closed.set()

    def nones():
        for none in repeat(None):
            time.sleep(0.001)
            yield none

    judged = start().judge(stream())
    assert any(judged)
    judged.close()
    assert closed.wait(10)


@pytest.mark.parametrize(
    "error",
    [DIED, exceptions.OutOfMemoryError("x"), exceptions.NodeDiedError("x"),
     exceptions.ObjectLostError("ab" * 28, b"", ""), exceptions.GetTimeoutError("slow")],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_a_lost_batch_is_judged_again_by_others(ray, error):
    verifiers = start()

    def second_batch_is_lost(actor, method, *_):
        is_second = method == "judge" and actor.number == 1 and actor.calls[method] == 2
        return lost(error) if is_second else None

    ray.script = second_batch_is_lost
    judge(verifiers)
    assert ray.killed == [ray.actors[0]]


def test_a_worker_that_always_fails_is_given_up_and_the_others_go_on(ray):
    verifiers = start()
    ray.script = lambda actor, method, *_: (
        raised(OSError("cannot fork")) if method == "judge" and actor.number != 2 else None
    )
    judge(verifiers, num=100)
    assert len(ray.actors) == 2 + MAX_RESTARTS
    verifiers.close()


def test_the_last_worker_that_keeps_dying_ends_the_run(ray):
    verifiers = start()
    ray.script = lambda actor, method, *_: lost(DIED) if method == "judge" else None
    with pytest.raises(VerifierError, match=r"failed 6 times in a row.*ActorDiedError"):
        judge(verifiers)
    assert len(ray.actors) == 2 * (1 + MAX_RESTARTS)


def test_what_every_worker_meets_ends_at_once(ray):
    verifiers = start()
    ray.script = lambda actor, method, *_: (
        raised(ImportError(f"no sympy in {actor.number}")) if method == "judge" else None
    )
    with pytest.raises(VerifierError, match="ImportError: no sympy in 2"):
        judge(verifiers)
    assert len(ray.actors) == 2


def test_a_worker_that_never_answers_is_replaced(ray, monkeypatch):
    monkeypatch.setattr(pool, "START_GRACE_S", 0.1)
    monkeypatch.setattr(pool, "longest_batch_s", lambda cfg, num: 0.0)
    verifiers = start()
    ray.script = lambda actor, method, *_: (
        Ref(after=NEVER) if method == "judge" and actor.number == 1 else None
    )
    judge(verifiers)
    assert ray.killed == [ray.actors[0]]
