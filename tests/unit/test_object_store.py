"""A replay buffer in an object store, spoken to over HTTP: a local S3 server in its own process."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta

import lance
import pytest
from test_buffer import fill, judged, keys

from virgo_ray.config import StoreConfig
from virgo_ray.errors import TraceStoreError
from virgo_ray.store.buffer import ReplayBuffer
from virgo_ray.store.dataset import locate_store
from virgo_ray.store.reader import TraceReader

pytest.importorskip("moto.server", reason="needs moto[server], part of the extra `test`")

START_DEADLINE_S = 120
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@pytest.fixture(scope="module")
def endpoint():
    """The address of a server with a bucket `runs`; credentials are in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command,
        env={**os.environ, **CREDENTIALS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        make_bucket(address, server)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in CREDENTIALS.items():
                patch.setenv(name, value)
            yield address
    finally:
        server.kill()
        server.wait(30)


def make_bucket(address, server):
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            request = urllib.request.Request(f"{address}/runs", method="PUT")
            urllib.request.urlopen(request, timeout=10).close()
            return
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, f"the server ended with code {server.returncode}"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)


def store(endpoint, name):
    options = {"endpoint": endpoint, "allow_http": "true", "region": "us-east-1"}
    return StoreConfig(path=f"s3://runs/{name}/buffer.lance", storage_options=options)


def test_a_store_on_s3_is_written_read_and_resumed(endpoint, tmp_path):
    cfg = store(endpoint, "a")
    buffer = ReplayBuffer.open(tmp_path, store=cfg, owner="tiny-1")
    fill(buffer, 1, {"a": "cw", "b": "c"})
    committed = buffer.seal()
    again = ReplayBuffer.open(tmp_path, committed, store=cfg, owner="tiny-1")
    assert keys(again, [1]) == [(1, "a", 0), (1, "a", 1), (1, "b", 0)]
    with pytest.raises(TraceStoreError, match="already"):
        again.add(1, judged("a", 0))
    (trace,) = again.traces(
        [c for c in again.candidates([1]) if c.problem_id == "b"], [judged("b").rollout.problem]
    )
    assert trace.text == "b0" and trace.token_ids == (0, 1, 2)
    assert TraceReader.open(locate_store(tmp_path, cfg)).judged_counts([1]) == {
        "a": (1, 2),
        "b": (1, 1),
    }
    assert list(tmp_path.iterdir()) == []


def test_named_versions_on_s3_survive_cleaning(endpoint, tmp_path):
    cfg = store(endpoint, "b")
    buffer = ReplayBuffer.open(tmp_path, store=cfg)
    fill(buffer, 1, {"a": "cw"})
    named = buffer.seal()
    for index in range(5):
        fill(buffer, 2, {f"p{index}": "c"})
    buffer.seal()
    buffer.clean([named], timedelta(0))
    location = locate_store(tmp_path, cfg)
    address = {"uri": location.uri, "storage_options": dict(location.storage_options)}
    assert lance.dataset(version=named, **address).count_rows() == 2
    assert len(lance.dataset(**address).versions()) == 2
    assert len(keys(ReplayBuffer.open(tmp_path, buffer.version, store=cfg), [1, 2])) == 7


def test_a_lost_store_on_s3_is_a_named_error(endpoint, tmp_path):
    with pytest.raises(TraceStoreError, match="is gone, the ledger relies on its version 3"):
        ReplayBuffer.open(tmp_path, 3, store=store(endpoint, "never"))
    missing = StoreConfig(
        path="s3://no-bucket/x.lance", storage_options=store(endpoint, "x").storage_options
    )
    with pytest.raises(TraceStoreError, match=r"s3://no-bucket/x\.lance"):
        ReplayBuffer.open(tmp_path, store=missing)
