"""The head of a cluster: asked as Ray asks it, and given its time to return."""

import socket
import threading
import time
from concurrent import futures
from contextlib import closing, contextmanager
from types import SimpleNamespace

import grpc
import pytest
import ray

from virgo_ray.actors import head
from virgo_ray.errors import ClusterError, RolloutError


class Healthy(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


@contextmanager
def listening(address):
    host, port = address.split(":")
    with closing(socket.create_server((host, int(port)))):
        yield


@pytest.fixture
def address():
    """Where nothing listens yet."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def watched(monkeypatch, address):
    """A cluster that is connected, whose head is away for now."""
    context = SimpleNamespace(gcs_address=address)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(head, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(head, "SECOND_LOOK_S", 0.01)
    monkeypatch.setattr(head, "LOCAL_PATIENCE_S", 0.2)
    monkeypatch.setattr(head, "BEFORE_RAY_S", 0.0)
    monkeypatch.setenv(head.RAY_PATIENCE[0], "5")
    return address


def test_a_head_is_asked_past_the_proxy_of_this_machine(monkeypatch):
    monkeypatch.setattr(head, "ANSWER_S", 2.0)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Healthy(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert head.answers(f"127.0.0.1:{port}")
    finally:
        server.stop(0)


def test_a_head_that_returns_in_time_ends_nothing(watched):
    def return_later():
        time.sleep(0.5)  # longer than an own cluster would be given
        with listening(watched):
            is_over.wait(5)

    is_over = threading.Event()
    thread = threading.Thread(target=return_later)
    with head.watch_head(is_local=False):
        thread.start()
        try:
            head.refuse_lost_head()  # as before a dead actor is replaced
            with pytest.raises(RolloutError), head.blame_lost_head():
                raise RolloutError("its own reason")
        finally:
            is_over.set()
            thread.join()


def test_a_head_that_stays_away_is_blamed_once_its_time_is_over(watched):
    began = time.monotonic()
    with (
        head.watch_head(is_local=True),
        pytest.raises(ClusterError, match="goes on where the run was"),
        head.blame_lost_head(),
    ):
        raise RolloutError("an actor died")
    assert 0.2 <= time.monotonic() - began < 3


def test_the_cluster_behind_a_ray_client_is_not_watched(watched, monkeypatch):
    from ray.util.client import ray as client

    def no_address():
        raise AssertionError("a client knows no address of the head")

    monkeypatch.setattr(client, "is_connected", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", no_address)
    with head.watch_head(is_local=False):
        head.refuse_lost_head()
