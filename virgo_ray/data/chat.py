"""Chat-style records: one question and its reply, from any of the usual ways to write a chat.

| style | record |
|---|---|
| ShareGPT, LLaVA | `conversations: [{from: human, value: "<image> ..."}, {from: gpt, ...}]` |
| LLaMA-Factory | the same, or `messages: [{role, content}]`, with `images` |
| OpenAI | `messages`; `content` is a list of `{type: text}` and `{type: image_url}` parts |
| TRL | `prompt` and `completion` (lists of messages), or `messages`, with `images` |
| Alpaca | `instruction`, `input`, `output`, and earlier turns as pairs in `history` |

A record's own `answer`, `solution`, `ground_truth` or `label` is the gold answer; without one it is
the reply. System messages are left aside: the config has its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from virgo_ray.data.pictures import wrap_in_list
from virgo_ray.data.rows import Row, RowError, as_text

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip
GOLD = ("answer", "ground_truth", "gold", "solution", "label")
REASONING = ("reasoning_content", "reasoning", "thinking")  # of a reply, beside its content
MARK = "<image>"
MESSAGES = ("messages", "conversations", "prompt", "completion", "instruction", "input", "history")
_TAGGED_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """A message: its text with `<image>` where pictures stand, and pictures that are part of it."""

    role: str
    text: str
    images: list[Any] = field(default_factory=list)
    reasoning: Any = None


Exchange = tuple[Turn, Turn]  # a question and its reply


def chat_record(row: Row, turns: str = "one") -> Iterator[Mapping[str, Any]]:
    """Canonical fields of a chat's question, or of its last or each; `response` is the reply as it
    stands, the turns before are the context.

    Raises:
        RowError: no question, several where `turns` is "one", or parts that are neither text nor
            picture.
    """
    exchanges = _exchanges([turn for turn in map(_turn, _messages(row.fields)) if turn.role])
    if len(exchanges) > 1 and turns == "one":
        raise RowError(
            "several turns",
            f"{len(exchanges)} questions; expected one: take the last or each with `turns: last` "
            "or `turns: each`",
        )
    for place in range(len(exchanges)) if turns == "each" else [len(exchanges) - 1]:
        yield _canonical(row.fields, exchanges, place)


def _canonical(
    fields: Mapping[str, Any], exchanges: Sequence[Exchange], place: int
) -> Mapping[str, Any]:
    """The fields of one question and its reply; the record's own gold answers its last question."""
    asked, reply = exchanges[place]
    earlier = [turn for exchange in exchanges[:place] for turn in exchange]
    context = "\n".join(f"{turn.role}: {turn.text}" for turn in earlier if turn.text)
    inside = [image for turn in (*earlier, asked) for image in turn.images]
    beside = [*wrap_in_list(fields.get("images")), *wrap_in_list(fields.get("image"))]
    if inside and beside:
        raise RowError("images twice", "pictures in the messages and in `images`; expected one")
    is_last = place == len(exchanges) - 1
    if not inside and not is_last:  # those that are marked up to here
        beside = beside[: sum(MARK in turn.text for turn in (*earlier, asked)) or len(beside)]
    own = [fields[name] for name in GOLD if fields.get(name) not in (None, "")]
    kept = {k: v for k, v in fields.items() if k not in MESSAGES}
    if len(exchanges) > 1 and kept.get("id") not in (None, ""):
        kept["id"] = f"{kept['id']}-{place + 1}"
    return {
        **kept,
        **({"context": context} if context else {}),
        "question": asked.text,
        "images": inside or beside,
        "answer": tagged_answer(own[0] if own and is_last else reply.text),
        "response": reply.text,
        "reasoning": reply.reasoning,
    }


def _exchanges(turns: Sequence[Turn]) -> list[Exchange]:
    """Questions with their replies; what a user says in several messages is one question."""
    exchanges: list[Exchange] = []
    for turn in turns:
        if turn.role == "user":
            is_open = exchanges and not exchanges[-1][1].role
            before = exchanges.pop()[0] if is_open else Turn("user", "")
            text = "\n".join(filter(None, (before.text, turn.text)))
            exchanges.append((Turn("user", text, [*before.images, *turn.images]), Turn("", "")))
        elif exchanges and not exchanges[-1][1].role:
            exchanges[-1] = (exchanges[-1][0], turn)
        else:
            first = "the chat has no message of a user" if not exchanges else "two replies in a row"
            raise RowError("unknown order", first)
    if not exchanges:
        raise RowError("empty question", "the chat has no message of a user")
    return exchanges


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
    if fields.get("instruction") and "output" in fields:
        return _alpaca(fields)
    messages = fields.get("messages") or fields.get("conversations")
    if not isinstance(messages, list):
        raise RowError(
            "no chat",
            "expected a list in `messages`, `conversations` or `prompt`; the record has "
            f"{', '.join(fields)[:200]}",
        )
    return messages


def _alpaca(fields: Mapping[str, Any]) -> list[Any]:
    pairs = [*_history(fields.get("history") or []), _question_and_reply(fields)]
    names = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(names, pair, strict=True)
    ]


def _history(given: Any) -> list[Any]:
    pairs = given if isinstance(given, list | tuple) else [given]
    wrong = [p for p in pairs if not isinstance(p, list | tuple) or len(p) != 2]
    if wrong:
        detail = f"`history` holds {wrong[0]!r:.60}; expected pairs of a question and its reply"
        raise RowError("wrong type", detail)
    return list(pairs)


def _question_and_reply(fields: Mapping[str, Any]) -> tuple[str, Any]:
    asked = [as_text(fields.get(name), f"`{name}`") for name in ("instruction", "input")]
    return "\n".join(filter(None, asked)), fields["output"] or ""


def _turn(message: Any) -> Turn:
    """A message; a system message has no role here."""
    if not isinstance(message, Mapping):
        raise RowError("wrong type", f"a message is {message!r:.60}, expected an object")
    name = message.get("role") or message.get("from")
    role = ROLES.get(str(name))
    if role is None:
        raise RowError("unknown role", f"{name!r}, expected one of {', '.join(ROLES)}")
    role = "" if role == "system" else role
    content = message.get("content") if "content" in message else message.get("value")
    reasoning = next((message[name] for name in REASONING if message.get(name)), None)
    if isinstance(content, str):
        return Turn(role, content, [], reasoning)
    if not isinstance(content, list):
        raise RowError("wrong type", f"the content of a message is {content!r:.60}")
    texts, images = [], []
    for part in content:
        if isinstance(part, Mapping) and part.get("type") in REASONING:
            reasoning = part.get("text") or part.get(part["type"])
            continue
        text, picture = _part(part)
        texts.append(text)
        images += picture
    return Turn(role, "\n".join(text for text in texts if text), images, reasoning)


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
