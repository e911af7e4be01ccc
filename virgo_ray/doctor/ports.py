"""Whether the ports that a run needs are open, or free: of this machine and of the cluster."""

from __future__ import annotations

import socket
from contextlib import closing

from virgo_ray.actors.cluster import address_of
from virgo_ray.actors.head import is_listening, refuse_dead_head
from virgo_ray.doctor.findings import Check, Finding, to_do, well
from virgo_ray.doctor.subject import Subject
from virgo_ray.errors import ConfigError

LOOPBACK = "127.0.0.1"


def look_at_ports(subject: Subject) -> Finding:
    """Of a cluster its head and dashboard; else those that a local cluster would take."""
    if not subject.started_here:
        return look_at_head(address_of(subject.ray))
    if port := subject.ray.dashboard_port:
        if fault := why_taken(port):
            return to_do(
                f"ray.dashboard_port={port} cannot be taken ({fault})",
                "name another, or null for the next free one",
            )
        return well(f"ray.dashboard_port={port} is free, and this machine reaches itself")
    if fault := why_unreachable():
        return to_do(fault, "look at the firewall, and at this machine's name in /etc/hosts")
    return well("this machine reaches itself on a free port")


def look_at_head(address: str) -> Finding:
    try:
        refuse_dead_head(address, "ray.address or RAY_ADDRESS")
    except ConfigError as error:
        return to_do(str(error), "start the cluster, or open its port")
    return well(f"the head at {address} answers")


def why_taken(port: int) -> str:
    with closing(socket.socket()) as taking:
        taking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taking.bind((LOOPBACK, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def why_unreachable() -> str:
    """Listen on a free port under this machine's own name, and connect to it."""
    name = socket.gethostname()
    with closing(socket.socket()) as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        if not is_listening(f"{LOOPBACK}:{port}"):
            return f"nothing can connect to {LOOPBACK}:{port} here"
        if not is_listening(f"{name}:{port}"):
            return f"this machine's own name {name!r} does not lead to it"
    return ""


CHECKS = (Check("ports", look_at_ports),)
