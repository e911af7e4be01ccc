"""Chat-style records: one question and its reply, from any of the usual ways to write a chat.

| style | record |
|---|---|
| ShareGPT, LLaVA | `conversations: [{from: human, value: "<image> ..."}, {from: gpt, ...}]` |
| LLaMA-Factory | the same, or `messages: [{role, content}]`, with `images` |
| OpenAI | `messages`; `content` is a list of `{type: text}` and `{type: image_url}` parts |
| TRL | `prompt` and `completion` (lists of messages), or `messages`, with `images` |

A record's own `answer`, `solution`, `ground_truth` or `label` is the gold answer; without one it is
the reply. System messages are left aside: the config has its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from virgo_ray.data.pictures import wrap_in_list
from virgo_ray.data.rows import Row, RowError

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip
GOLD = ("answer", "ground_truth", "gold", "solution", "label")
REASONING = ("reasoning_content", "reasoning", "thinking")  # of a reply, beside its content
MARK = "<image>"
_TAGGED_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def chat_record(row: Row) -> Iterator[Mapping[str, Any]]:
    """Canonical fields of a chat of one question; `response` is the reply as it stands.

    Raises:
        RowError: no question, several questions, or parts that are neither text nor picture.
    """
    fields = row.fields
    messages = _messages(fields)
    turns = [turn for turn in map(_turn, messages) if turn[0] != "system"]
    asked = [turn for turn in turns if turn[0] == "user"]
    replies = [turn for turn in turns if turn[0] == "assistant"]
    if not asked:
        raise RowError("empty question", "the chat has no message of a user")
    if len(asked) > 1 or len(replies) > 1:
        raise RowError(
            "several turns",
            f"{len(asked)} messages of the user, {len(replies)} replies; expected one of each: "
            "write one record per question",
        )
    _, question, inside = asked[0]
    beside = [*wrap_in_list(fields.get("images")), *wrap_in_list(fields.get("image"))]
    if inside and beside:
        raise RowError("images twice", "pictures in the messages and in `images`; expected one")
    reply = replies[0][1] if replies else ""
    gold = next((fields[name] for name in GOLD if fields.get(name) not in (None, "")), reply)
    kept = {k: v for k, v in fields.items() if k not in ("messages", "conversations", "prompt")}
    yield {
        **kept,
        "question": question,
        "images": inside or beside,
        "answer": tagged_answer(gold),
        "response": reply,
        "reasoning": next((m[name] for m in messages for name in REASONING if m.get(name)), None),
    }


def tagged_answer(gold: Any) -> Any:
    """What stands inside `<answer>` tags (R1-V and its like); anything else as it is.

    >>> tagged_answer("<answer> 145° </answer>"), tagged_answer(3)
    ('145°', 3)
    """
    found = _TAGGED_ANSWER.findall(gold) if isinstance(gold, str) else []
    return found[-1].strip() if found else gold


def _messages(fields: Mapping[str, Any]) -> Sequence[Any]:
    prompt, completion = fields.get("prompt"), fields.get("completion")
    if isinstance(prompt, list):
        return [*prompt, *(completion if isinstance(completion, list) else [])]
    messages = fields.get("messages") or fields.get("conversations")
    if not isinstance(messages, list):
        raise RowError(
            "no chat",
            "expected a list in `messages`, `conversations` or `prompt`; the record has "
            f"{', '.join(fields)[:200]}",
        )
    return messages


def _turn(message: Any) -> tuple[str, str, list[Any]]:
    """(role, text with `<image>` where pictures stand, pictures that are part of the message)."""
    if not isinstance(message, Mapping):
        raise RowError("wrong type", f"a message is {message!r:.60}, expected an object")
    name = message.get("role") or message.get("from")
    role = ROLES.get(str(name))
    if role is None:
        raise RowError("unknown role", f"{name!r}, expected one of {', '.join(ROLES)}")
    content = message.get("content") if "content" in message else message.get("value")
    if isinstance(content, str):
        return role, content, []
    if not isinstance(content, list):
        raise RowError("wrong type", f"the content of a message is {content!r:.60}")
    texts, images = [], []
    for part in content:
        text, picture = _part(part)
        texts.append(text)
        images += picture
    return role, "\n".join(text for text in texts if text), images


def _part(part: Any) -> tuple[str, list[Any]]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, str):
        return part, []
    if kind in ("text", "input_text", "output_text"):
        return str(part.get("text") or ""), []
    if kind in ("image", "image_url", "input_image"):
        value = part.get("image_url") or part.get("image") or part.get("url") or part.get("path")
        if isinstance(value, Mapping) and "url" in value:
            value = value["url"]
        return MARK, [] if value is None else [value]  # TRL's placeholder holds no picture
    raise RowError("unknown part", f"a message part of type {kind!r}; expected text or image")
