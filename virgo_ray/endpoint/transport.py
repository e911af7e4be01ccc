"""The HTTP below the endpoint: the `openai` client over an HTTP client that bounds every reply.

Guarantees: only our own headers are sent, so no OPENAI_* variable of the environment has a say; the
key goes to the given address only, because no redirect is followed; `openai` tries nothing again;
each wait ends after `deadline_s`, and a reply that is not complete by then is given up; at most
`max_bytes` of a reply are kept. Of an error reply only the beginning is read.

Importing this module loads `openai`, which takes about a second: import it with the first request.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx2
from openai import OpenAI

# `openai` insists on a key; this one is never sent.
NO_KEY = "none"
MAX_ERROR_BYTES = 1 << 16
# They describe the body as it was sent; the body that we hand on is decoded.
HEADERS_OF_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")


class BoundedClient(httpx2.Client):
    """An HTTP client that sends one key and four headers, and reads replies within bounds."""

    def __init__(self, key: str, deadline_s: float, max_bytes: int) -> None:
        # Without limits: the caller bounds how many requests are in flight.
        super().__init__(timeout=deadline_s, follow_redirects=False, limits=httpx2.Limits())
        self._key = key
        self._deadline_s = deadline_s
        self._max_bytes = max_bytes

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send the request with our headers and return the reply, read.

        Raises:
            httpx2.RequestError: no reply, or none that is complete within the bounds.
        """
        end = time.monotonic() + self._deadline_s
        reply = super().send(self._with_own_headers(request), **{**options, "stream": True})
        try:
            body = self._read(reply, end) if reply.is_success else _read_beginning(reply, end)
        finally:
            reply.close()
        headers = httpx2.Headers(reply.headers)
        for name in HEADERS_OF_TRANSFER:
            headers.pop(name, None)
        return httpx2.Response(reply.status_code, headers=headers, content=body, request=request)

    def _with_own_headers(self, request: httpx2.Request) -> httpx2.Request:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "virgo_ray",
        }
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx2.Request(
            request.method,
            request.url,
            headers=headers,
            content=request.content,
            extensions=request.extensions,
        )

    def _read(self, reply: httpx2.Response, end: float) -> bytes:
        """The whole body; the deadline also holds for a server that sends it byte by byte."""
        body = bytearray()
        for piece in reply.iter_bytes():
            body += piece
            if len(body) > self._max_bytes or time.monotonic() > end:
                raise httpx2.ReadTimeout(
                    f"no complete reply within {self._deadline_s:g} s and "
                    f"{self._max_bytes >> 20} MiB",
                    request=reply.request,
                )
        return bytes(body)


def _read_beginning(reply: httpx2.Response, end: float) -> bytes:
    """As much of an error's body as came; it is only quoted, so it may be missing."""
    body = bytearray()
    with contextlib.suppress(httpx2.RequestError):
        for piece in reply.iter_bytes():
            body += piece
            if len(body) > MAX_ERROR_BYTES or time.monotonic() > end:
                break
    return bytes(body[:MAX_ERROR_BYTES])


def open_client(url: str, key: str, deadline_s: float, max_bytes: int) -> OpenAI:
    """An `openai` client for the endpoint at `url`; it may be used by many threads at once."""
    return OpenAI(
        api_key=key or NO_KEY,
        base_url=url,
        timeout=deadline_s,
        max_retries=0,
        http_client=BoundedClient(key, deadline_s, max_bytes),
    )


def post_chat(client: OpenAI, body: Mapping[str, Any]) -> bytes:
    """The reply to a chat completion, as it came: its content is not trusted.

    Raises:
        openai.APIStatusError: the endpoint answered with an HTTP status other than success.
        openai.APIConnectionError: it did not answer, or not within the bounds.
    """
    # Lone surrogates in a model's text have no UTF-8; they are sent as question marks.
    fields = json.loads(json.dumps(body, ensure_ascii=False).encode(errors="replace"))
    # `openai` asks for two fields by name and does not know those that only vLLM has: `extra_body`
    # replaces the two and adds all others.
    reply = client.chat.completions.with_raw_response.create(
        model="", messages=[], extra_body=fields
    )
    return reply.content
