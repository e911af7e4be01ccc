"""An OpenAI-compatible chat endpoint (a local vLLM server too): one request, tried again, counted.

Guarantees: at most `budget` requests are sent, tries included; every request ends within
`longest_s`; what may pass (no connection, 429, 5xx, a reply that cannot be used) is tried again
with growing pauses, or after the pause the server asks for; what cannot pass (another 4xx) is not.
The key goes to `url` only, and no message shows it. Replies are untrusted: `read` decides what they
hold, and a reply that it cannot read is an error of the endpoint, never of the program.

HTTP is left to transport.py and the `openai` client, which are loaded with the first request.
Many threads may ask at once; the lock is held for moments only.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from virgo_ray.errors import ConfigError

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

T = TypeVar("T")
MAX_PAUSE_S = 60.0
TOO_EARLY = (408, 425, 429)  # the 4xx that mean "again, later"
MAX_QUOTED = 200  # characters of a reply in a message
HIDDEN_KEY = "[the key]"
NUM_WAITS = 3  # of one request: to connect, to send it, and for the reply


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
    """Nobody answered, or only with errors that may pass; `pause_s` is the pause asked for."""

    pause_s = 0.0


class UnusableReplyError(EndpointError):
    """Something answered, but not what was asked for."""

    pause_s = 0.0


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
    _client: OpenAI | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def longest_s(self) -> float:
        """What one `ask` may take: all tries, each with all its waits and the longest pause."""
        return self.num_tries * (NUM_WAITS * self.deadline_s + MAX_PAUSE_S)

    def ask(self, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Return what `read` makes of the reply to `body`, a chat completion's fields.

        `read` gets the parsed JSON and raises LookupError, TypeError, AttributeError or ValueError
        where it is not what was asked for.

        Raises:
            EndpointError: see its subclasses.
        """
        failed: NoReplyError | UnusableReplyError = NoReplyError("no try was allowed")
        for attempt in range(self.num_tries):
            if not self._spend():
                raise BudgetSpentError(f"the budget of {self.budget} requests is spent")
            try:
                return self._ask_once(body, read)
            except (NoReplyError, UnusableReplyError) as error:
                failed = error
            if attempt + 1 < self.num_tries:
                time.sleep(max(failed.pause_s, min(MAX_PAUSE_S, self.pause_s * 2**attempt)))
        raise type(failed)(f"no usable reply in {self.num_tries} tries ({failed})") from failed

    def _spend(self) -> bool:
        with self._lock:
            is_left = self.num_asked < self.budget
            self.num_asked += is_left
            return is_left

    def _ask_once(self, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        # Every `from None` below keeps an error whose text may hold the key out of stack traces.
        import openai

        from virgo_ray.endpoint.transport import post_chat

        try:
            reply = post_chat(self._open_client(), body)
        except openai.APIStatusError as error:
            raise self._explain_status(error) from None
        except openai.APIConnectionError as error:
            raise NoReplyError(self._describe(error.__cause__ or error)) from None
        except UnicodeError as error:  # a host name with an empty or too long part
            raise NoReplyError(self._describe(error)) from None
        try:
            return read(json.loads(reply))
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise UnusableReplyError(self._describe(error)) from None

    def _open_client(self) -> OpenAI:
        from virgo_ray.endpoint.transport import open_client

        with self._lock:
            if self._client is None:
                self._client = open_client(self.url, self.key, self.deadline_s, self.max_bytes)
            return self._client

    def _explain_status(self, error: APIStatusError) -> RequestRefusedError | NoReplyError:
        """Make an error of ours of an HTTP status; only some may pass."""
        text = self._quote(error.response.text) or error.response.reason_phrase
        if error.status_code < 500 and error.status_code not in TOO_EARLY:
            return RequestRefusedError(error.status_code, text)
        failure = NoReplyError(f"HTTP {error.status_code}: {text}")
        failure.pause_s = _read_pause(error.response.headers.get("Retry-After", ""))
        return failure

    def _describe(self, error: BaseException) -> str:
        return f"{type(error).__name__}: {self._quote(str(error))}"

    def _quote(self, text: str) -> str:
        """Cut a text of the endpoint to one short line, without the key."""
        if self.key:
            text = text.replace(self.key, HIDDEN_KEY)
        return " ".join(text[: 4 * MAX_QUOTED].split())[:MAX_QUOTED]


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
        ConfigError: the variable that `where` names is not set, or holds no key.
    """
    if not name:
        return ""
    key = os.environ.get(name, "")
    if not key:
        raise ConfigError(
            f"{where}={name!r}: that environment variable is not set here; set it to "
            "the endpoint's key, or leave key_env out where the endpoint asks for none"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"{where}={name!r}: that environment variable holds a space, a line break or a letter "
            "beyond ASCII; expected the endpoint's key alone: set it again"
        )
    return key


def _read_pause(retry_after: str) -> float:
    """Read the seconds of a Retry-After header; a date in it is left alone."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return 0.0
    return min(MAX_PAUSE_S, seconds) if seconds > 0 else 0.0
