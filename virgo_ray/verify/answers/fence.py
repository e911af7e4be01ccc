r"""An answer given as JSON, and what stands in a code fence at the end of a response."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_CHARS = 20_000
MAX_BRACKETS = 200
KEYS = frozenset({"answer", "finalanswer", "result", "theanswer", "solution", "choice"})
_FENCE = re.compile(r"```[A-Za-z0-9]{0,12}[ \t]*\n?(?P<body>[^`]{1,20000})```\s*$")


def unfence(text: str) -> str:
    """A text without the marks of the code fence that ends it.

    >>> unfence("So:\\n```text\\n42\\n```")
    'So:\\n42'
    """
    match = _FENCE.search(text, max(0, len(text) - MAX_CHARS - 40))
    return text[: match.start()] + match["body"].strip() if match else text


def json_answer(text: str) -> str:
    """The answer of a response that ends with a JSON object; empty where there is none.

    An object that gives two answers that differ gives none.

    >>> json_answer('I add.\\n{"steps": ["5 + 7"], "answer": 12.0}')
    '12.0'
    >>> json_answer('{"answer": "12", "final_answer": "13"}')
    ''
    """
    text = unfence(text).rstrip()
    start = _opening(text)
    if start < 0 or sum(text.count(c) for c in "[{") > MAX_BRACKETS:
        return ""
    try:
        pairs = json.loads(
            text[start:], object_pairs_hook=list, parse_int=str, parse_float=str, strict=False
        )
    except (ValueError, RecursionError):
        return ""
    said = {_as_text(value) for name, value in pairs if _key(name) in KEYS}
    return said.pop() if len(said) == 1 else ""


def _opening(text: str) -> int:
    """Where the object begins that ends the text; -1 where none does."""
    if not text.endswith("}") or '"' not in text:
        return -1
    if text.startswith("{"):
        return 0
    return text.rfind("\n{", max(0, len(text) - MAX_CHARS)) + 1 or -1


def _key(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value.strip() if isinstance(value, str) else ""
