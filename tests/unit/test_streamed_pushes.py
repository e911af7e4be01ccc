"""Pushes from a trainer's memory, and what follows when one fails: the pool's own code on a
stand-in for Ray."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from ray import exceptions
from safetensors.numpy import save_file
from stub_ray import NEVER, Ref, StubRay, lost, raised

from virgo_ray.actors import restarts
from virgo_ray.actors.faults import Fault
from virgo_ray.actors.rollouts import pool, sampling, slot, workers
from virgo_ray.actors.rollouts.pool import RolloutPool
from virgo_ray.actors.rollouts.slot import State
from virgo_ray.config import load_config
from virgo_ray.errors import ConfigError, PushError, WeightsError
from virgo_ray.records import Problem, Request, Rollout, Weights
from virgo_ray.weights.manifest import read_manifest
from virgo_ray.weights.offer import STREAM
from virgo_ray.weights.opening import Opening, Sent
from virgo_ray.weights.probe import Probe, ProbeItem, probe_path
from virgo_ray.weights.publish import publish
from virgo_ray.weights.remade import publish_without, restore
from virgo_ray.weights.verdict import Evidence

BASE = Weights(0, "base")
DIED = exceptions.ActorDiedError()
PROBE = Probe((ProbeItem((1,), (2,)),), ((-1.0,),))
DIGEST = "ab" * 32


def evidence(read):
    return Ref(Evidence([[-1.0]], read, [-1.0], load_seconds=0.25, probe_seconds=0.5))


def answer(actor, method, *args):
    """What healthy workers say."""
    if method == "where":
        return Ref(("node", 1))
    if method == "load":
        weights, _, _, offer, _ = args
        if offer is not None:
            return evidence({STREAM: DIGEST})
        files = read_manifest(Path(weights.path)).files if weights.version else {}
        return evidence({name: file.sha256 for name, file in files.items()})
    if method == "generate":
        request = args[0]
        return Ref(
            Rollout(request.problem, request.sample_index, "x", (1,), "stop", 0), after=0.002
        )
    return Ref(1.0)


class Trainer:
    """A source that holds version 1 until it is settled; also the push that it offers."""

    def __init__(self, root, ray):
        self.told = []
        self.nodes = frozenset({"node"})
        self.sent = Sent(DIGEST, 2.0)
        self.holds, self.is_other = True, False
        self._root, self._ray = root, ray
        self.opening = Opening("10.0.0.1", 1, "00" * 16, "/base", "cpu", PROBE, 3.0)

    def offer(self, weights, kind, labels, deadline_s):
        self.told.append(f"offer {kind} to {len(labels)} within {deadline_s:g} s")
        return self if self.holds else None

    def start(self, offer):
        self.told.append("send")

    def ask(self):
        return Ref(self.sent)

    def outcome(self, asked):
        if isinstance(self.sent, str):
            raise Fault(self.sent, PushError)
        return self.sent

    def cancel(self, why):
        self.told.append(f"cancel: {why}")

    def was_trained_again(self, weights):
        return self.is_other

    def settle(self):
        if "settle" not in self.told:
            self.told.append("settle")
            publish(self._root, 1, lambda d: save_file({"a": np.zeros(2)}, d / "model.safetensors"))
            PROBE.save(probe_path(self._root, 1))


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


@pytest.fixture
def run(ray, tmp_path):
    """A pool of two that serve the base, its trainer, what was said, and version 1."""
    cfg = load_config(
        "configs/tiny.yaml",
        [
            "rollout.max_in_flight=4", "rollout.max_restarts=3", "rollout.start_deadline_s=0.5",
            "push.deadline_s=0.5", f"run_dir={tmp_path}",
        ],
    )  # fmt: skip
    root = tmp_path / "weights"
    PROBE.save(probe_path(root, 0))
    both = RolloutPool(cfg)
    both.push(BASE)
    said = []
    trainer = Trainer(root, ray)
    both.draw_from(trainer, said.append)
    return both, trainer, said, Weights(1, str(root / "v0001"))


def second(number, come_to):
    """The second load of an actor, the first after the base's, comes to this."""

    def script(actor, method, *_):
        is_it = method == "load" and actor.number == number and actor.calls[method] == 2
        return come_to if is_it else None

    return script


def test_all_take_what_the_trainer_holds_and_nobody_waits_for_the_disk(run, ray):
    pool, trainer, said, weights = run
    report = pool.push(weights)
    assert trainer.told == ["offer ipc to 2 within 0.25 s", "send"]
    assert [s.state for s in pool.slots] == [State.SERVING] * 2
    figures = report.gather_seconds, report.wire_seconds, report.load_seconds, report.probe_seconds
    assert (report.transport, figures) == ("ipc", (3.0, 2.0, 0.25, 0.5))
    assert said == ["weights reach the engines by ipc: engines and trainers are on one node"]
    trainer.settle()
    before = len(ray.actors)
    again = pool.push(weights)
    assert again.transport == "disk", "they are served already"
    assert (again.load_seconds, again.probe_seconds) == (0.0, 0.0)
    assert trainer.told == ["offer ipc to 2 within 0.25 s", "send", "settle"]
    assert len(ray.actors) == before


@pytest.mark.parametrize(
    "come_to",
    [evidence({STREAM: "cd" * 32}), raised(RuntimeError("the stream of weights broke"))],
    ids=["other bytes", "an error"],
)
def test_one_that_the_stream_fails_loads_from_disk_and_auto_stays_there(run, ray, come_to):
    pool, trainer, said, weights = run
    ray.script = second(1, come_to)
    pool.push(weights)
    assert trainer.told[2].startswith("cancel: rollout worker 0") and trainer.told[3] == "settle"
    assert [s.state for s in pool.slots] == [State.SERVING] * 2
    assert set(pool.slots[0].evidence.read) == {"model.safetensors"}
    assert set(pool.slots[1].evidence.read) == {STREAM}
    assert pool.metrics()["rollout_worker_restarts"] == 0
    assert "push by ipc failed at rollout worker 0" in said[-1]
    assert pool._pusher.open(Weights(2, "next"), pool.slots) is None
    assert said[-1] == "weights reach the engines by disk: a stream failed before, in this start"


def test_an_engine_with_other_bytes_loads_again_though_it_has_that_version(run, ray):
    pool, _, _, weights = run
    seen = []

    def script(actor, method, *args):
        if method == "load" and args[0].version == 1:
            seen.append((actor.number, args[3] is not None, args[4]))
            if args[3] is not None and actor.number == 1:
                return evidence({STREAM: "cd" * 32})
        return None

    ray.script = script
    pool.push(weights)
    assert sorted(seen) == [(1, False, True), (1, True, False), (2, True, False)]


def test_without_a_sender_all_load_from_disk(run, ray):
    pool, trainer, said, weights = run
    trainer.sent = "was sent to in vain: the trainer died"
    report = pool.push(weights)
    assert all(set(s.evidence.read) == {"model.safetensors"} for s in pool.slots)
    assert report.wire_seconds == 0 and "in vain" in said[-1]


@pytest.mark.parametrize("how", [lost(DIED), Ref(after=NEVER)], ids=["killed", "hangs"])
def test_one_that_is_lost_in_a_stream_is_replaced_and_catches_up_from_disk(run, ray, how):
    pool, trainer, _, weights = run
    ray.script = second(1, how)
    pool.push(weights)
    assert any(told.startswith("cancel: rollout worker 0") for told in trainer.told)
    assert pool.metrics()["rollout_worker_restarts"] == 1
    assert set(pool.slots[0].evidence.read) == {"model.safetensors"}
    assert set(pool.slots[1].evidence.read) == {STREAM}


def test_one_that_is_lost_later_catches_up_from_disk(run, ray):
    pool, trainer, _, weights = run
    pool.push(weights)
    assert "settle" not in trainer.told

    def script(actor, method, *_):
        is_it = method == "generate" and actor.number == 2 and actor.calls[method] == 2
        return lost(DIED) if is_it else None

    ray.script = script
    wanted = [Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(60)]
    assert len(list(pool.sample(iter(wanted), pool._cfg.explore.sampling))) == 60
    assert trainer.told[-1] == "settle"
    pool.push(weights)
    assert set(pool.slots[1].evidence.read) == {"model.safetensors"}


class Frugal(Trainer):
    """Publishes without tensors, and writes them when it is told to."""

    def settle(self):
        if "settle" not in self.told:
            self.told.append("settle")
            publish_without(self._root, 1, self._save, known_hashes, "weights.publish_every=2")
            PROBE.save(probe_path(self._root, 1))

    def write_now(self, version):
        self.told.append("write")
        restore(self._root, version, self._save, known_hashes)
        return True

    def _save(self, directory):
        save_file({"a": np.zeros(2)}, directory / "model.safetensors")


def known_hashes(directory):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()}


@pytest.mark.parametrize("is_lost", [False, True])
def test_tensors_that_are_not_published_are_written_once_a_worker_needs_them(run, ray, is_lost):
    pool, trainer, said, weights = run
    trainer = Frugal(trainer._root, ray)
    pool.draw_from(trainer, said.append)
    pool.push(weights)
    trainer.settle()
    pool.push(weights)  # as before an exploration
    assert "write" not in trainer.told

    def script(actor, method, *_):
        is_it = is_lost and method == "generate" and actor.number == 2
        return lost(DIED) if is_it and actor.calls[method] == 2 else None

    ray.script = script
    wanted = [Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(60)]
    assert len(list(pool.sample(iter(wanted), pool._cfg.explore.sampling))) == 60
    pool.come_up()
    assert trainer.told.count("write") == is_lost
    assert [s.state for s in pool.slots] == [State.SERVING] * 2
    read = {STREAM} if not is_lost else {"model.safetensors"}
    assert set(pool.slots[1].evidence.read) == read


def test_a_stream_that_fails_has_unpublished_tensors_written(run, ray):
    pool, trainer, said, weights = run
    trainer = Frugal(trainer._root, ray)
    pool.draw_from(trainer, said.append)
    ray.script = second(1, evidence({STREAM: "cd" * 32}))
    pool.push(weights)
    assert trainer.told[-1] == "write"
    assert set(pool.slots[0].evidence.read) == {"model.safetensors"}


def test_what_no_trainer_holds_comes_from_disk(run, ray):
    pool, trainer, said, weights = run
    trainer.holds = False
    assert pool.push(weights).transport == "disk"
    assert trainer.told[-1] == "settle" and said == []


def test_shared_memory_over_two_nodes_is_refused_when_the_trainer_comes(run, ray):
    pool, trainer, _, _ = run
    trainer.nodes = frozenset({"another"})
    push = pool._cfg.push.model_copy(update={"transport": "ipc"})
    pool._cfg = pool._cfg.model_copy(update={"push": push})
    with pytest.raises(ConfigError, match="are on 2 nodes"):
        pool.draw_from(trainer, print)


def test_other_weights_come_from_disk_after_a_stream(run, ray):
    pool, trainer, _, weights = run
    publish(trainer._root, 2, lambda d: save_file({"a": np.ones(2)}, d / "model.safetensors"))
    PROBE.save(probe_path(trainer._root, 2))
    pool.push(weights)
    trainer.holds = False
    for other in (BASE, Weights(2, str(trainer._root / "v0002")), weights):
        assert pool.push(other).transport == "disk"
        assert [slot.served.weights for slot in pool.slots] == [other] * 2
        assert [s.state for s in pool.slots] == [State.SERVING] * 2
    assert pool.metrics()["rollout_worker_restarts"] == 0


@pytest.mark.parametrize("kind", [Trainer, Frugal], ids=["published", "without tensors"])
def test_one_that_still_loads_what_was_served_before_does_not_keep_it(run, ray, kind):
    """It catches up late in an exploration, while the next version is offered to the others."""
    pool, trainer, said, weights = run
    trainer = kind(trainer._root, ray)
    pool.draw_from(trainer, said.append)

    def script(actor, method, *args):
        is_late = method == "load" and actor.number == 3 and args[0].version == 0
        return Ref(evidence({}).value, after=0.1) if is_late else None

    ray.script = script
    pool._workers.fail(pool.slots[1], Fault("died"))
    while pool.slots[1].state is not State.LOADING:
        pool._workers.collect_finished()
    pool.push(weights)
    assert [slot.served.weights for slot in pool.slots] == [weights] * 2
    assert set(pool.slots[1].evidence.read) == {"model.safetensors"}


@pytest.mark.parametrize("kind", [Trainer, Frugal], ids=["published", "without tensors"])
def test_what_was_trained_again_since_it_was_sent_is_loaded_by_all(run, ray, kind):
    """A rank died before it had published, and another machine rounds otherwise."""
    pool, trainer, said, weights = run
    trainer = kind(trainer._root, ray)
    pool.draw_from(trainer, said.append)
    pool.push(weights)
    trainer.is_other = True
    trainer.settle()
    wanted = [Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(20)]
    assert len(list(pool.sample(iter(wanted), pool._cfg.explore.sampling))) == 20
    pool.come_up()
    assert [set(slot.evidence.read) for slot in pool.slots] == [{"model.safetensors"}] * 2
    loads = [actor.calls["load"] for actor in ray.actors]
    pool.push(weights)
    assert [actor.calls["load"] for actor in ray.actors] == loads


def test_a_sender_that_hangs_fails_its_stream_and_not_the_run(run, ray):
    """All engines wait for it, deaf to its meeting place, until they are replaced."""
    pool, _, said, weights = run

    def script(actor, method, *args):
        return Ref(after=NEVER) if method == "load" and args[3] is not None else None

    ray.script = script
    report = pool.push(weights)
    assert report.transport == "disk"
    assert pool.metrics()["rollout_worker_restarts"] == 2
    assert [slot.served.weights for slot in pool.slots] == [weights] * 2
    assert "push by ipc failed" in said[-1]
    wanted = [Request(Problem(f"p{i}", "q", "a"), 0, i) for i in range(20)]
    assert len(list(pool.sample(iter(wanted), pool._cfg.explore.sampling))) == 20


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_files_that_were_damaged_after_they_were_published_are_named(run, ray, name):
    pool, trainer, _, _ = run
    trainer.holds = False

    def save(directory):
        save_file({"a": np.ones(2)}, directory / "model.safetensors")
        (directory / "config.json").write_text("{}")

    weights = Weights(2, str(trainer._root / "v0002"))
    publish(trainer._root, 2, save)
    PROBE.save(probe_path(trainer._root, 2))
    file = Path(weights.path) / name
    file.write_bytes(file.read_bytes()[:-1] + b"x")

    def script(actor, method, *args):
        is_it = method == "load" and name.startswith("model")
        return evidence(known_hashes(Path(args[0].path))) if is_it else None

    ray.script = script
    with pytest.raises(WeightsError, match=f"{name} has sha256 .* was changed after DONE"):
        pool.push(weights)
