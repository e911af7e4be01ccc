"""A stand-in for Ray: calls succeed, fail or never end as a test tells them; nobody else is there.

`StubRay` takes the place of the name `ray` in the modules of a pool, whose own code is all real.
An actor answers with what the class's `answers` says, unless the test's `script` has another answer
for this call: a `Ref` that fails, comes late or never. An exchange of requests for rollouts is made
of such answers to `generate`, one for each request.
"""

import threading
import time
from collections import Counter
from types import SimpleNamespace

from ray.exceptions import ActorDiedError, GetTimeoutError, RayError, RayTaskError

from virgo_ray.actors.losses import ONLY_OBJECT_GONE, in_short, is_loss
from virgo_ray.actors.rollouts.worklist import Finished

NEVER = 1e9  # seconds
LATE_OR_LOST = (GetTimeoutError, *ONLY_OBJECT_GONE)


class Ref:
    """What a call returns: its value or error, after some seconds."""

    def __init__(self, value=None, error=None, after=0.0):
        self.value, self.error = value, error
        self.ready_at = time.monotonic() + after

    @property
    def is_ready(self):
        return time.monotonic() >= self.ready_at

    def future(self):
        def add_done_callback(done):
            if (seconds := self.ready_at - time.monotonic()) < NEVER / 2:
                threading.Timer(max(0.0, seconds), done, (self,)).start()

        return SimpleNamespace(add_done_callback=add_done_callback)


def raised(error):
    """What a call returns whose code raised this in the actor."""
    return Ref(error=RayTaskError("call", "Traceback ...", error).as_instanceof_cause())


def lost(error):
    return Ref(error=error)


class Exchange:
    """An open exchange with an actor: over once one of its answers is there, or it was poked.

    The error of an answer that says the actor is gone is the exchange's, and of all that follow;
    what was finished before leaves first. One that says a reply is gone takes with it what was
    finished.
    """

    def __init__(self, actor, requests, sampling):
        self.actor, self.is_poked = actor, False
        for number, request in requests.items():
            if number not in actor.working:
                actor.working[number] = actor.call("generate", request, sampling)

    @property
    def is_ready(self):
        is_over = any(ref.is_ready for ref in self.actor.working.values())
        return is_over or self.is_poked or self.actor.gone is not None

    @property
    def error(self):
        ready = [ref for ref in self.actor.working.values() if ref.is_ready]
        errors = [r.error for r in ready if is_gone(r.error) or isinstance(r.error, LATE_OR_LOST)]
        if errors and isinstance(errors[0], LATE_OR_LOST):
            self.take()
            return errors[0]
        if errors and all(is_gone(ref.error) for ref in ready):  # else a reply was on its way
            self.actor.gone = errors[0]
        return self.actor.gone

    @property
    def value(self):
        done = self.take()
        failed = {n: in_short(ref.error) for n, ref in done.items() if ref.error}
        return Finished({n: ref.value for n, ref in done.items() if not ref.error}, failed)

    def take(self):
        working = self.actor.working
        left = [n for n, ref in working.items() if ref.is_ready and not is_gone(ref.error)]
        return {n: working.pop(n) for n in left}


def is_gone(error):
    """Whether an answer says that its actor is."""
    return error is not None and is_loss(error) and not isinstance(error, LATE_OR_LOST)


class Actor:
    """`number` counts the actors of a test, from 1 on; `calls` counts the calls of each method."""

    def __init__(self, stub, number, args):
        self.stub, self.number, self.args = stub, number, args
        self.calls = Counter()
        self.working, self.gone, self.open = {}, None, None

    def call(self, method, *args):
        self.calls[method] += 1
        answer = self.stub.script(self, method, *args)
        if answer is None and method == "exchange":
            self.open = answer = Exchange(self, *args[:2])
        if method in ("poke", "abort"):
            self.open.is_poked = True
        if method == "abort":
            self.working.clear()
        return answer if answer is not None else self.stub.answer(self, method, *args)

    def __getattr__(self, method):
        return SimpleNamespace(remote=lambda *args: self.call(method, *args))


class StubRay:
    """What the pools use of the module `ray`."""

    def __init__(self, answer):
        self.answer = answer
        self.script = lambda *_: None
        self.actors = []
        self.killed = []
        self.options = []

    def wait(self, refs, num_returns=1, timeout=None):
        assert refs and len(refs) == len(set(map(id, refs)))
        end = time.monotonic() + timeout
        while sum(r.is_ready for r in refs) < min(num_returns, len(refs)):
            if time.monotonic() >= end:
                break
            time.sleep(0.002)
        done = [r for r in refs if r.is_ready][:num_returns]
        return done, [r for r in refs if r not in done]

    def get(self, ref, timeout):
        if not ref.is_ready:
            raise GetTimeoutError("late")
        if (error := ref.error) is not None:
            raise error
        return ref.value

    def kill(self, actor):
        self.killed.append(actor)
        actor.gone = actor.gone or ActorDiedError()

    def cancel(self, ref):
        pass

    def remote(self, *args, **options):
        """`remote(cls).options(...)` and `remote(...)(cls)`, which return what makes actors."""

        def make(*made_with):
            self.actors.append(Actor(self, len(self.actors) + 1, made_with))
            return self.actors[-1]

        def with_options(**more):
            self.options.append(more)
            return SimpleNamespace(remote=make)

        maker = SimpleNamespace(options=with_options, remote=make)
        return maker if args else lambda cls: with_options(**options)

    class exceptions:
        RayError = RayError
