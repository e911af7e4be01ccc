"""Stored rollouts as chats, which another program's chat template turns into what was trained on.

A row is fit for that if the model's own template renders its messages to the prompt of the run,
followed by the very text of the response. A template may open the thought itself (`<think>` ends
the prompt): the tag is then part of the assistant's turn, so that it stands there once. Rows that
are not fit are counted by reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from virgo_ray.config import Config, PromptConfig
from virgo_ray.model.control import SafeEncoder
from virgo_ray.model.files import resolve_model
from virgo_ray.model.processor import load_processor
from virgo_ray.model.prompts import user_content
from virgo_ray.model.template import opening_of, render, without_opening
from virgo_ray.records import Problem

Message = dict[str, Any]
Part = dict[str, str | None]
CUT_OFF = "were cut off: a chat template would add an end that was never sampled"
HAS_CONTROL = "hold a control token as plain text, which other programs read as the token itself"
REWRITTEN = "are written otherwise by the model's chat template than they were trained"
OTHER_END = "are ended otherwise by the model's chat template than they were trained"
OTHER_SPLIT = "become other tokens than were sampled: the text is the same, split differently"


class UnfitError(Exception):
    """A row that cannot be in an export; the text says why, of several: "5 hold ..."."""


class Chat:
    """The chats of one model."""

    def __init__(self, processor: Any, prompt: PromptConfig, name: str) -> None:
        self._processor = processor
        self._prompt = prompt
        self._name = name
        self._encoder = SafeEncoder(processor.tokenizer)

    @classmethod
    def of(cls, cfg: Config) -> Chat:
        """Raises ConfigError where the model's files cannot be used."""
        directory = resolve_model(cfg.model.path, cfg.model.trust_remote_code)
        named = f"model.path={cfg.model.path!r}"
        return cls(load_processor(cfg.model, directory), cfg.prompt, named)

    @cached_property
    def opening(self) -> str:
        """What every prompt ends with if the template opens the thought, such as "<think>\\n"."""
        return opening_of(self._render(self.prompt(Problem("", "?", "?"))))

    def prompt(self, problem: Problem) -> list[Message]:
        """System and user message, in parts; a part of type image for each picture.

        Raises:
            UnfitError: a text holds a control token, which the run encoded as letters.
        """
        said = self._prompt.system
        system: list[Part] = [{"type": "text", "text": said}] if said else []
        user: list[Part] = [{"text": None, **p} for p in user_content(problem, self._prompt)]
        for part in (*system, *user):
            if self._has_control(part["text"] or ""):
                raise UnfitError(HAS_CONTROL)
        turns = (("system", system), ("user", user))
        return [{"role": role, "content": content} for role, content in turns if content]

    def reply(
        self, prompt: Sequence[Message], text: str, token_ids: Sequence[int] | None
    ) -> tuple[str, list[str]]:
        """What the assistant's turn must say, and what is worth a note.

        `token_ids` are what was sampled; None for a text of somebody else, such as a seed thought.

        Raises:
            UnfitError: a program that renders the turn would train on something else.
        """
        notes = self.check(text, token_ids)
        before = self._render(prompt)
        for content in dict.fromkeys((self.opening + text, text)):
            whole = self._render([*prompt, *assistant(content)], opens_turn=False)
            if whole.startswith(before + text):
                break
        else:
            raise UnfitError(REWRITTEN)
        if not whole[len(before + text) :].startswith(self._processor.tokenizer.eos_token):
            notes.append(OTHER_END)
        return content, notes

    def check(self, text: str, token_ids: Sequence[int] | None) -> list[str]:
        """Notes on a response as plain text; `token_ids` as in `reply`.

        Raises:
            UnfitError: it holds a control token that was trained as letters.
        """
        is_same = self._is_same(text, token_ids)
        if not is_same and self._has_control(text):
            raise UnfitError(HAS_CONTROL)
        return [] if is_same else [OTHER_SPLIT]

    def response(self, text: str, is_sampled: bool) -> str:
        """A response as the model goes on after its prompt: without what the template opens."""
        if is_sampled:  # what runs of earlier versions stored may lack it already
            return text.removeprefix(self.opening)
        return without_opening(text, self.opening)

    def _is_same(self, text: str, token_ids: Sequence[int] | None) -> bool:
        tokenizer = self._processor.tokenizer
        plain = tokenizer.encode(text, add_special_tokens=False)
        if token_ids is None:
            return plain == list(self._encoder.encode(text))
        return plain == [i for i in token_ids if i != tokenizer.eos_token_id]

    def _has_control(self, text: str) -> bool:
        return self._encoder.shield(text) != text

    def _render(self, messages: Sequence[Message], opens_turn: bool = True) -> str:
        return render(self._processor, messages, self._name, opens_turn)


def assistant(text: str) -> list[Message]:
    """A completion of one message."""
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
