"""Nodes of a cluster are lost in the middle of a run: three raylets on this machine, one is killed.

Placement, pools, loop, ledger and store are all real; the engines are stand-ins, so that the test
is fast, and so is the trainer. Each time a new node takes the place of the one that was killed.
"""

import os
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import ray
from flow_fakes import (
    HELDOUT,
    FakeRollouts,
    FakeTrainer,
    FakeVerifiers,
    Fuse,
    Process,
    end_state,
    small_config,
)
from ray.cluster_utils import Cluster
from stand_in_engine import LOGPROB, StandInWorker, sampled

from virgo_ray.actors.placement import make_placement
from virgo_ray.actors.rollouts.pool import RolloutPool
from virgo_ray.actors.verifiers.pool import VerifierPool
from virgo_ray.evaluate import Evaluator, Questions
from virgo_ray.ports import Ports
from virgo_ray.records import Judged, Status, Verdict
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.weights.probe import Probe, ProbeItem, probe_path

ROOT = Path(__file__).resolve().parents[2]
STORE_BYTES = 80 * 1024**2
PHASES = ("start", "sample", "push", "fit", "evaluate")
# Ray itself notices a lost node in half a minute.
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 500, "health_check_period_ms": 200,
    "health_check_failure_threshold": 3, "health_check_timeout_ms": 2000,
}  # fmt: skip
OVERRIDES = (
    "rollout.num_workers=2", "rollout.max_in_flight=2", "verify.num_workers=1", "gates=null",
    "placement.mode=colocated", "placement.cpus_per_worker=1.1", "rollout.start_deadline_s=90",
    "explore.num_problems=5", "rollout.max_restarts=9", "explore.num_samples=3",
    "verify.batch_size=2",
)  # fmt: skip


class Nodes:
    """A head for the driver, and two nodes for everything else."""

    def __init__(self):
        self.cluster = Cluster(
            initialize_head=True,
            shutdown_at_exit=False,  # signal handlers: nodes are also added by other threads
            head_node_args={
                "num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False,
                "_system_config": QUICK_TO_NOTICE,
            },
        )  # fmt: skip
        self.workers = [self.add() for _ in range(2)]
        paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
        ray.init(
            address=self.cluster.address, log_to_driver=False, logging_level="ERROR",
            runtime_env={"env_vars": paths},
        )  # fmt: skip

    def add(self):
        return self.cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES)

    def kill(self, node_id):
        victim = next(node for node in self.workers if node.node_id == node_id)
        self.cluster.remove_node(victim, allow_graceful=False)
        self.workers[self.workers.index(victim)] = self.add()

    def close(self):
        ray.shutdown()
        self.cluster.shutdown()


class Run(Process):
    """A run on real pools, which loses a node in each of `phases`, once."""

    def lose_nodes(self, nodes, phases):
        self.nodes, self.left, self.lost = nodes, list(phases), []
        return self

    @contextmanager
    def machinery(self, ledger):
        run_dir = Path(self.cfg.run_dir)
        write_probe(run_dir, 0)
        with ExitStack() as stack:
            placement = make_placement(self.cfg, has_trainer=False)
            stack.callback(placement.release)
            self.pool = RolloutPool(self.cfg, placement)
            stack.callback(self.pool.close)
            options = {**placement.verifier_options(), "num_cpus": 0.2}
            verifiers = VerifierPool(self.cfg.verify, options)
            stack.callback(verifiers.close)
            self.strike("start")
            self.pool.come_up()
            store = ReplayBuffer.open(run_dir, ledger.committed_buffer_version)
            questions = Questions(ledger.wandb_id, HELDOUT, {})
            exploring, evaluating = Rollouts(self, "sample"), Rollouts(self, "evaluate")
            evaluator = Evaluator(self.cfg, questions, evaluating, verifiers, self.said.append)
            yield Ports(exploring, verifiers, Trainer(self), store, evaluator, None)

    def strike(self, phase):
        """Kill the node of the last engine that has one."""
        if phase in self.left:
            self.left.remove(phase)
            actors = [slot.actor for slot in self.pool.slots if slot.actor is not None]
            node, _ = ray.get(actors[-1].where.remote(), timeout=60)
            self.nodes.kill(node)
            self.lost.append(phase)

    def show(self, done, store):
        self.labels.append(done.label)


class Rollouts:
    """The pool's, which loses a node after the first rollout of its phase, and in a push."""

    def __init__(self, run, phase):
        self.run, self.phase = run, phase

    def push(self, weights):
        if weights.version > 0:
            self.run.strike("push")
        return self.run.pool.push(weights)

    def sample(self, requests, sampling):
        for number, rollout in enumerate(self.run.pool.sample(requests, sampling)):
            yield rollout
            if number == 0:  # others are in flight
                self.run.strike(self.phase)


class NoCluster(FakeRollouts):
    """What the stand-in engines sample, without any."""

    def rollout(self, request, sampling):
        return sampled(request, sampling, self.version)


class NoVerifiers(FakeVerifiers):
    """Only the right answer is correct."""

    def judge(self, rollouts):
        for rollout in rollouts:
            is_right = rf"\boxed{{{rollout.problem.answer}}}" in rollout.text
            yield Judged(rollout, Verdict(Status.CORRECT if is_right else Status.WRONG))


class Trainer(FakeTrainer):
    """The engines sleep while it trains."""

    def __init__(self, run):
        super().__init__(Fuse(), run.cfg)
        self.run = run

    def fit(self, plan, start, version, is_again=False):
        self.run.pool.sleep()
        self.run.strike("fit")
        report = super().fit(plan, start, version, is_again)
        self.settle()  # the stand-in engines read files
        write_probe(self.root.parent, version)
        self.run.pool.wake()
        return report


def write_probe(run_dir, version):
    Probe((ProbeItem((1,), (2,)),), ((LOGPROB,),)).save(probe_path(run_dir / "weights", version))


@pytest.fixture(scope="module")
def nodes():
    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    cfg = small_config(tmp_path_factory.mktemp("undisturbed"), *OVERRIDES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flow_fakes.FakeRollouts", NoCluster)
        Process(cfg, verifiers=NoVerifiers).run()
    return end_state(cfg)


def run(nodes, folder, phases):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("virgo_ray.actors.rollouts.slot.RolloutWorker", StandInWorker)
        patch.setattr("virgo_ray.actors.rollouts.pool.check_weights", lambda path, checksums: None)
        patch.setattr("virgo_ray.actors.restarts.PAUSE_S", 0.2)
        cfg = small_config(folder, *OVERRIDES)
        done = Run(cfg).lose_nodes(nodes, phases).run()
    assert set(done.lost) == set(phases)
    assert done.pool.metrics()["rollout_worker_restarts"] >= len(phases)
    return end_state(cfg)


def test_a_run_that_loses_nodes_ends_with_the_undisturbed_tallies(nodes, undisturbed, tmp_path):
    assert without_places(run(nodes, tmp_path, ("sample", "fit"))) == without_places(undisturbed)


@pytest.mark.slow
def test_a_node_lost_in_every_phase_changes_nothing(nodes, undisturbed, tmp_path):
    assert without_places(run(nodes, tmp_path, PHASES)) == without_places(undisturbed)


def without_places(state):
    """Who sampled and judged, and how long that took, may differ."""
    rollouts = {
        key: (judged.rollout.text, judged.rollout.token_ids, judged.verdict.status)
        for key, judged in state["rollouts"].items()
    }
    return {**state, "rollouts": rollouts}
