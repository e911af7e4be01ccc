"""`virgo-ray doctor` on a cluster of two nodes, of which one sees another directory and no network.

Both are raylets of this machine. The second one was started in another working directory, so that
/proc/self/cwd leads each of them elsewhere, and with the name of a network that is not there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from virgo_ray.actors.cluster import join_cluster
from virgo_ray.actors.nodes import NO_ANSWER, ask_nodes, list_nodes
from virgo_ray.config import RayConfig, load_config
from virgo_ray.doctor import cluster
from virgo_ray.doctor.findings import Finding, Status
from virgo_ray.doctor.subject import Subject

ROOT = Path(__file__).resolve().parents[2]
STORE_BYTES = 80 * 1024**2


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    with pytest.MonkeyPatch.context() as patch:
        for place in (ROOT, Path(__file__).parent):
            patch.setenv("PYTHONPATH", str(place), prepend=os.pathsep)
        nodes = Cluster(
            initialize_head=True,
            shutdown_at_exit=False,
            head_node_args={**node, "include_dashboard": False},
        )
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("GLOO_SOCKET_IFNAME", "not-there0")
        nodes.add_node(**node)
    address = nodes.address
    cfg = load_config(str(ROOT / "configs/tiny.yaml"), [f"ray.address={address}"])
    with join_cluster(RayConfig(address=address), is_frugal=False):
        yield Subject(cfg)
    nodes.shutdown()


def test_nodes_that_see_another_directory_are_named(
    subject: Subject, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert subject.cfg is not None
    shared = subject.cfg.model_copy(update={"run_dir": str(tmp_path / "run")})
    assert cluster.look_at_files(Subject(shared)).status is Status.OK
    own = subject.cfg.model_copy(update={"run_dir": "/proc/self/cwd/run"})
    found = cluster.look_at_files(Subject(own))
    assert found.status is Status.TO_DO
    assert "/proc/self/cwd is not the same directory on every node" in found.text
    elsewhere = tmp_path_factory.getbasetemp()
    assert not list(elsewhere.rglob(".virgo*")) and not list(Path.cwd().glob(".virgo*"))


def test_nodes_that_do_not_reach_each_other_are_told(subject: Subject) -> None:
    found = cluster.look_at_network(subject)
    assert found.status is Status.TO_DO and "did not reach each other by gloo" in found.text
    assert "not-there0" in found.text
    assert cluster.look_at_nccl(subject).status is Status.NOT_CHECKED


def test_every_node_is_asked_and_one_that_is_silent_or_wrong_is_told(subject: Subject) -> None:
    nodes = list_nodes()
    assert len(nodes) == 2
    answers = ask_nodes(dict.fromkeys(nodes, ()), raising, deadline_s=60.0)
    assert all("no such thing" in a.fault for a in answers)
    answers = ask_nodes({nodes[0]: (0.0,), nodes[1]: (60.0,)}, wait, deadline_s=3.0)
    assert [a.fault for a in answers] == ["", NO_ANSWER]  # both nodes had a process ready
    assert cluster.look_at_ray(subject).status is Status.OK
    assert cluster.look_at_token(subject).status is Status.NOT_CHECKED


def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def raising() -> Finding:
    raise ValueError("no such thing")
