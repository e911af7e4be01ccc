"""Messages between the judging processes: a length and JSON.

JSON on purpose: nothing that comes from a process which has read hostile text is unpickled.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_HEADER = struct.Struct("!I")


def send_frame(sock: socket.socket, message: Any) -> None:
    """Raises ConnectionError where the other side is gone."""
    data = json.dumps(message).encode()
    sock.sendall(_HEADER.pack(len(data)) + data)


def receive_frame(sock: socket.socket) -> Any:
    """The next message.

    Raises:
        EOFError, ConnectionError: the other side is gone.
        TimeoutError: the socket has a time-out and nothing came.
    """
    (size,) = _HEADER.unpack(_receive_exactly(sock, _HEADER.size))
    return json.loads(_receive_exactly(sock, size))


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        # deadline: the socket's own; the parent reads a judge's when `select` says so
        piece = sock.recv(min(1 << 20, size - len(data)))
        if not piece:
            raise EOFError("the other side closed the socket")
        data += piece
    return bytes(data)
