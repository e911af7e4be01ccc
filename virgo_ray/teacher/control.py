"""A question that every chat model answers, which tells two things apart that look alike.

Where everything that was asked is declined, either the set-up is wrong or exactly these problems
are not for this teacher. Where nothing comes back for a while, either long thoughts are on their
way or nobody is there. The answer to the control question decides both, within minutes. Its
requests do not count against `teacher.budget`.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from virgo_ray.endpoint.client import (
    ChatEndpoint,
    EndpointError,
    RequestRefusedError,
    UnusableReplyError,
)

QUESTION = "What colour is snow? Answer in one word."
PICTURE_SIZE = (112, 112)  # of which every vision model makes at least one patch
SILENCE_S = 120.0  # without any answer, before the control question is asked
CONTROL_DEADLINE_S = 60.0  # it waits in the queue of a busy server, and asks for one token
CONTROL_TRIES = 2


def control_body(body: Mapping[str, Any], max_tokens: int | None = None) -> dict[str, Any]:
    """The control question, asked with the parameters of `body` and with a picture if it has one.

    Without `max_tokens` the answer may be as long as that of `body`.
    """
    parts: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    if any(isinstance(message["content"], list) for message in body["messages"]):
        parts.insert(0, {"type": "image_url", "image_url": {"url": _white_picture()}})
    content = parts if len(parts) > 1 else QUESTION
    more = {} if max_tokens is None else {"max_tokens": max_tokens}
    return {**body, "messages": [{"role": "user", "content": content}], **more}


def answers_control(
    endpoint: ChatEndpoint, body: Mapping[str, Any], read: Callable[[Any], object]
) -> bool:
    """Whether the endpoint answers the control question as `body` asks.

    Raises:
        EndpointError: nobody answered.
    """
    try:
        _apart(endpoint).ask(control_body(body), read)
    except (RequestRefusedError, UnusableReplyError):
        return False
    return True


class Silence:
    """Notices that an endpoint says nothing at all any more.

    The asking threads call `heard`; whoever waits for their answers calls `check` now and then.
    """

    def __init__(self, endpoint: ChatEndpoint, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._heard_at = clock()
        self._body: Mapping[str, Any] | None = None

    def asked(self, body: Mapping[str, Any]) -> None:
        """Keep how requests look, for the control question."""
        self._body = body

    def heard(self) -> None:
        self._heard_at = self._clock()

    def check(self) -> None:
        """Ask the control question if nothing was heard for `SILENCE_S`.

        Raises:
            EndpointError: not even that was answered.
        """
        silent_s = self._clock() - self._heard_at
        if silent_s < SILENCE_S or self._body is None:
            return
        deadline_s = min(CONTROL_DEADLINE_S, self._endpoint.deadline_s)
        try:
            replace(_apart(self._endpoint), deadline_s=deadline_s).ask(
                control_body(self._body, max_tokens=1), lambda reply: reply
            )
        except (RequestRefusedError, UnusableReplyError):
            pass  # a refusal is a sign of life
        except EndpointError as error:
            raise EndpointError(
                f"nothing came back for {silent_s:.0f} s, not even an answer of one token to a "
                f"control question ({error})"
            ) from error
        self.heard()


def _apart(endpoint: ChatEndpoint) -> ChatEndpoint:
    """The same endpoint with a few tries and a budget of its own."""
    return replace(endpoint, num_tries=CONTROL_TRIES, budget=CONTROL_TRIES, num_asked=0)


def _white_picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", PICTURE_SIZE, "white").save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
