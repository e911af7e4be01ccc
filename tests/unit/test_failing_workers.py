"""Rollout workers that fail in every phase: the pool's own code, on a stand-in for Ray."""

import time
from functools import cache
from itertools import chain, islice, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
from following import Following
from ray import exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from stub_ray import NEVER, Ref, StubRay, lost, raised

from virgo_ray.actors import restarts
from virgo_ray.actors.faults import Fault
from virgo_ray.actors.rollouts import pool, sampling, slot, workers
from virgo_ray.actors.rollouts.feed import Feed
from virgo_ray.actors.rollouts.pool import RolloutPool
from virgo_ray.actors.rollouts.slot import State
from virgo_ray.actors.rollouts.worklist import Finished
from virgo_ray.config import load_config
from virgo_ray.errors import PushError, RolloutError
from virgo_ray.records import Problem, Request, Rollout, Weights
from virgo_ray.weights.probe import Probe, ProbeItem, probe_path
from virgo_ray.weights.verdict import Evidence

BASE = Weights(0, "base")
MOVED = Weights(0, "elsewhere")  # the same version, to be loaded anew
DIED = exceptions.ActorDiedError()
LOSSES = [
    DIED,
    exceptions.ActorUnavailableError("unreachable", None),
    exceptions.OutOfMemoryError("killed by the memory monitor\n" * 240),
    exceptions.NodeDiedError("gone"),
    exceptions.WorkerCrashedError(),
    exceptions.ActorUnschedulableError("its node is gone"),
    exceptions.RaySystemError("raylet is dead"),
]
OBJECT_LOSSES = [
    exceptions.ObjectLostError("ab" * 28, b"", ""),
    exceptions.ObjectFetchTimedOutError("ab" * 28, b"", ""),
    exceptions.OwnerDiedError("ab" * 28, b"", ""),
    exceptions.GetTimeoutError("a slow network"),
]
ENGINE_FAILED = RuntimeError("Engine core initialization failed. Failed core proc(s): {}")


def scored(value):
    """Of the probe's only token, on both ways."""
    return Ref(Evidence([[value]], cached=[value]))


def answer(actor, method, *args):
    """What healthy workers say."""
    if method == "where":
        return Ref(("node", 1))
    if method == "load":
        return scored(-1.0)
    if method == "generate":
        request = args[0]
        return Ref(
            Rollout(request.problem, request.sample_index, "x", (1,), "stop", 0), after=0.002
        )
    return Ref(1.0)


@pytest.fixture
def ray(monkeypatch):
    stub = StubRay(answer)
    for module in (pool, sampling, slot, workers):
        if hasattr(module, "ray"):
            monkeypatch.setattr(module, "ray", stub)
    monkeypatch.setattr(slot, "family", lambda node, pid: [])
    monkeypatch.setattr(restarts, "PAUSE_S", 0.01)
    monkeypatch.setattr(restarts, "MAX_PAUSE_S", 0.02)
    monkeypatch.setattr(workers, "TICK_S", 0.02)
    monkeypatch.setattr(workers, "IDLE_TICK_S", 0.005)
    return stub


@cache
def config(*overrides):
    limits = (
        "rollout.max_in_flight=4", "rollout.max_restarts=3", "rollout.start_deadline_s=0.2",
        "push.deadline_s=0.2",
    )  # fmt: skip
    return load_config("configs/tiny.yaml", [*limits, *overrides])


@pytest.fixture
def make(ray, tmp_path):
    def make(*overrides, placement=None):
        cfg = config(*overrides).model_copy(update={"run_dir": str(tmp_path)})
        probe = Probe((ProbeItem((1,), (2,)),), ((-1.0,),))
        probe.save(probe_path(Path(cfg.run_dir) / "weights", 0))
        return RolloutPool(cfg, placement)

    return make


@pytest.fixture
def serving(make):
    """Two workers that serve the base; one is enough."""
    both = make()
    both.push(BASE)
    return both


def sample(pool, num=60):
    wanted = [Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(num)]
    found = [r.key for r in pool.sample(iter(wanted), pool._cfg.explore.sampling)]
    assert sorted(found) == sorted(r.key for r in wanted)  # none lost, none twice


def states(pool):
    return [slot.state for slot in pool.slots]


def at(method, number, *answers):
    """A script: the calls of `method` of actor `number` come to these, later ones to the usual."""

    def script(actor, called, *_):
        nth = actor.calls[called] - 1
        if called == method and actor.number == number and nth < len(answers):
            return answers[nth]
        return None

    return script


def both(*scripts):
    return lambda *call: next((found for s in scripts if (found := s(*call)) is not None), None)


# -- in mid-sampling -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", LOSSES, ids=lambda e: type(e).__name__)
def test_a_worker_lost_while_it_samples_is_replaced(serving, ray, error, caplog):
    ray.script = at("generate", 2, None, None, lost(error))
    sample(serving)
    assert serving.metrics()["rollout_worker_restarts"] == 1
    assert len(caplog.text) < 3000  # not Ray's 240 lines


@pytest.mark.parametrize("error", OBJECT_LOSSES, ids=lambda e: type(e).__name__)
def test_a_finished_rollout_that_was_lost_is_asked_again_and_its_worker_goes_on(
    serving, ray, error
):
    ray.script = at("generate", 2, None, None, lost(error))
    sample(serving)
    assert 1 <= serving.metrics()["rollout_requests_repeated"] <= 4  # all that the worker had
    assert serving.metrics()["rollout_worker_restarts"] == 0


def test_a_request_that_cannot_be_asked_is_named(serving, ray):
    ray.script = at("generate", 2, raised(RolloutError("too long")))
    with pytest.raises(RolloutError, match=r"could not sample problem 'p1': RolloutError: too lo"):
        sample(serving)


class Deadly:
    """A script: requests of one problem end the actor that is asked, with all that it has.

    `company` is what else the actor had to do, for each of these requests.
    """

    def __init__(self, name, error=DIED, num=99):
        self.name, self.error, self.num = name, error, num
        self.company, self.refs, self.dead = [], {}, set()

    def __call__(self, actor, called, *args):
        if called != "generate":
            return None
        if actor.number in self.dead:
            return lost(self.error)
        asked = self.refs.setdefault(actor.number, [])
        if self.kills(args[0]):
            unfinished = [ref for ref in asked if not ref.is_ready]
            self.company.append(len(unfinished))
            self.dead.add(actor.number)
            for ref in unfinished:
                ref.error, ref.ready_at = self.error, 0.0
            return lost(self.error)
        asked.append(answer(actor, called, *args))
        return asked[-1]

    def kills(self, request):
        return request.problem.id == self.name and len(self.company) < self.num


@pytest.mark.parametrize("num, in_flight", [(1, 4), (3, 4), (2, 40)])
def test_a_request_that_ends_every_engine_is_asked_alone_and_named(make, ray, num, in_flight):
    pool = make(f"rollout.num_workers={num}", f"rollout.max_in_flight={in_flight}")
    pool.push(BASE)
    ray.script = Deadly("p30")
    expected = r"'p30' .* was in flight when 4 rollout .* died, the last time alone.*accept_changes"
    with pytest.raises(RolloutError, match=expected):
        sample(pool, num=200)
    assert ray.script.company[2] <= in_flight // 16 and ray.script.company[3] == 0
    assert pool.metrics()["rollout_workers_retired"] == 0


def test_a_request_that_ended_some_engines_and_then_none_is_sampled(serving, ray):
    ray.script = Deadly("p30", num=3)
    sample(serving, num=200)
    assert ray.script.company[2:] == [0]


def test_workers_that_are_killed_again_and_again_blame_no_request(make, ray):
    class KilledNowAndThen(Deadly):
        num_asked = 0

        def kills(self, request):
            self.num_asked += 1
            return self.num_asked % 23 == 0

    pool = make("rollout.num_workers=3")
    pool.push(BASE)
    ray.script = KilledNowAndThen("any")
    sample(pool, num=600)
    assert pool.metrics()["rollout_worker_restarts"] > 20
    assert State.RETIRED not in states(pool)


@pytest.mark.parametrize("is_node", [True, False])
def test_a_node_that_goes_away_is_blamed_on_no_request(make, ray, is_node):
    words = "The actor died because its node has died. Node Id: 4"
    node = exceptions.ActorDiedError(ActorDiedErrorContext(error_message=words, actor_id=b"1" * 16))
    pool = make("rollout.num_workers=4", "rollout.max_restarts=1")
    pool.push(BASE)
    ray.script = Deadly("p30", node if is_node else DIED, num=3)
    if is_node:
        sample(pool)
    else:
        with pytest.raises(RolloutError, match="'p30'"):
            sample(pool)


def test_workers_that_are_given_up_say_what_they_were_doing(make, ray):
    pool = make("rollout.num_workers=1", "rollout.max_restarts=1")
    pool.push(BASE)
    ray.script = Deadly("p3")
    expected = r"in flight: problem '\w+', lost 1 times before, .*'p3'"
    with pytest.raises(RolloutError, match=expected):
        sample(pool)


def test_pictures_are_counted_over_engines_that_ended_too(serving, ray):
    said = {1: 9, 2: 7, 3: 2}

    def counting(actor, called, *_):
        return Ref(said[actor.number]) if called == "num_pictures" else None

    ray.script = counting
    sample(serving)
    assert serving.metrics()["rollout_pictures_processed"] == 9 + 7
    ray.script = both(at("generate", 2, *[None] * actor_calls(ray, 2), lost(DIED)), counting)
    sample(serving)
    serving.push(BASE)
    sample(serving)
    assert serving.metrics()["rollout_pictures_processed"] == 9 + 7 + 2


def actor_calls(ray, number):
    return ray.actors[number - 1].calls["generate"]


# -- exchanges -----------------------------------------------------------------------------------

GONE_ARGUMENT = raised(exceptions.ObjectLostError("ab" * 28, b"", ""))  # it never arrived


@pytest.mark.parametrize("nth", [0, 1, 2])
@pytest.mark.parametrize("error", [GONE_ARGUMENT, lost(DIED)], ids=["arguments", "actor"])
def test_an_exchange_that_never_arrives_loses_nothing(serving, ray, error, nth):
    ray.script = at("exchange", 2, *[None] * nth, error)
    sample(serving)
    assert serving.metrics()["rollout_requests_repeated"] > 0


def test_what_is_finished_and_not_fetched_is_lost_with_its_worker_and_asked_again(serving, ray):
    late = Ref(error=DIED, after=0.1)  # by then all that it has is finished
    ray.script = at("exchange", 2, None, late)
    sample(serving)
    assert serving.metrics()["rollout_requests_repeated"] > 0
    assert serving.metrics()["rollout_worker_restarts"] == 1


def test_a_rollout_that_comes_twice_is_yielded_once(serving, ray, monkeypatch):
    get, before, num_twice = ray.get, {}, 0

    def repeating(ref, timeout):
        nonlocal num_twice
        value = get(ref, timeout)
        if isinstance(value, Finished):
            num_twice += len(before)
            value = Finished({**before, **value.rollouts})
            before.clear()
            before.update(value.rollouts)
        return value

    monkeypatch.setattr(ray, "get", repeating)
    sample(serving)
    assert num_twice > 50


def test_at_most_the_limit_is_out_until_the_consumer_takes_a_rollout(serving, ray):
    drawn = 0

    def requests():
        nonlocal drawn
        for number in range(100):
            drawn += 1
            yield Request(Problem(f"p{number}", "q", "a"), 0, number)

    num_taken = 0
    for _ in serving.sample(requests(), serving._cfg.explore.sampling):
        num_taken += 1
        assert drawn <= num_taken + 2 * 4
        assert all(len(actor.working) <= 4 for actor in ray.actors)
        time.sleep(0.003)  # meanwhile all others finish
    assert num_taken == drawn == 100


def test_workers_are_fed_while_others_are_still_being_given_their_first(make, ray, monkeypatch):
    monkeypatch.setattr(sampling, "NUM_AT_A_STRETCH", 8)
    pool = make("rollout.num_workers=2", "rollout.max_in_flight=400")
    pool.push(BASE)
    ray.script = lambda actor, called, *args: (
        Ref(answer(actor, called, *args).value) if called == "generate" else None
    )
    drawn = []
    requests = (drawn.append(i) or Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(2000))
    rollouts = pool.sample(requests, pool._cfg.explore.sampling)
    next(rollouts)
    assert len(drawn) <= 3 * 8
    assert sum(1 for _ in rollouts) == 1999


def test_a_worker_with_an_open_exchange_is_poked_for_what_is_taken_over(make, ray):
    """The second worker's requests go to the first, which has been given something that lasts."""
    pool = make("rollout.max_restarts=0")
    pool.push(BASE)

    def scene(actor, called, *args):
        if called == "generate" and actor.number == 2:
            return Ref(error=DIED, after=0.02)
        if called == "generate" and args[0].problem.id == "p0":
            return Ref(answer(actor, called, *args).value, after=0.5)
        return None

    ray.script = scene
    sample(pool, num=5)
    assert ray.actors[0].calls["poke"] > 0 and ray.actors[0].calls["generate"] == 5


def test_an_engine_that_gives_no_sign_of_life_is_replaced(make, ray, monkeypatch, caplog):
    monkeypatch.setattr(workers, "LOOK_EVERY_S", 0.01)
    pool = make("rollout.heartbeat_deadline_s=0.1")
    pool.push(BASE)
    ray.script = lambda actor, called, *_: (
        Ref(after=NEVER) if actor.number == 2 and called in ("generate", "beat") else None
    )
    sample(pool)
    assert "gave no sign of life for 0.1 s (in flight: problem 'p1', " in caplog.text
    assert ray.killed == [ray.actors[1]]
    pool.push(BASE)
    assert pool.metrics()["rollout_worker_restarts"] == 1


def test_leaving_early_ends_what_is_out_in_every_worker(serving, ray):
    ray.script = lambda actor, called, *args: (
        Ref(after=NEVER) if called == "generate" and args[0].seed > 3 else None
    )
    rollouts = serving.sample(
        (Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(99)),
        serving._cfg.explore.sampling,
    )
    next(rollouts)
    rollouts.close()
    assert [actor.calls["abort"] for actor in ray.actors] == [1, 1]
    assert serving.metrics()["rollout_requests_aborted"] == 2 * 4
    ray.script = lambda *_: None
    sample(serving)


# -- requests that follow verdicts ---------------------------------------------------------------


@pytest.mark.parametrize("dies", [False, True])
def test_requests_may_follow_rollouts(serving, ray, dies):
    if dies:
        ray.script = at("generate", 2, None, lost(DIED))
    wanted = [Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(30)]
    following = Following(wanted[:20], wanted[20:])
    found = following.take(serving.sample(following, serving._cfg.explore.sampling))
    assert sorted(r.key for r in found) == sorted(r.key for r in wanted)


def test_none_is_said_while_others_are_out(make, ray, monkeypatch):
    """Else whoever is next holds back verdicts on which requests depend."""
    monkeypatch.setattr(sampling, "NONE_EVERY_S", 0.01)
    pool = make("rollout.stall_deadline_s=0.5")
    pool.push(BASE)
    ray.script = lambda actor, called, *args: (
        Ref(after=NEVER) if called == "generate" and args[0].seed else None
    )
    asked = [Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(2)]
    rollouts = pool.sample(chain(asked, repeat(None)), pool._cfg.explore.sampling)
    found = list(islice(rollouts, 4))
    assert found.count(None) == 3
    rollouts.close()


def test_nones_do_not_come_thick_and_fast(make, ray, monkeypatch):
    monkeypatch.setattr(sampling, "NONE_EVERY_S", NEVER)
    pool = make("rollout.stall_deadline_s=0.1")
    pool.push(BASE)
    ray.script = lambda actor, called, *args: Ref(after=NEVER) if called == "generate" else None
    stream = chain([Request(Problem("p", "q", "a"), 0, 0)], repeat(None))
    found = []
    with pytest.raises(RolloutError, match="no rollout finished"):
        found.extend(pool.sample(stream, pool._cfg.explore.sampling))
    assert len(found) <= 1


def test_what_was_not_handed_over_is_not_suspected():
    exchange = SimpleNamespace(remote=lambda *_: "call")
    feed = Feed(SimpleNamespace(actor=SimpleNamespace(exchange=exchange)), None)
    first, second = (Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(2))
    feed.add(first)
    feed.send(0.0)
    feed.add(second)
    feed.send_again()
    assert feed.give_up() == [(first, True), (second, False)] and not feed.held


def test_waiting_for_verdicts_is_no_stall(make, ray):
    pool = make("rollout.stall_deadline_s=0.1")
    pool.push(BASE)
    stream = iter([Request(Problem("p", "q", "a"), 0, 0), *[None] * 60])
    found = list(pool.sample(stream, pool._cfg.explore.sampling))
    assert len([r for r in found if r]) == 1 and found.count(None) > 10


def test_a_greedy_and_a_sampled_request_of_a_problem_are_two(serving, ray):
    """One is lost with its worker again and again, the other is not blamed for it."""
    problem = Problem("p", "q", "a")
    greedy, other = Request(problem, 0, 1, is_greedy=True), Request(problem, 0, 1)
    lossy = lambda actor, called, *args: (  # noqa: E731
        lost(DIED) if called == "generate" and args[0].is_greedy else None
    )
    ray.script = lossy
    found = []
    with pytest.raises(RolloutError, match=r"problem 'p' \(sample 0\) was in flight when 4"):
        for rollout in serving.sample([greedy, other], serving._cfg.explore.sampling):
            found.append(rollout)
    assert len(found) == 1


# -- replacements --------------------------------------------------------------------------------

DIES = at("generate", 2, None, None, lost(DIED))


@pytest.mark.parametrize(
    "failing",
    [at("start", 3, raised(ENGINE_FAILED)), at("start", 3, lost(DIED)), at("where", 3, lost(DIED)),
     at("load", 3, raised(RuntimeError("stale file handle"))), at("load", 3, lost(LOSSES[2])),
     at("start", 3, Ref(after=NEVER)), at("load", 3, Ref(after=NEVER))],
    ids=["start raises", "killed in start", "killed as it is made", "load raises",
         "killed in load", "start hangs", "load hangs"],
)  # fmt: skip
def test_a_replacement_that_fails_is_replaced_too(serving, ray, failing):
    ray.script = both(DIES, failing)
    sample(serving)
    assert serving.push(BASE).version == 0
    assert states(serving) == [State.SERVING, State.SERVING]
    assert serving.metrics()["rollout_worker_restarts"] == 2


def test_a_replacement_that_always_fails_is_given_up_and_the_others_go_on(serving, ray):
    def never_again(actor, called, *_):
        return raised(ENGINE_FAILED) if called == "start" and actor.number > 2 else None

    ray.script = both(DIES, never_again)
    sample(serving)
    assert serving.push(BASE).version == 0
    assert states(serving) == [State.SERVING, State.RETIRED]
    assert len(ray.actors) == 2 + 3  # rollout.max_restarts
    assert serving.metrics()["rollout_workers_retired"] == 1


def test_too_few_workers_end_the_run_with_the_last_failure(make, ray):
    pool = make("rollout.min_workers=2", "rollout.max_restarts=1")
    pool.push(BASE)

    def dies_again_and_again(actor, called, *_):
        return lost(DIED) if called in ("generate", "start") and actor.args[1] == 1 else None

    ray.script = dies_again_and_again
    expected = r"1 rollout workers are left.*min_workers=2: worker 1 died.*for the 2. time in a row"
    with pytest.raises(RolloutError, match=expected):
        sample(pool)
        pool.push(BASE)


def test_restarts_are_counted_against_progress(serving, ray):
    """A worker that dies after every 12 rollouts never ends by arithmetic."""

    def dies_now_and_then(actor, called, *_):
        num = actor.calls["generate"]
        return lost(DIED) if called == "generate" and actor.args[1] == 1 and num > 12 else None

    ray.script = dies_now_and_then
    for _ in range(6):
        sample(serving)
        serving.push(BASE)
    assert serving.metrics()["rollout_worker_restarts"] > 4
    assert states(serving) == [State.SERVING, State.SERVING]


def test_a_whole_call_is_progress_too(serving, ray):
    served = serving.slots[1]
    served.num_failures = 2
    sample(serving, num=4)
    assert served.num_failures == 0


# -- the first start -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failing",
    [at("start", 1, raised(ENGINE_FAILED)), at("start", 1, lost(DIED)),
     at("start", 1, Ref(after=NEVER)), at("where", 1, lost(LOSSES[2]))],
    ids=["raises", "killed", "hangs", "never made"],
)  # fmt: skip
def test_an_engine_that_fails_in_the_first_start_is_started_again(make, ray, failing):
    ray.script = failing
    pool = make()
    pool.come_up()
    assert states(pool) == [State.READY, State.READY]
    assert len(ray.actors) == 3


def test_what_every_engine_meets_in_its_start_ends_at_once(make, ray):
    ray.script = lambda actor, called, *_: (
        raised(RolloutError(f"engine {actor.number}: vLLM refuses this model"))
        if called == "start" else None
    )  # fmt: skip
    pool = make("rollout.num_workers=3", "rollout.max_restarts=9")
    with pytest.raises(
        RolloutError, match=r"worker \d cannot start: RolloutError: engine \d: vLLM"
    ):
        pool.come_up()
    assert len(ray.actors) == 3


def test_the_same_error_twice_from_one_ends_at_once_too(make, ray):
    ray.script = lambda actor, called, *_: raised(ENGINE_FAILED) if called == "start" else None
    with pytest.raises(RolloutError, match="cannot start: RuntimeError: Engine core"):
        make("rollout.num_workers=1", "rollout.max_restarts=9").come_up()
    assert len(ray.actors) == 2


@pytest.mark.parametrize("seconds", [0.0, 0.15], ids=["others have started", "others still start"])
def test_an_engine_on_a_sick_node_ends_nothing_while_others_start(make, ray, seconds):
    def sick(actor, called, *_):
        if called == "start":
            is_sick = actor.args[1] == 2
            return raised(ENGINE_FAILED) if is_sick else Ref(1.0, after=seconds)
        return None

    ray.script = sick
    pool = make("rollout.num_workers=3", "rollout.min_workers=1")
    pool.come_up()
    assert states(pool) == [State.READY, State.READY, State.RETIRED]


def test_engines_that_fail_alike_one_after_the_other_end_the_run_with_the_last(make, ray):
    def alike(actor, called, *_):
        late = 0.1 if actor.args[1] == 2 and actor.number <= 3 else 0.0
        error = raised(ENGINE_FAILED).error
        return Ref(error=error, after=late) if called == "start" else None

    ray.script = alike
    pool = make("rollout.num_workers=3", "rollout.max_restarts=99")
    with pytest.raises(RolloutError, match="cannot start: RuntimeError: Engine core"):
        pool.come_up()
    assert all(slot.num_failures for slot in pool.slots)
    assert max(slot.num_failures for slot in pool.slots) < 20


def test_two_different_errors_prove_nothing(make, ray):
    ray.script = both(
        at("start", 1, raised(OSError("stale file handle"))), at("start", 2, raised(ENGINE_FAILED))
    )
    pool = make()
    pool.come_up()
    assert states(pool) == [State.READY, State.READY]


def test_kills_prove_nothing_however_many(make, ray):
    ray.script = both(at("start", 1, lost(DIED)), at("start", 2, lost(DIED)))
    pool = make()
    pool.come_up()
    assert states(pool) == [State.READY, State.READY]


def test_engines_that_all_hang_in_their_start_end_the_run_at_the_first_deadline(make, ray):
    ray.script = lambda actor, called, *_: Ref(after=NEVER) if called == "start" else None
    with pytest.raises(RolloutError, match=r"did not start within rollout.start_deadline_s=0.2"):
        make().come_up()
    assert len(ray.actors) == 2


def test_closing_the_pool_ends_the_wait_of_a_start(make, ray):
    pool = make()
    ray.script = lambda actor, called, *_: lost(DIED) if called == "start" else None
    pool.close()
    with pytest.raises(RolloutError, match="ended with their pool"):
        pool.come_up()


# -- pushes --------------------------------------------------------------------------------------


def test_one_worker_that_hangs_in_a_push_is_replaced(serving, ray, caplog):
    ray.script = at("load", 2, Ref(after=NEVER))  # its first push was before the script
    ray.actors[1].calls.clear()
    assert serving.push(MOVED).version == 0
    assert states(serving) == [State.SERVING, State.SERVING] and len(ray.actors) == 3
    assert "did not load the pushed weights" in caplog.text
    assert "missing: workers [1] of 2" in caplog.text


def test_a_push_in_which_all_hang_fails_at_its_deadline_and_names_who_is_missing(serving, ray):
    ray.script = lambda actor, called, *_: Ref(after=NEVER) if called == "load" else None
    with pytest.raises(PushError, match=r"push.deadline_s=0.2 \(missing: workers \[0, 1\] of 2\)"):
        serving.push(MOVED)
    assert len(ray.actors) == 2


def test_weights_that_no_worker_can_load_fail_at_once(serving, ray):
    ray.script = lambda actor, called, *_: raised(KeyError("lm_head")) if called == "load" else None
    with pytest.raises(PushError, match=r"could not load elsewhere: KeyError: 'lm_head'"):
        serving.push(MOVED)
    assert len(ray.actors) == 2


def test_one_worker_that_disagrees_with_the_trainer_is_replaced(serving, ray):
    ray.actors[1].calls.clear()
    ray.script = at("load", 2, scored(-9.0))
    assert serving.push(MOVED).max_diff_text == 0
    assert len(ray.actors) == 3


def test_a_push_that_no_worker_agrees_with_says_by_how_much(serving, ray):
    ray.script = lambda actor, called, *_: scored(-1.5) if called == "load" else None
    with pytest.raises(PushError, match=r"text: RMS of the differences 0\.5 nats over 1 tok"):
        serving.push(MOVED)
    assert len(ray.actors) == 2


def test_a_worker_that_is_lost_in_a_push_and_finds_no_node_holds_nobody_up(
    serving, ray, monkeypatch
):
    monkeypatch.setattr(workers, "PLACE_GRACE_S", 0.1)
    ray.actors[1].calls.clear()
    no_room = lambda actor, called, *_: Ref(after=NEVER) if actor.number > 2 else None  # noqa: E731
    ray.script = both(at("load", 2, lost(DIED)), no_room)
    serving.push(MOVED)
    sample(serving)
    assert states(serving) == [State.SERVING, State.PLACING]
    time.sleep(0.3)  # longer than rollout.start_deadline_s: nothing has failed, there is no room
    sample(serving)
    assert states(serving) == [State.SERVING, State.PLACING]
    ray.actors[2].calls.clear()
    ray.script = lambda *_: None
    serving.slots[1].setup.ready_at, serving.slots[1].setup.value = 0.0, ("node", 3)  # a node came
    serving.push(BASE)
    sample(serving)
    assert states(serving) == [State.SERVING, State.SERVING]


# -- sleep and wake ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sleep", "wake"])
@pytest.mark.parametrize(
    "failing",
    [raised(RuntimeError("EngineDeadError")), lost(DIED), Ref(after=NEVER)],
    ids=["raises", "lost", "hangs"],
)
def test_a_worker_that_cannot_sleep_or_wake_is_replaced(serving, ray, monkeypatch, method, failing):
    monkeypatch.setattr(workers, "SLEEP_DEADLINE_S", 0.1)
    ray.script = at(method, 2, failing)
    serving.sleep()
    assert len(ray.actors) == 2  # nobody is started while the GPUs are lent
    serving.wake()
    serving.push(BASE)
    assert states(serving) == [State.SERVING, State.SERVING] and len(ray.actors) == 3
    assert ray.killed == [ray.actors[1]]


def test_a_worker_whose_node_comes_back_in_a_fit_starts_its_engine_after_it(serving, ray):
    ray.script = both(DIES, at("where", 3, Ref(("node", 3), after=0.3)))
    sample(serving, num=8)
    serving.push(BASE) if serving.slots[1].state is State.SERVING else None
    serving.sleep()
    started = ray.actors[-1].calls["start"]
    time.sleep(0.3)
    serving.sleep()
    assert ray.actors[-1].calls["start"] == started
    serving.wake()
    serving.push(BASE)
    assert states(serving) == [State.SERVING, State.SERVING]


# -- GPUs ----------------------------------------------------------------------------------------


class Place:
    """A seat with one GPU whose name changes with its node."""

    def __init__(self, after=0.0):
        self.gpu, self.after = "0", after  # seconds until the bundle has a node

    @property
    def options(self):
        return {"gpu": self.gpu}

    def ask(self):
        return [Ref(("other node", "GPU-77"), after=self.after)]

    def settle(self, answers):
        [(_, self.gpu)] = answers


def test_a_replacement_is_given_the_gpu_that_its_seat_has_now(make, ray):
    pool = make(placement=SimpleNamespace(rollout_seat=lambda _: Place()))
    pool.push(BASE)
    ray.script = DIES
    sample(pool)
    pool.push(BASE)
    assert [options["gpu"] for options in ray.options] == ["0", "0", "GPU-77"]


def _placing_while_others_serve(make, ray, after=0.0):
    """Two workers are needed, the second was lost as `sample` ended and waits for a node."""
    pool = make(
        "rollout.min_workers=2", placement=SimpleNamespace(rollout_seat=lambda _: Place(after))
    )
    pool.push(BASE)
    sample(pool, num=8)
    pool._workers.fail(pool.slots[1], Fault("died"))
    pool._workers._restart_due()
    assert pool.slots[1].state is State.PLACING
    return pool


def test_a_worker_that_is_placed_in_a_long_fit_has_its_time_after_it(make, ray):
    pool = _placing_while_others_serve(make, ray)
    time.sleep(0.3)  # a fit, longer than rollout.start_deadline_s; nobody looks at the workers
    pool.push(BASE)
    assert states(pool) == [State.SERVING, State.SERVING]
    assert pool.metrics()["rollout_worker_restarts"] == 1 and len(ray.actors) == 3


def test_a_worker_without_a_node_has_its_time_after_the_others_slept(make, ray):
    pool = _placing_while_others_serve(make, ray, after=0.4)
    pool.sleep()
    time.sleep(0.3)  # a fit
    pool.wake()
    pool.push(BASE)
    assert states(pool) == [State.SERVING, State.SERVING]
    assert pool.metrics()["rollout_worker_restarts"] == 1 and len(ray.actors) == 3
