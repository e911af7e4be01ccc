"""The kit's rows of pushed weights, each with what it guards broken."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from train_checks import push
from train_checks.push_side import Receiving, Sending, element_counts, made, memory
from train_checks.side import Side

from virgo_ray.weights.offer import Offer
from virgo_ray.weights.streams import receiver_of

COUNTS = element_counts(40_000, 8192)
RIGHT = {"digest": "ab", "num": 3, "wrong": [], "failed": ""}
ALONE = {"held": 0, "free": 9e9}
WAIT_S = 30.0


class Told:
    """In place of a process: answers as it was told to."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers = list(answers)

    def answer(self, seconds: float) -> dict[str, Any]:
        return self._answers.pop(0)

    def ask(self, do: str, seconds: float, **fields: Any) -> dict[str, Any]:
        return self._answers.pop(0)

    def kill(self) -> None:
        pass


def holder() -> tuple[Sending, dict[str, Any]]:
    """A sender in this process, opened, and the offer of it."""
    sending = Sending("cpu", lambda value: None)
    sending._tensors = {f"weight.{i}": made(i, n, "cpu") for i, n in enumerate(COUNTS)}
    at = sending.open("ipc", "cpu", WAIT_S, 8192)
    return sending, push_offer(at)


def push_offer(at: dict[str, Any]) -> dict[str, Any]:
    return push.opened(Told(at), "ipc", "cpu", 8192)


@pytest.mark.parametrize("counts, is_right", [(COUNTS, True), ([*COUNTS[:-1], 5], False)])
def test_tensors_that_came_are_held_against_those_that_were_to_come(counts, is_right):
    sending, offer = holder()
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(sending.send)
        received = Receiving("cpu").receive(offer, counts)
        said = push.fault(sent.result(WAIT_S), received, len(counts))
    assert said == "" if is_right else "other bits" in said
    assert json.loads(json.dumps(received)) == received


def test_shared_memory_that_is_kept_is_seen():
    sending, offer = holder()
    before = memory("cpu")
    receiver = receiver_of(Offer(**offer), 0, "cpu")
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(sending.send)
        kept = dict(receiver.receive("nowhere"))
        sent.result(WAIT_S)
    receiver.close()
    assert memory("cpu")["held"] - before["held"] >= 40_000
    kept.clear()
    assert memory("cpu") == before


@pytest.mark.parametrize(
    "sent, received, said",
    [
        ({"digest": "ab"}, RIGHT, ""),
        ({"error": "WeightsError: late"}, RIGHT, "the sender failed: WeightsError: late"),
        ({"digest": "ab"}, RIGHT | {"failed": "late"}, "the receiver failed: late"),
        ({"digest": "ab"}, RIGHT | {"wrong": ["weight.1"]}, "other bits"),
        ({"digest": "ab"}, RIGHT | {"num": 2}, "2 tensors came, expected 3"),
        ({"digest": "cd"}, RIGHT, "digests differ"),
    ],
)
def test_every_fault_of_a_push_is_named(sent, received, said):
    found = push.fault(sent, received, 3)
    assert said in found if said else found == ""


def test_memory_that_is_not_given_back_is_named():
    before = {"sender": 0, "receiver": 5e6, "free": 9e9}
    assert push.kept(push.left_mb(before, before)) == ""
    assert "sender_left_mb is 1073.7" in push.kept(push.left_mb(before, before | {"sender": 2**30}))
    assert "receiver_left_mb" in push.kept(push.left_mb(before, before | {"receiver": 9e6}))
    assert "device_left_mb is 1000.0" in push.kept(push.left_mb(before, before | {"free": 8e9}))


@pytest.mark.parametrize(
    "received, after, said",
    [
        (RIGHT | {"failed": "the sender of weights is gone"}, ALONE, ""),
        (RIGHT, ALONE, "expected an error about its sender"),
        (RIGHT | {"failed": "gone", "num": 0}, ALONE, "0 tensors came before that"),
        (RIGHT | {"failed": "gone"}, {"held": 0, "free": 7e9}, "device_left_mb is 2000.0"),
    ],
)
def test_a_receiver_that_outlives_its_sender_must_say_so_and_hold_nothing(received, after, said):
    pair: Any = object.__new__(push.Pair)
    pair.device, pair.counts, pair.free_alone = "cpu", COUNTS, 9e9
    pair.sender, pair.receiver = Told({"standing_at": 5}), Told(ALONE, received, after)
    pair.begin = lambda *args, **which: None
    found = push.killed(pair)[1]
    assert said in found if said else found == ""


def test_where_there_is_no_vllm_the_row_is_not_ok(monkeypatch):
    monkeypatch.setattr(push.importlib.util, "find_spec", lambda name: None)
    said: list[str] = []

    def emit(row: str, figures: Any, error: str = "", skipped: str = "") -> None:
        said.append(skipped)

    push.run(Any, ["push/sleep"], emit)
    assert said == ["not checked: no vLLM"]


def test_an_engine_that_did_not_sleep_or_says_something_else_is_found():
    figures = {"gap": 0.0, "change": 1.0}
    assert push.probed(figures) == ""
    assert "from the engine that read them" in push.probed(figures | {"gap": 0.1})
    assert "from the engine that read them" in push.probed(figures | {"gap": float("nan")})
    assert "nothing is proved" in push.probed(figures | {"change": 0.0})
    free = {"awake_free_gb": 60.0, "asleep_free_gb": 75.0, "woken_free_gb": 74.0}
    assert push.freed(free) == ""
    assert push.freed(free | {"asleep_free_gb": 60.0})
    assert push.freed(free | {"woken_free_gb": 60.0})


def test_a_process_that_ends_is_not_waited_for():
    with Side("table") as side, pytest.raises(RuntimeError, match="table ended"):
        side.answer(WAIT_S)


def test_tensors_are_tiny_larger_than_a_bucket_and_as_many_bytes_as_asked_for():
    counts = element_counts(4_000_000_000, 2**30)
    assert 2 * max(counts) > 2**30 and min(counts) == 1
    assert abs(2 * sum(counts) - 4e9) < 2**28
    assert torch.equal(made(1, 9, "cpu").view(torch.int16), made(1, 9, "cpu").view(torch.int16))
