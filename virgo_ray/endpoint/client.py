"""An OpenAI-compatible chat endpoint (a local vLLM server too): one request, tried again, counted.

Guarantees: at most `budget` requests are sent, tries included; every request ends within
`longest_s`; what may pass (no connection, 429, 5xx, a reply that cannot be used) is tried again
with growing pauses, or after the pause the server asks for; what cannot pass (another 4xx) is not.
The key goes to `url` only: redirects are refused. Replies are untrusted: `read` decides what they
hold, and a reply that it cannot read is an error of the endpoint, never of the program.

May be used by many threads at once; the lock is held for moments only.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

from virgo_ray.errors import ConfigError

T = TypeVar("T")
MAX_PAUSE_S = 60.0
TOO_EARLY = (408, 425, 429)  # the 4xx that mean "again, later"
MAX_QUOTED = 200  # characters of a reply in a message


class EndpointError(Exception):
    """A request without a usable answer; the text says why."""


class BudgetSpentError(EndpointError):
    """No request was sent: the budget is spent."""


class RequestRefusedError(EndpointError):
    """The endpoint refused the request itself; `status` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}" if text else f"HTTP {status}")
        self.status = status


class NoReplyError(EndpointError):
    """Nobody answered, or only with errors that may pass, in all tries."""


class UnusableReplyError(EndpointError):
    """Something answered, but not what was asked for, in all tries."""


class _RefusedRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        """None: the redirect becomes an HTTPError, and the key goes nowhere."""


_OPENER = urllib.request.build_opener(_RefusedRedirects)


@dataclass
class ChatEndpoint:
    """`url` is the base up to and including `/v1`; `key` is sent as a bearer token if it is set.

    Example: `ChatEndpoint("http://localhost:8000/v1").ask(body, read)` posts `body` to
    `/chat/completions` and returns what `read` makes of the reply.
    """

    url: str
    key: str = field(default="", repr=False)
    budget: int = 1000
    num_tries: int = 3
    deadline_s: float = 60.0  # per request
    pause_s: float = 1.0  # before the second try; doubled before each further one
    max_bytes: int = 1 << 20  # of a reply
    num_asked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def longest_s(self) -> float:
        """What one `ask` may take: all tries, each with a last read, and the longest pauses."""
        return self.num_tries * (2 * self.deadline_s + MAX_PAUSE_S)

    def ask(self, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """What `read` makes of the reply to `body`.

        `read` gets the parsed JSON and raises LookupError, TypeError, AttributeError or ValueError
        where it is not what was asked for.

        Raises:
            EndpointError: see its subclasses.
        """
        failed: EndpointError = NoReplyError("no try was allowed")
        for attempt in range(self.num_tries):
            if not self._spend():
                raise BudgetSpentError(f"the budget of {self.budget} requests is spent")
            pause = min(MAX_PAUSE_S, self.pause_s * 2**attempt)
            try:
                return read(self._sent(body))
            except HTTPError as error:
                if error.code < 500 and error.code not in TOO_EARLY:
                    raise RequestRefusedError(error.code, _quoted(error)) from error
                failed = NoReplyError(f"HTTP {error.code}: {_quoted(error)}")
                pause = max(pause, _asked_pause(error))
            except (OSError, HTTPException) as error:
                failed = NoReplyError(_said(error))
            except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
                failed = UnusableReplyError(_said(error))
            if attempt + 1 < self.num_tries:
                time.sleep(pause)
        raise type(failed)(f"no usable reply in {self.num_tries} tries ({failed})") from failed

    def _spend(self) -> bool:
        with self._lock:
            is_left = self.num_asked < self.budget
            self.num_asked += is_left
            return is_left

    def _sent(self, body: Mapping[str, Any]) -> Any:
        address = self.url.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with _OPENER.open(request, timeout=self.deadline_s) as response:
            return json.loads(self._read(response))

    def _read(self, response: HTTPResponse) -> bytes:
        """The body; the deadline also holds for a server that sends it byte by byte."""
        end = time.monotonic() + self.deadline_s
        body = b""
        while piece := response.read1():
            body += piece
            if len(body) > self.max_bytes or time.monotonic() > end:
                raise TimeoutError(
                    f"no complete reply within {self.deadline_s:g} s and {self.max_bytes >> 20} MiB"
                )
        return body


def check_address(key: str, url: str) -> None:
    """Refuse what is no http(s) address.

    Raises:
        ConfigError: naming `key`.
    """
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        is_usable = False
    if not is_usable or any(letter.isspace() for letter in url):
        raise ConfigError(
            f"{key}={url!r} is no http(s) address; expected one such as http://localhost:8000/v1"
        )


def key_of(where: str, name: str | None) -> str:
    """The key in the environment variable `name`; empty where none is named.

    Raises:
        ConfigError: the variable that `where` names is not set.
    """
    if not name:
        return ""
    key = os.environ.get(name, "")
    if not key:
        raise ConfigError(
            f"{where}={name!r}: that environment variable is not set here; set it to "
            "the endpoint's key, or leave key_env out where the endpoint asks for none"
        )
    return key


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:MAX_QUOTED]}"


def _quoted(error: HTTPError) -> str:
    """The beginning of what came with an HTTP error, on one line."""
    try:
        text = error.read(4 * MAX_QUOTED).decode(errors="replace")
    except (OSError, HTTPException, ValueError):
        text = ""
    return " ".join((text or str(error.reason)).split())[:MAX_QUOTED]


def _asked_pause(error: HTTPError) -> float:
    """Seconds of a Retry-After header; a date in it is left alone."""
    try:
        seconds = float(error.headers.get("Retry-After", ""))
    except ValueError:
        return 0.0
    return min(MAX_PAUSE_S, seconds) if seconds > 0 else 0.0
