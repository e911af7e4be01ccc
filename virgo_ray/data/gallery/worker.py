"""A process that looks at pictures: `python -m virgo_ray.data.gallery.worker FD`.

It waits for lists of jobs on its socket, does one after the other, and answers each. It ends when
the parent's end of the socket closes, and is killed when the parent dies. Decoders read hostile
files here, so answers are JSON, and nothing is unpickled on the other side.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from virgo_ray.data.gallery.facts import PictureFault, hash_file, look_at
from virgo_ray.node.orphans import die_with_parent
from virgo_ray.verify.process.frames import receive_frame, send_frame


def main(fd: int) -> None:
    die_with_parent()
    sock = socket.socket(fileno=fd)
    try:
        send_frame(sock, {"ready": os.getpid()})
        while True:
            for path, is_decoded in receive_frame(sock):
                send_frame(sock, answer(path, is_decoded))
    except (EOFError, ConnectionError):
        return


def answer(path: str, is_decoded: bool) -> dict[str, Any]:
    """The facts of one picture, its fault, or without decoding its hash alone, for a message."""
    found = look_at(path) if is_decoded else hash_file(path)
    if isinstance(found, str):
        return {"hash": found}
    return {"fault" if isinstance(found, PictureFault) else "facts": found.to_json()}


if __name__ == "__main__":
    main(int(sys.argv[1]))
