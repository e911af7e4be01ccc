"""Serves a report on this machine alone, with a search over all texts of its run.

Listens on 127.0.0.1. A request whose Host is another name is refused, so that no foreign web site
can reach it by pointing a name of its own here; so is one that another site's page sends. Files
come from the report's folder only.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from virgo_ray.errors import TraceStoreError
from virgo_ray.store.dataset import StoreLocation
from virgo_ray.store.reader import TraceReader

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MOST_HITS = 500
MOST_WORDS = 500  # characters
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Handler(SimpleHTTPRequestHandler):
    """GET and HEAD of files, and `/search?q=WORDS`."""

    def __init__(self, *args: object, place: StoreLocation, directory: str) -> None:
        self._place = place
        super().__init__(*args, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if not self._is_from_here():
            return
        parts = urlsplit(self.path)
        if parts.path == "/search":
            self._search(parse_qs(parts.query).get("q", [""])[0])
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._is_from_here():
            super().do_HEAD()

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: object) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: object) -> None:
        log.info(format, *args)

    def _is_from_here(self) -> bool:
        port = self.connection.getsockname()[1]
        own = {f"{name}:{port}" for name in (HOST, "localhost")}
        is_own = self.headers.get("Host", "") in own
        if is_own and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
            return True
        self.send_error(HTTPStatus.FORBIDDEN, "asked under another name, or by another site")
        return False

    def _search(self, words: str) -> None:
        words = words.strip()[:MOST_WORDS]
        hits, error = [], ""
        if words:
            try:
                hits = [*TraceReader.open(self._place).find_text(words, MOST_HITS + 1)]
            except TraceStoreError as trouble:
                error = str(trouble)
        is_cut = len(hits) > MOST_HITS
        answer = {"hits": sorted(hits[:MOST_HITS]), "is_cut": is_cut, "error": error}
        content = json.dumps(answer).encode("ascii")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def make_server(folder: Path, place: StoreLocation, port: int = 0) -> ThreadingHTTPServer:
    """A server that is bound; `serve_forever` is the caller's. Port 0: any that is free.

    Raises:
        OSError: the port is taken.
    """
    handler = partial(Handler, place=place, directory=str(folder))
    return ThreadingHTTPServer((HOST, port), handler)
