"""The requests of a round in one stream: what follows verdicts, when, and how it ends."""

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virgo_ray.config import ExtraConfig
from virgo_ray.records import Judged, Problem, Request, Rollout, Status, Verdict
from virgo_ray.selection import Asking, choose_samples, exploration
from virgo_ray.selection import asking as asking_module

EXTRA = ExtraConfig(max_samples=4, until_correct=2, batch=2)
SHARED = EXTRA.model_copy(update={"budget_share": 1.0})


def asking(ids, num_samples=2, extra=EXTRA, found=(), has_probe=True):
    """As the loop makes one, without store."""
    found = dict(found)
    samples = [(id, i) for id in ids for i in range(num_samples + extra.max_samples)]
    possible = [request(*key) for key in samples if key not in found]

    def probe(verdicts):
        solved = dict.fromkeys(id for id, _ in verdicts if id in ids)
        return [request(f"{id}#blank", 0) for id in solved if (f"{id}#blank", 0) not in found]

    return Asking(
        possible,
        lambda known: choose_samples(ids, num_samples, extra, known),
        probe if has_probe else None,
        found,
    )


def request(id, index):
    return Request(Problem(id, "?", "1"), index, 0)


def judged(request, is_correct):
    rollout = Rollout(request.problem, request.sample_index, "", (), "stop", 0)
    return Judged(rollout, Verdict(Status.CORRECT if is_correct else Status.WRONG))


def note(stream, request, is_correct):
    assert list(stream.note_all([judged(request, is_correct)]))


def drawn(stream):
    """The keys that may be asked now."""
    keys = []
    for request in stream:
        if request is None:
            break
        keys.append(request.key)
    return keys


def is_right(key, solve_rate=0.4):
    return random.Random(f"{key}").random() < solve_rate


def run_to_the_end(stream, order, stop_after=None):
    """{key: is it correct} of what is asked, with a few in flight that are judged in any order."""
    out, found = [], {}
    while stop_after is None or len(found) < stop_after:
        item = next(stream, "end")
        if item == "end":
            assert not out or not stream._probe  # nothing can follow: the rest is in flight
            found |= {r.key: is_right(r.key) for r in out}
            return found
        if item is not None:
            assert item not in out and item.key not in found
            out.append(item)
        if out and (item is None or len(out) > 5):
            done = out.pop(order.randrange(len(out)))
            found[done.key] = is_right(done.key)
            note(stream, done, found[done.key])
    return found


def test_extra_samples_of_a_problem_follow_its_own_verdicts():
    stream = asking(["a", "b"], has_probe=False)
    assert drawn(stream) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    note(stream, request("a", 0), False)
    assert drawn(stream) == []
    note(stream, request("a", 1), True)
    stream._next_look = 0.0
    assert drawn(stream) == [("a", 2), ("a", 3)]  # while b is in flight
    assert len(stream) == 6


def test_a_probe_follows_the_first_correct_verdict_and_comes_once():
    stream = asking(["a", "b"], num_samples=3)
    drawn(stream)
    note(stream, request("a", 1), True)
    assert drawn(stream) == [("a#blank", 0)]
    note(stream, request("a", 2), True)
    note(stream, request("a#blank", 0), True)
    assert drawn(stream) == []


def test_a_shared_budget_is_spent_where_no_outcome_of_the_others_can_take_it_away(monkeypatch):
    monkeypatch.setattr(exploration.zlib, "crc32", lambda id: id[0])  # among equals: a, b, c, d
    found = {("a", 0): False, ("a", 1): False, ("c", 0): False, ("c", 1): False}
    ids = ["a", "b", "c", "d"]  # 4 extra samples, 2 for each
    listed = choose_samples(ids, 2, SHARED, found)
    assert listed[8:] == [("a", 2), ("a", 3)]  # c's would go to b, if that is never right
    found |= {("b", 0): True}
    assert choose_samples(ids, 2, SHARED, found)[8:] == [("a", 2), ("a", 3), ("c", 2), ("c", 3)]


extras = st.builds(
    ExtraConfig,
    max_samples=st.integers(0, 6),
    until_correct=st.integers(1, 4),
    batch=st.integers(1, 4),
    budget_share=st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0, 2.5])),
)


@given(st.integers(0, 6), st.integers(1, 3), extras, st.booleans(), st.integers(0, 999))
def test_one_stream_asks_what_batches_ask_wherever_it_is_killed(
    num, num_samples, extra, has_probe, seed
):
    ids, order = [f"p{i}" for i in range(num)], random.Random(seed)
    expected = batch_by_batch(ids, num_samples, extra, has_probe)
    found = {}
    for _ in range(order.randrange(4)):  # starts that are killed; some of what came is stored
        stream = asking(ids, num_samples, extra, found, has_probe)
        came = run_to_the_end(stream, order, stop_after=order.randrange(8))
        kept = order.sample(sorted(came), order.randint(0, len(came)))
        found |= {key: came[key] for key in kept}
    stream = asking(ids, num_samples, extra, found, has_probe)
    last = run_to_the_end(stream, order)
    assert not found.keys() & last.keys() and len(stream) == len(last)
    assert found | last == expected


def batch_by_batch(ids, num_samples, extra, has_probe):
    """The rule itself: a batch, of all problems, when all before it are judged; last the probes."""
    found = {(id, i): is_right((id, i)) for id in ids for i in range(num_samples)}
    left = int((extra.max_samples if extra.budget_share is None else extra.budget_share) * len(ids))
    for start in range(num_samples, num_samples + extra.max_samples, extra.batch):
        stop = min(start + extra.batch, num_samples + extra.max_samples)
        right = {id: sum(found.get((id, i), False) for i in range(start)) for id in ids}
        few = [id for id in ids if right[id] < extra.until_correct]
        few.sort(key=lambda id: (right[id], exploration.zlib.crc32(id.encode()), id))
        batch = [(id, i) for id in few for i in range(start, stop)][:left]
        found |= {key: is_right(key) for key in batch}
        left -= len(batch)
    solved = {id for (id, _), right in found.items() if right}
    probes = [(f"{id}#blank", 0) for id in solved if has_probe]
    return found | {key: is_right(key) for key in probes}


def test_what_cannot_be_followed_ends_at_once():
    stream = asking(["a"], extra=ExtraConfig(), has_probe=False)
    assert [r.key for r in stream] == [("a", 0), ("a", 1)]  # no None though both are in flight


def test_looks_are_rare_while_others_are_out():
    looks = []

    def decide(found):
        looks.append(len(found))
        return [("a", i) for i in range(50)]

    stream = Asking([request("a", i) for i in range(60)], decide, None, {})
    first = drawn(stream)
    stream._next_look = float("inf")
    for id, index in first[:-1]:
        note(stream, request(id, index), False)
        assert drawn(stream) == []
    assert looks == [0]
    note(stream, request(*first[-1]), False)  # nothing is out any more: now it is worth it
    with pytest.raises(StopIteration):
        next(stream)
    assert looks == [0, 50]


def test_a_pause_between_two_looks_is_short(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(asking_module.time, "monotonic", lambda: now[0])

    def decide(found):
        now[0] += 3.0  # this look takes long
        return [("a", 0), ("a", 1)]

    stream = Asking([request("a", i) for i in range(3)], decide, None, {})
    assert stream._next_look == 103.0 + asking_module.MAX_PAUSE_S


def test_a_thread_may_draw_while_another_notes_verdicts():
    ids = [f"p{i}" for i in range(40)]
    stream, done, noted = asking(ids), threading.Semaphore(0), []
    asked = []

    def draw():
        for item in stream:
            if item is not None:
                asked.append(item)
                done.release()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    while thread.is_alive() or len(noted) < len(asked):
        if done.acquire(timeout=0.05):
            item = asked[len(noted)]
            noted.append(item.key)
            note(stream, item, is_right(item.key))
    assert {key: is_right(key) for key in noted} == batch_by_batch(ids, 2, EXTRA, True)
    assert len(noted) == len(set(noted)) == len(stream)
