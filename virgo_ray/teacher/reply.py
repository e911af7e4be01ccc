"""What a chat endpoint's reply holds: thought and content, or that it declined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What an endpoint said: `thought` is empty where it does not keep thoughts apart."""

    thought: str
    content: str
    is_cut: bool

    @property
    def whole(self) -> str:
        return "\n\n".join(part for part in (self.thought, self.content) if part)


class DeclinedError(ValueError):
    """The endpoint answered that it will not answer."""


def read_reply(reply: Any) -> Reply:
    """The first choice of a chat completion.

    Thoughts kept apart stand in `reasoning_content` (vLLM, DeepSeek) or `reasoning` (vLLM, others).

    Raises:
        LookupError, TypeError, AttributeError, ValueError: it is no chat completion, or is empty.
    """
    choice = reply["choices"][0]
    message = choice["message"]
    content = _text(message.get("content"))
    thought = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    finish = choice.get("finish_reason")
    if finish == "content_filter":
        raise DeclinedError("finish_reason is content_filter")
    if not (content or thought):
        raise DeclinedError(f"no text, finish_reason {str(finish)[:40]!r}")
    return Reply(thought, content, is_cut=finish == "length")


def _text(value: Any) -> str:
    """A message's text, also of one in parts; lone surrogates become question marks."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        raise TypeError("content is an object, expected a text or a list of parts")
    if not isinstance(value, str):
        value = "".join(part["text"] for part in value if part.get("type", "text") == "text")
    return value.encode(errors="replace").decode().strip()
