"""The meeting place of a push: a small table in the sender's memory that receivers read and write.

It is a TCPStore that listens on the given address only. Whoever reaches the port can list its keys;
so all of them stand under a prefix made of the nonce, and all values are signed with the nonce,
which itself never travels here. A value that was not signed with it, for its own key, is an error.
Every wait ends at the deadline of the push, and every question soon after it was asked: a sender
whose process was stopped, or whose host is gone, keeps nobody. Knows nothing of tensors.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from virgo_ray.errors import WeightsError

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.0005, 0.02  # between two looks at a key
NUM_BACKLOG = 512  # connections that may wait to be accepted
JOIN_S = 30.0  # for a sender that listens already to answer
ANSWER_S = 15.0  # for the answer to a question
SHORTEST_ANSWER_S = 1.0  # the same, however near the deadline is

T = TypeVar("T")
MUTE = "the sender of weights does not answer; its process was stopped, or its host is gone"


class Meeting:
    """One process's side of it. Used by one thread at a time."""

    def __init__(self, store: dist.Store, nonce: str, deadline_s: float) -> None:
        self._nonce = bytes.fromhex(nonce)
        self._prefix = hmac.new(self._nonce, b"prefix", hashlib.sha256).hexdigest()[:32]
        self._store: Any = store
        self._ends = time.monotonic() + deadline_s
        self._is_mute = False

    @property
    def seconds_left(self) -> float:
        return max(self._ends - time.monotonic(), 0.0)

    def group_store(self, name: str) -> dist.Store:
        """Where the members of a process group find each other."""
        return dist.PrefixStore(f"{self._prefix}/{name}", self._store)

    def post(self, key: str, value: Mapping[str, Any]) -> None:
        """Let everybody read `value` under `key`.

        Raises:
            WeightsError: the sender's process has ended, or does not answer.
        """
        text, store = json.dumps(value), self._store
        self._ask(lambda: store.set(self._path(key), self._signature(key, text) + text))

    def take(
        self, key: str, what: str, is_given_up: Callable[[], str] = lambda: ""
    ) -> dict[str, Any]:
        """Wait for the value of `key`, which is `what` in messages.

        `is_given_up` is asked now and then, and ends the wait by saying why.

        Raises:
            WeightsError: the deadline passed, the wait was given up, or the value was not signed
                with the nonce.
        """
        pause = SHORTEST_PAUSE_S
        while not self.has([key]):
            why = is_given_up() or ("" if self.seconds_left else "the deadline of the push passed")
            if why:
                raise WeightsError(f"{why} while waiting for {what}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        store = self._store
        raw = self._ask(lambda: store.get(self._path(key))).decode()
        signature, text = raw[:64], raw[64:]
        if not hmac.compare_digest(signature, self._signature(key, text)):
            raise WeightsError(f"{what} was not signed by this run; is somebody else on this port?")
        value: dict[str, Any] = json.loads(text)
        return value

    def has(self, keys: Sequence[str]) -> bool:
        """Whether all keys are there. (A wait with a time of torch's own logs every miss.)

        Raises:
            WeightsError: the sender's process has ended, or does not answer.
        """
        store, paths = self._store, [self._path(key) for key in keys]
        return bool(self._ask(lambda: store.check(paths)))

    def close(self) -> None:
        """Leave; one that was opened here is no more. Nothing else may be called after it."""
        self._store = None

    def _ask(self, question: Callable[[], T]) -> T:
        if self._is_mute:
            raise WeightsError(MUTE)
        try:
            return within(max(min(ANSWER_S, self.seconds_left), SHORTEST_ANSWER_S), question)
        except TimeoutError as error:
            self._is_mute = True
            raise WeightsError(MUTE) from error
        except RuntimeError as error:
            raise WeightsError(f"the sender of weights is gone: {_first_line(error)}") from error

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _signature(self, key: str, text: str) -> str:
        return hmac.new(self._nonce, f"{key}\n{text}".encode(), hashlib.sha256).hexdigest()


def open_meeting(address: str, deadline_s: float) -> tuple[Meeting, int, str]:
    """A new meeting place on `address`, its port, and its nonce."""
    store = listening_store(address, timedelta(seconds=deadline_s))
    nonce = secrets.token_hex(16)
    return Meeting(store, nonce, deadline_s), store.port, nonce


def listening_store(address: str, timeout: timedelta) -> dist.TCPStore:
    """A store that listens on a free port of `address`, and on no other address of this host."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((address, 0))
        listening.listen(NUM_BACKLOG)
        port = int(listening.getsockname()[1])
        return dist.TCPStore(
            address, port, is_master=True, wait_for_workers=False, timeout=timeout,
            master_listen_fd=listening.detach(),
        )  # fmt: skip


def join_meeting(address: str, port: int, nonce: str, deadline_s: float) -> Meeting:
    """The meeting place that somebody else opened.

    Raises:
        WeightsError: nobody answers there. It was opened before anybody heard of it, so that one
            that refuses is gone; torch would try again until the deadline.
    """
    try:
        socket.create_connection((address, port), timeout=min(deadline_s, JOIN_S)).close()
        joining = timedelta(seconds=min(deadline_s, JOIN_S))
        store = within(
            joining.total_seconds(),
            lambda: dist.TCPStore(address, port, is_master=False, timeout=joining),
        )
        store.set_timeout(timedelta(seconds=deadline_s))
    except (RuntimeError, OSError) as error:  # also a TimeoutError
        raise WeightsError(
            f"nobody offers weights at {address}:{port}: {_first_line(error) or 'no answer'}"
        ) from error
    return Meeting(store, nonce, deadline_s)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises, which torch may never do: it is then left behind in a thread.

    Raises:
        TimeoutError: it took longer.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="meeting", daemon=True).start()
    return answer.result(timeout=seconds)


def own_address(other: str) -> str:
    """The address of this host on the network through which `other` is reached."""
    family = socket.AF_INET6 if ":" in other else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # deadline: no packet is sent
        return str(probe.getsockname()[0])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
