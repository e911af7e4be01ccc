"""Whether the head of a Ray cluster answers: before a run joins it, and while the run goes on.

Ray itself waits for minutes for a head that is not there, and then ends the process in the middle
of its C++ code. Here a head that does not answer is an error within ANSWER_S + CONNECT_S, and one
that is lost later ends the command with a sentence. Only looks; changes nothing on the cluster.

Who waits: `watch_head` looks from a thread of its own, so that it also ends a command whose main
thread hangs in a call to the lost cluster. Where Ray's C++ is quicker and ends the process without
a word, a process that was started for this alone says the sentence.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import grpc
import ray
from ray._private import ray_constants
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError
from ray.util.client import ray as ray_client

from virgo_ray.errors import ClusterError, ConfigError, VirgoError
from virgo_ray.interrupts import dying_of_sigterm, end_command

CONNECT_S = 4.0  # for a TCP connection
ANSWER_S = 5.0  # for an answer to Ray's health check
LOOK_EVERY_S = 1.0
# A cluster that this run started has its head on this machine: it does not come back.
LOCAL_PATIENCE_S = 3.0
# Ray gives up a head after this time and ends the process; KubeRay sets it for heads that return.
RAY_PATIENCE = ("RAY_gcs_rpc_server_reconnect_timeout_s", 60.0)
BEFORE_RAY_S = 10.0  # how long before Ray does we give it up
# Actors may be found dead a moment before the head that dies with them.
SECOND_LOOK_S = 0.5
LOST = 1  # exit code
# Says its argument if its input ends before a line came: when the driver is ended from outside.
SPEAKER = ("/bin/sh", "-c", 'read -r line || echo "$0" >&2')
# Whatever else the head says (such as that the token is wrong), it is one. Another server, or a
# proxy that takes every connection, does not know the question.
NO_HEAD = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
)
LAST_WORDS = (
    "the process of this run was ended from outside: by a signal, by the system for memory, or by "
    "Ray, whose cluster is gone. What was committed and stored is whole; the same command goes on"
)

# Heads of clusters that this process is connected to, and for how many seconds one may be away.
_watched: list[tuple[str, float]] = []


def refuse_dead_head(address: str, named_by: str) -> None:
    """Check that the head at `address` ("auto" or host:port) answers.

    Args:
        named_by: where the address comes from, such as RAY_ADDRESS.

    Raises:
        ConfigError: it does not, or there is no such address.
    """
    if "://" in address:  # of a Ray client, which has a server and deadlines of its own
        return
    try:
        head = canonicalize_bootstrap_address(address)
    except (ConnectionError, ValueError, OSError) as error:
        raise ConfigError(no_cluster(address, named_by, str(error))) from error
    if head is None:
        return
    if not is_listening(head):
        raise ConfigError(no_cluster(address, named_by, f"nothing listens at {head}"))
    if not answers(head):
        said = f"what listens at {head} did not answer Ray's health check within {ANSWER_S:g} s"
        raise ConfigError(no_cluster(address, named_by, said))


def no_cluster(address: str, named_by: str, why: str) -> str:
    return (
        f"no Ray cluster at {address!r}, the address in {named_by}: {why}. Start one there with "
        "`ray start --head`, name another, or unset RAY_ADDRESS and ray.address to use this "
        "machine alone"
    )


def is_listening(head: str, timeout_s: float = CONNECT_S) -> bool:
    """Whether somebody takes a TCP connection at host:port."""
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except (OSError, ValueError):
        return False
    return True


def answers(head: str) -> bool:
    """Whether what listens there answers the health check in time, as Ray's heads do."""
    # With Ray's own options, which go past http_proxy: a proxy knows no nodes of a cluster.
    with closing(init_grpc_channel(head, ray_constants.GLOBAL_GRPC_OPTIONS)) as channel:
        ask = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            ask(b"", timeout=ANSWER_S)
        except grpc.RpcError as error:
            return error.code() not in NO_HEAD
    return True


@contextmanager
def bare_errors(address: str) -> Iterator[None]:
    """For `ray.init`, which raises a bare Exception where a node is not up within 30 seconds; that
    is so on a machine that is too busy. Every named error passes.

    Raises:
        ClusterError: in place of a bare one.
    """
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        where = "on this machine" if address == "local" else f"at {address}"
        raise ClusterError(
            f"Ray did not come up {where}: {error} Its logs are in /tmp/ray/session_latest/logs. A "
            "machine that is busy with other work is too slow for it: the same command tries again"
        ) from error


@contextmanager
def dying_while_connecting() -> Iterator[None]:
    """For `ray.init`: SIGTERM ends the process at once, and with it what Ray has started so far.

    A signal to the whole process group ends Ray's own processes too, and `ray.init` then waits a
    minute for them in C++ while no Python runs. Its own handler for SIGTERM would be of no help.
    """
    kept = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        with dying_of_sigterm():
            yield
    finally:
        ray._private.utils.set_sigterm_handler = kept


@contextmanager
def watch_head(is_local: bool) -> Iterator[None]:
    """End the command if the head of the cluster that we are connected to is lost for good.

    A Ray client does not know where the head is, and says itself when it loses its server.
    """
    if ray_client.is_connected():
        yield
        return
    head = ray.get_runtime_context().gcs_address
    name, default_s = RAY_PATIENCE
    patience_s = max(LOCAL_PATIENCE_S, float(os.environ.get(name, default_s)) - BEFORE_RAY_S)
    watched = (head, LOCAL_PATIENCE_S if is_local else patience_s)
    done = threading.Event()
    threading.Thread(target=_look, args=(*watched, done), name="head", daemon=True).start()
    _watched.append(watched)
    try:
        yield
    finally:
        _watched.remove(watched)
        done.set()


@contextmanager
def last_words() -> Iterator[None]:
    """Say how to go on if this process is ended while the block runs, by whatever or whomever."""
    speaker = subprocess.Popen(
        [*SPEAKER, LAST_WORDS], stdin=subprocess.PIPE, start_new_session=True
    )
    assert speaker.stdin is not None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it was ended itself
            speaker.stdin.write(b"\n")
            speaker.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            speaker.wait(ANSWER_S)


def _look(head: str, patience_s: float, done: threading.Event) -> None:
    seen = time.monotonic()
    while not done.wait(LOOK_EVERY_S):
        if is_listening(head):
            seen = time.monotonic()
        elif time.monotonic() - seen > patience_s:
            end_command(LOST, f"error: ClusterError: {is_gone(head)}")
            return


@contextmanager
def blame_lost_head() -> Iterator[None]:
    """What goes wrong in the block because the cluster is gone ends the command, and says so.

    Raises:
        ClusterError: the same, where no command runs (in tests).
    """
    try:
        yield
    except (VirgoError, RayError) as error:
        refuse_lost_head(error)
        raise


def refuse_lost_head(error: BaseException | None = None) -> None:
    """End the command if the head is lost: before a dead actor is replaced, or blamed on memory.

    Waits for one that is away for as long as it may be.

    Raises:
        ClusterError: it is lost, and no command runs (in tests).
    """
    for head, patience_s in _watched:
        if not _stays(head, patience_s):
            end_command(LOST, f"error: ClusterError: {is_gone(head)}")
            raise ClusterError(is_gone(head)) from error


def _stays(head: str, patience_s: float) -> bool:
    """Whether it listens, now and a moment later, or does so again before its time is over."""
    if is_listening(head):
        time.sleep(SECOND_LOOK_S)
    end = time.monotonic() + patience_s
    while not is_listening(head):
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def is_gone(head: str) -> str:
    return (
        f"the Ray cluster is gone: its head at {head} does not answer any more. What was committed "
        "and stored is whole; the same command goes on where the run was, once a cluster is there"
    )
