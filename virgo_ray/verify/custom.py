"""One's own verifier: a Python function by import path, or an HTTP endpoint.

It replaces the comparison with the gold answer; extraction, statuses, deadline and memory limit
stay ours, because it runs in the same killable process. A function is called as

    grade(question=..., gold=..., answer=..., response=...) -> bool

and an endpoint gets those four as a JSON object by POST and answers `{"correct": true | false}`.
Anything else, and any exception, is ERROR.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from functools import lru_cache, partial

from virgo_ray.config.importing import import_function, is_import_path
from virgo_ray.endpoint.client import check_address
from virgo_ray.errors import ConfigError
from virgo_ray.verify.item import Item

Grader = Callable[[Item, str], bool]
# The item's own deadline is what counts; this only ends a request whose judge was not killed.
HTTP_DEADLINE_S = 60.0


@lru_cache(maxsize=8)
def resolve(where: str) -> Grader:
    """The grader that `where` names: `package.module:function`, or an http(s) address.

    Raises:
        ConfigError: it cannot be imported, or is not of that form.
    """
    if "://" in where:
        check_address("verify.custom", where)
        return partial(_ask_endpoint, where)
    call = "grade(question, gold, answer, response) -> bool"
    if not is_import_path(where):
        raise ConfigError(
            f"verify.custom={where!r} is no `package.module:function` and no http(s) address"
        )
    names = ("question", "gold", "answer", "response")
    return partial(_call, import_function("verify.custom", where, call, names=names))


def _call(function: Callable[..., bool], item: Item, answer: str) -> bool:
    return _boolean(
        function(question=item.question, gold=item.gold, answer=answer, response=item.text)
    )


def _ask_endpoint(url: str, item: Item, answer: str) -> bool:
    fields = {"question": item.question, "gold": item.gold, "answer": answer, "response": item.text}
    request = urllib.request.Request(
        url, json.dumps(fields).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=HTTP_DEADLINE_S) as response:
        reply = json.load(response)
    return _boolean(reply.get("correct") if isinstance(reply, dict) else reply)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"the custom verifier answered {value!r:.100}; expected true or false")
    return value
