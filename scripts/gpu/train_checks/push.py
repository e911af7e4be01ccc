"""Rows `push/...`: weights between two processes on one card, and an engine that sleeps meanwhile.

On a CPU the same code goes through shared memory. An engine sleeps on a GPU alone: there the row is
rehearsed, and reported as not checked.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from train_checks.kit import Emit, Kit
from train_checks.push_side import element_counts
from train_checks.side import Side
from virgo_ray.model.files import resolve_model

DEADLINE_S = 45.0  # of a push
START_S = 60.0  # of a process: imports, the device, 4 GB of tensors
ENGINE_S = 110.0  # of vLLM
NUM_WARM = 3  # tensors of the push before the one that is measured: what is loaded once
LEFT_HELD_MB = 1.0  # in a process, after a push
LEFT_DEVICE_MB = 256.0  # on the device: contexts grow as kernels are loaded
LARGEST_GAP = 1e-2  # nats; the same weights in the same engine
LEAST_CHANGE = 0.05  # nats between the two sets of weights, or the probe says nothing
MB, GB = 1e6, 1e9

Figures = dict[str, Any]


def run(kit: Kit, rows: Sequence[str], emit: Emit) -> None:
    streams = [row for row in rows if row.split("/")[1] in CHECKS]
    if streams:
        with Pair(kit) as pair:
            for row in streams:
                figures, said = CHECKS[row.split("/")[1]](pair)
                if said:
                    pair.close()
                emit(row, figures, error=said)
    if "push/sleep" in rows:
        sleep(kit, emit)


class Pair:
    """A sender that holds the weights, and a receiver; both warm.

    `free_alone` is what the device had left while there was no sender.
    """

    def __init__(self, kit: Kit) -> None:
        self.device = kit.device
        self._bucket_bytes = kit.scale.bucket_bytes
        self.counts = element_counts(kit.scale.push_bytes, kit.scale.bucket_bytes)
        self.sender, self.receiver = Side("push_side", kit.device), Side("push_side", kit.device)
        self.free_alone = asked(self.receiver, "memory", START_S)["free"]
        prepared = asked(self.sender, "prepare", START_S, counts=self.counts)
        self.num_bytes: int = prepared["num_bytes"]

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sender.kill()
        self.receiver.kill()

    def begin(self, kind: str, device: str, **which: int) -> None:
        """Both are told; their answers are for whoever began."""
        offer = opened(self.sender, kind, device, self._bucket_bytes)
        self.sender.tell("send", **which)
        self.receiver.tell("receive", offer=offer, counts=self.counts)

    def push(self, kind: str, device: str, **which: int) -> tuple[Figures, Figures]:
        """What the sender and the receiver say at the end."""
        self.begin(kind, device, **which)
        received = self.receiver.answer(2 * DEADLINE_S)
        return self.sender.answer(2 * DEADLINE_S), received

    def memory(self) -> dict[str, float]:
        """Bytes held by each, and free on the device."""
        sender, receiver = (asked(s, "memory", START_S) for s in (self.sender, self.receiver))
        return {"sender": sender["held"], "receiver": receiver["held"], "free": receiver["free"]}


def asked(side: Side, do: str, seconds: float, **fields: Any) -> dict[str, Any]:
    """Its answer.

    Raises:
        RuntimeError: it could not do it.
    """
    answer = side.ask(do, seconds, **fields)
    if "error" in answer:
        raise RuntimeError(f"{do}: {answer['error']}")
    return answer


def opened(sender: Side, kind: str, device: str, bucket_bytes: int) -> dict[str, Any]:
    """The fields of an offer for one receiver."""
    at = asked(
        sender, "open", START_S,
        kind=kind, device=device, deadline_s=DEADLINE_S, bucket_bytes=bucket_bytes,
    )  # fmt: skip
    return {
        "kind": kind, "version": 1, "address": "127.0.0.1", **at, "first_receiver": 0,
        "num_receivers": 1, "deadline_s": DEADLINE_S, "device": device,
    }  # fmt: skip


# -- streams between two processes -----------------------------------------------------------------


def ipc(pair: Pair) -> tuple[Figures, str]:
    """Through memory that both have: CUDA's on a GPU."""
    return measured(pair, "ipc", pair.device)


def broadcast(pair: Pair) -> tuple[Figures, str]:
    """By gloo, from host memory to a receiver on the device: NCCL has one rank on a card."""
    return measured(pair, "broadcast", "cpu")


def measured(pair: Pair, kind: str, device: str) -> tuple[Figures, str]:
    sent, received = pair.push(kind, device, num=NUM_WARM)
    before = pair.memory()
    if not (said := fault(sent, received, NUM_WARM)):
        sent, received = pair.push(kind, device)
        said = fault(sent, received, len(pair.counts))
    left = left_mb(before, pair.memory())
    figures = {"gb": pair.num_bytes / GB, "tensors": received.get("num", 0), **left}
    if "seconds" in sent:
        figures |= {"push_s": sent["seconds"], "gb_per_s": pair.num_bytes / GB / sent["seconds"]}
    return figures, said or kept(left)


def fault(sent: Figures, received: Figures, num_expected: int) -> str:
    """What is wrong with a push."""
    for side, answer in (("sender", sent), ("receiver", received)):
        if problem := answer.get("error") or answer.get("failed"):
            return f"the {side} failed: {problem}"
    if received["wrong"]:
        return f"{len(received['wrong'])} tensors came with other bits: {received['wrong'][:3]}"
    if received["num"] != num_expected:
        return f"{received['num']} tensors came, expected {num_expected}"
    if received["digest"] != sent["digest"]:
        return f"digests differ: {received['digest'][:8]} came, {sent['digest'][:8]} was sent"
    return ""


def left_mb(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float | None]:
    """What was not given back: by each process, and on the device."""
    on_device = None if before["free"] is None else (before["free"] - after["free"]) / MB
    held = {f"{s}_left_mb": (after[s] - before[s]) / MB for s in ("sender", "receiver")}
    return held | {"device_left_mb": on_device}


def kept(left: Mapping[str, float | None]) -> str:
    """Which memory was not given back; empty if all was."""
    for name, most in (
        ("sender_left_mb", LEFT_HELD_MB),
        ("receiver_left_mb", LEFT_HELD_MB),
        ("device_left_mb", LEFT_DEVICE_MB),
    ):
        if (left.get(name) or 0.0) > most:
            return f"{name} is {left[name]:.1f}, expected at most {most:g}"
    return ""


def killed(pair: Pair) -> tuple[Figures, str]:
    """The sender is killed half-way: the receiver hears of it, and gives all memory back."""
    held = asked(pair.receiver, "memory", START_S)["held"]
    half = len(pair.counts) // 2 + 3
    pair.begin("ipc", pair.device, stop_at=half)
    pair.sender.answer(DEADLINE_S)
    began = time.perf_counter()
    pair.sender.kill()
    received = pair.receiver.answer(2 * DEADLINE_S)
    noticed_s = time.perf_counter() - began
    after = asked(pair.receiver, "memory", START_S)
    free = pair.free_alone
    left = {
        "receiver_left_mb": (after["held"] - held) / MB,
        "device_left_mb": None if free is None else (free - after["free"]) / MB,
    }
    figures = {"tensors": received.get("num", 0), "noticed_s": noticed_s, **left}
    if not received.get("failed"):
        return figures, f"the receiver ended with {received}, expected an error about its sender"
    if not received["num"] or received["wrong"]:
        return figures, f"{received['num']} tensors came before that, wrong {received['wrong'][:3]}"
    if noticed_s > DEADLINE_S / 2:
        return figures, f"the receiver noticed after {noticed_s:.0f} s, expected at once"
    return figures, kept(left)


CHECKS: Mapping[str, Callable[[Pair], tuple[Figures, str]]] = {
    "ipc": ipc,
    "broadcast": broadcast,
    "killed": killed,
}


# -- an engine that sleeps -------------------------------------------------------------------------


def sleep(kit: Kit, emit: Emit) -> None:
    """Weights that reach an engine whose KV cache is still asleep are those that were sent."""
    if importlib.util.find_spec("vllm") is None:
        emit("push/sleep", {}, skipped="not checked: no vLLM")
        return
    served = kit.scale.served
    path = resolve_model(kit.weights(served).path if served in kit.scale.shapes else served)
    other = flipped(Path(path), kit.work / "flipped")
    with Side("push_side", kit.device) as sender, Side("push_engine", kit.device) as engine:
        scores = asked(engine, "start", ENGINE_S, path=path, other=str(other))
        if "absent" in scores:
            emit("push/sleep", {}, skipped=f"not checked: no vLLM ({scores['absent']})")
            return
        asked(sender, "prepare", START_S, counts=[], directory=str(other))
        figures, said = slept(kit, sender, engine, other)
        asked(engine, "close", START_S)
    figures["gap"] = largest_gap(figures.pop("scores"), scores["other"])
    figures["change"] = largest_gap(scores["base"], scores["other"])
    said = said or probed(figures) or freed(figures)
    no_sleep = "" if kit.device == "cuda" else "not checked: engines sleep on a GPU alone"
    emit("push/sleep", figures, error=said, skipped=no_sleep)


def slept(kit: Kit, sender: Side, engine: Side, other: Path) -> tuple[Figures, str]:
    """Sleep, wake the weights, load, wake the rest: memory after each, in GB."""
    figures = stage("awake", sender, engine)
    asked(engine, "sleep", DEADLINE_S)
    figures |= stage("asleep", sender, engine)
    asked(engine, "wake", DEADLINE_S)
    figures |= stage("woken", sender, engine)
    offer = opened(sender, "ipc", kit.device, kit.scale.bucket_bytes)
    sender.tell("send")
    loaded = engine.ask("load", DEADLINE_S, offer=offer, path=str(other))
    sent = sender.answer(DEADLINE_S)
    figures |= stage("loaded", sender, engine)
    figures["scores"] = asked(engine, "score", DEADLINE_S)["scores"]
    for answer in (loaded, sent):
        if "error" in answer:
            return figures, answer["error"]
    is_same = loaded["read"] == {"stream": sent["digest"]}
    return figures, "" if is_same else f"the engine read {loaded['read']}, {sent} was sent"


def stage(name: str, sender: Side, engine: Side) -> Figures:
    """Free memory of the device, seen by the sender; host memory of the engine's processes."""
    free = asked(sender, "memory", DEADLINE_S)["free"]
    host = asked(engine, "host", DEADLINE_S)
    return {
        f"{name}_free_gb": None if free is None else free / GB,
        f"{name}_resident_gb": host["resident"] / GB,
        f"{name}_pinned_gb": host["pinned"] / GB,
    }


def flipped(source: Path, directory: Path) -> Path:
    """The model with the rows of every tensor in the opposite order."""
    if not directory.exists():
        shutil.copytree(source, directory)
        for file in directory.glob("*.safetensors"):
            tensors = {
                n: t.flip(0).contiguous() if t.dim() else t for n, t in load_file(file).items()
            }
            save_file(tensors, file, metadata={"format": "pt"})
    return directory


def largest_gap(one: Sequence[float], two: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, two, strict=True))


def probed(figures: Figures) -> str:
    if figures["change"] < LEAST_CHANGE:
        return f"the two sets of weights are {figures['change']:.3g} nats apart: nothing is proved"
    if not figures["gap"] <= LARGEST_GAP:
        return f"{figures['gap']:.3g} nats from the engine that read them from disk"
    return ""


def freed(figures: Figures) -> str:
    """Whether sleep gave memory of the device back, and waking the weights took part of it."""
    awake, asleep, woken = (figures[f"{s}_free_gb"] for s in ("awake", "asleep", "woken"))
    if awake is None or awake < woken < asleep:
        return ""
    return f"free GB awake, asleep, weights awake: {awake:.2f}, {asleep:.2f}, {woken:.2f}"
