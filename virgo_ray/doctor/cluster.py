"""Checks of a Ray cluster: whether it answers, is guarded, and whether its nodes are alike.

They run while the command is connected to the cluster that a run would join; where none is named,
one is started here, as a run would. Whether nodes are alike is asked of every node.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from virgo_ray.actors.cluster import address_of
from virgo_ray.actors.nodes import (
    Answer,
    Node,
    ask_nodes,
    cluster_resources,
    list_nodes,
    num_free_gpus,
    sum_between,
)
from virgo_ray.actors.placement import check_feasible, settle_gpus
from virgo_ray.actors.rollouts.choice import (
    Situation,
    choose_transport,
    read_allocator,
    refuse_transport,
)
from virgo_ray.config import Config
from virgo_ray.doctor import host
from virgo_ray.doctor.findings import (
    Check,
    Finding,
    Status,
    examine,
    not_checked,
    not_needed,
    to_do,
    well,
)
from virgo_ray.doctor.services import Reply, ask
from virgo_ray.doctor.subject import Subject
from virgo_ray.errors import ConfigError, PlacementError

NODES_DEADLINE_S = 150.0
FILES_DEADLINE_S = 30.0
NETWORK_DEADLINE_S = 30.0
MAX_RANKS_PER_NODE = 2
TOKEN_ADVICE = (
    "`ray get-auth-token --generate` once, the same ~/.ray/auth_token on every node, and "
    "RAY_AUTH_MODE=token before `ray start` (cluster/README.md)"
)


def look_at_ray(subject: Subject) -> Finding:
    nodes = list_nodes()
    num_gpus = sum(node.num_gpus for node in nodes)
    address = address_of(subject.ray)
    what = "starts here" if subject.started_here else f"answers at {address}"
    text = f"a cluster {what}: nodes {len(nodes)}, GPUs {num_gpus}"
    if subject.cfg is None:
        return well(text)
    try:
        resources = cluster_resources()
        cfg = settle_gpus(subject.cfg, resources)
        check_feasible(cfg, resources)
        refuse_transport(cfg, Situation(1, read_allocator(cfg)))
    except (PlacementError, ConfigError) as error:
        return to_do(f"{text}; {error}")
    return well(f"{text}, room for this config; {way_of_weights(cfg, len(nodes))}")


def way_of_weights(cfg: Config, num_nodes: int) -> str:
    """How new weights will reach the engines. A run may need fewer nodes than there are."""
    choice = choose_transport(cfg, Situation(num_nodes, read_allocator(cfg)))
    where = f" if it takes all {num_nodes} nodes" if num_nodes > 1 else ""
    return f"new weights reach engines by {choice.transport}{where}"


def look_at_token(subject: Subject) -> Finding:
    if subject.dashboard == "none":
        return not_checked("this cluster has no dashboard to ask", "start it with one, to check")
    reply = ask(f"{subject.dashboard}/api/authentication_mode")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    open_file = str(path) if path.is_file() and is_open_to_others(path) else ""
    return judge_token(reply, open_file, subject.started_here)


def is_open_to_others(path: Path) -> bool:
    """Whether other users can read a file, and enter the directories above it."""
    may_enter = all(above.stat().st_mode & stat.S_IXOTH for above in path.resolve().parents)
    return may_enter and bool(path.stat().st_mode & stat.S_IROTH)


def judge_token(reply: Reply, open_file: str, started_here: bool) -> Finding:
    """`reply` is the dashboard's to the question for its mode; `open_file` is the file with the
    token where others can read it, else empty."""
    if reply.status != 200:
        why = reply.text if reply.status is None else f"status {reply.status}"
        return not_checked(f"the dashboard does not say whether it asks for a token ({why})")
    asks = json.loads(reply.text).get("authentication_mode") == "token"
    if asks and open_file:
        return to_do(f"others can read the token in {open_file}", f"chmod 600 {open_file}")
    if asks:
        return well("the cluster asks for a token, and knows ours")
    if started_here:
        return to_do("RAY_AUTH_MODE=disabled: others on this machine can run code", "unset it")
    return to_do("the cluster asks for no token: whoever reaches it can run code", TOKEN_ADVICE)


def look_at_nodes(subject: Subject) -> Finding:
    """The checks of the machine, on every node; a GPU is expected where Ray knows one."""
    nodes = list_nodes()
    if subject.started_here:
        return not_needed("one node, which is this machine")
    asked = {node: (subject.uses_gpus and node.num_gpus > 0,) for node in nodes}
    return judge_nodes(ask_nodes(asked, examine_host, NODES_DEADLINE_S))


def examine_host(uses_gpus: bool) -> list[Finding]:
    """Runs on a node."""
    return [examine(check, uses_gpus) for check in host.CHECKS]


def judge_nodes(answers: Sequence[Answer]) -> Finding:
    faults = []
    for answer in answers:
        where = answer.node.address
        if answer.fault:
            faults.append(f"{where}: {answer.fault}")
            continue
        bad = [f for f in answer.value if f.status is Status.TO_DO]
        faults += [f"{where}: {f.name}: {f.text}" for f in bad]
    if faults:
        return to_do("; ".join(faults), "make the same environment on every node")
    return well(f"{len(answers)} nodes pass the checks of this machine")


def look_at_files(subject: Subject) -> Finding:
    """Every node reads what this machine wrote, and this machine what every node wrote."""
    nodes = list_nodes()
    place = next(p for p in (subject.run_dir, *subject.run_dir.parents) if p.is_dir())
    if len(nodes) == 1:
        return not_needed(f"one node sees {place}")
    token = secrets.token_hex(8)
    return judge_files(*share(nodes, place, token), token, place)


def share(nodes: Sequence[Node], place: Path, token: str) -> tuple[list[Answer], set[str]]:
    """(what each node read, the nodes whose own file is seen here)."""
    probe = place / f".virgo-ray-doctor-{token}"
    own = {node.id: probe.with_name(f"{probe.name}-{node.id}") for node in nodes}
    try:
        probe.write_text(token)
        asked = {node: (str(probe), str(own[node.id])) for node in nodes}
        answers = ask_nodes(asked, read_and_write, FILES_DEADLINE_S)
        return answers, {id for id, path in own.items() if path.is_file()}
    finally:
        for path in (probe, *own.values()):
            path.unlink(missing_ok=True)


def read_and_write(probe: str, own: str) -> str:
    """Runs on a node: what it reads, after it wrote a file of its own; that is seen by whoever
    wrote `probe` and removed there, or, where there is no `probe`, here."""
    try:
        Path(own).touch()
        return Path(probe).read_text()
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(own).unlink(missing_ok=True)
        return f"{type(error).__name__}: {error.strerror}"


def judge_files(answers: Sequence[Answer], seen: set[str], token: str, place: Path) -> Finding:
    """`seen` are the ids of the nodes whose own file is here; `token` is what all should read."""
    blind = [a for a in answers if a.value != token or a.fault or a.node.id not in seen]
    if blind:
        why = "; ".join(f"{a.node.address}: {a.fault or a.value}" for a in blind)
        return to_do(
            f"{place} is not the same directory on every node ({why})",
            "put run_dir on a file system that all nodes mount; a relative one is taken from "
            "VIRGO_RAY_HOME",
        )
    return well(f"{place} is the same directory on {len(answers)} nodes")


def look_at_network(subject: Subject) -> Finding:
    """Ranks on all nodes find each other and add a number up, on the CPU."""
    nodes = list_nodes()
    if len(nodes) == 1:
        return not_needed("one node")
    return judge_sum(sum_between(nodes, 0, NETWORK_DEADLINE_S), len(nodes), "gloo")


def look_at_nccl(subject: Subject) -> Finding:
    nodes = [n for n in list_nodes() if n.num_gpus]
    ranks = [n for n in nodes for _ in range(min(n.num_gpus, MAX_RANKS_PER_NODE))]
    if not subject.uses_gpus:
        return not_needed("no GPU is asked for")
    if not ranks:
        return not_checked("no node has a GPU", "start the cluster where the GPUs are")
    if num_free_gpus() < sum(n.num_gpus for n in nodes):
        return not_checked("GPUs are in use", "wait until other jobs have ended, or stop them")
    return judge_sum(sum_between(ranks, 1, NETWORK_DEADLINE_S), len(ranks), "NCCL")


def judge_sum(fault: str, num_ranks: int, how: str) -> Finding:
    if fault:
        return to_do(
            f"{num_ranks} ranks did not reach each other by {how} ({fault})",
            "open all ports between the nodes, and set NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME "
            "to the network that joins them, before `ray start`",
        )
    return well(f"{num_ranks} ranks added a number up by {how}")


def without_cluster(why: Finding) -> Iterator[Finding]:
    """What is found of each check where no cluster answers."""
    yield replace(why, name="cluster")
    yield from (replace(not_checked("no cluster to ask"), name=c.name) for c in CHECKS[1:])


CHECKS = (
    Check("cluster", look_at_ray),
    Check("token", look_at_token),
    Check("nodes", look_at_nodes, NODES_DEADLINE_S + 10),
    Check("shared files", look_at_files, FILES_DEADLINE_S + 10),
    Check("network", look_at_network, 4 * NETWORK_DEADLINE_S),
    Check("NCCL", look_at_nccl, 4 * NETWORK_DEADLINE_S),
)
