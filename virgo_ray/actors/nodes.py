"""What every node of a cluster says to a question, and whether nodes reach each other.

Questions are functions that each node can import; they run as tasks that take no CPU, so that a
busy cluster answers too. A node that does not answer in time is told from one whose function
raised. Only looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from virgo_ray.actors.losses import in_short

NO_ANSWER = "no answer"
MEETING_S = 60.0  # for a process to import PyTorch


@dataclass(frozen=True)
class Node:
    """One node that is alive."""

    id: str
    address: str
    num_gpus: int


@dataclass(frozen=True)
class Answer:
    """What a node said, or why it said nothing."""

    node: Node
    value: Any = None
    fault: str = ""


def list_nodes() -> list[Node]:
    """All nodes that are alive, the driver's own first."""
    own = ray.get_runtime_context().get_node_id()
    found = [
        Node(n["NodeID"], n["NodeManagerAddress"], int(n["Resources"].get("GPU", 0)))
        for n in ray.nodes()
        if n["Alive"]
    ]
    return sorted(found, key=lambda n: (n.id != own, n.address, n.id))


def num_free_gpus() -> float:
    return float(ray.available_resources().get("GPU", 0.0))


def cluster_resources() -> dict[str, float]:
    return dict(ray.cluster_resources())


def ask_nodes(
    asked: Mapping[Node, Sequence[Any]], question: Callable[..., Any], deadline_s: float
) -> list[Answer]:
    """The answers to `question(*asked[node])`, in the order of the nodes."""
    task = ray.remote(num_cpus=0, max_retries=0)(question)
    refs = {
        task.options(scheduling_strategy=_on(node)).remote(*args): node
        for node, args in asked.items()
    }
    ray.wait(list(refs), num_returns=len(refs), timeout=deadline_s)
    return [_answer(node, ref) for ref, node in refs.items()]


def sum_between(nodes: Sequence[Node], num_gpus: int, deadline_s: float) -> str:
    """Why one rank per entry of `nodes` could not add a number up; empty if all of them did.

    With `num_gpus` each has a GPU of its own and uses NCCL, else gloo.
    """
    ranks: list[Any] = [
        ray.remote(_Rank)
        .options(num_cpus=0, num_gpus=num_gpus, scheduling_strategy=_on(node))
        .remote()
        for node in nodes
    ]
    try:
        address, port = ray.get(ranks[0].host.remote(), timeout=MEETING_S)
        backend = "nccl" if num_gpus else "gloo"
        asked = [
            rank.add.remote(i, len(ranks), address, port, backend, deadline_s)
            for i, rank in enumerate(ranks)
        ]
        answers = _until_one_fails(dict(zip(asked, nodes, strict=True)), MEETING_S + deadline_s)
    except GetTimeoutError:
        return f"{nodes[0].address} started no process within {MEETING_S:g} s"
    except RayError as error:
        return f"{nodes[0].address}: {in_short(error)}"
    finally:
        for rank in ranks:
            ray.kill(rank)
    expected = len(nodes) * (len(nodes) + 1) / 2
    return "; ".join(
        f"{a.node.address}: {a.fault or f'sum is {a.value}, expected {expected}'}"
        for a in answers
        if a.fault or a.value != expected
    )


def _until_one_fails(asked: Mapping[Any, Node], deadline_s: float) -> list[Answer]:
    """The answers of all; once one failed, of those that are there: the others wait for it."""
    end = time.monotonic() + deadline_s
    answers: list[Answer] = []
    waiting = list(asked)
    while waiting and not any(a.fault for a in answers):
        done, waiting = ray.wait(waiting, timeout=max(0.0, end - time.monotonic()))
        answers += [_answer(asked[ref], ref) for ref in done or waiting]
    return answers


class _Rank:
    """One of those that add up; all load PyTorch at the same time."""

    def __init__(self) -> None:
        from virgo_ray.train import process

        self._process = process
        self._store: Any = None

    def host(self) -> tuple[str, int]:
        address = ray.util.get_node_ip_address()
        self._store = self._process.open_store(address)
        return address, self._store.port

    def add(
        self, rank: int, num: int, address: str, port: int, backend: str, deadline_s: float
    ) -> float:
        store = self._store or self._process.connect_store(address, port)
        return self._process.add_up(rank, num, store, backend, deadline_s)


def _on(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _answer(node: Node, ref: Any) -> Answer:
    try:
        return Answer(node, ray.get(ref, timeout=0))
    except GetTimeoutError:
        ray.cancel(ref)
        return Answer(node, fault=NO_ANSWER)
    except RayError as error:
        return Answer(node, fault=in_short(error))
