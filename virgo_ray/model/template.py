"""A model's chat template, tried on one prompt before anything else is done with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from virgo_ray.config import FORMATS
from virgo_ray.errors import ConfigError, DataError

Messages = Sequence[Mapping[str, Any]]
WORDS = "Which of these words is here?"  # a user's text that the rendered prompt must hold


def check_template(processor: Any, named: str, system: str) -> None:
    """Render a prompt with one picture, as `prompt.system` and the problems will.

    Raises:
        ConfigError: the template is missing or broken, refuses the system message, takes no
            pictures, leaves the user's text out, opens no turn for the response, or the tokenizer
            has no end token. `named` is what messages call the model.
    """
    if processor.tokenizer.eos_token_id is None:
        raise ConfigError(f"{named}: its tokenizer has no end token; set eos_token in its files")
    picture, words = {"type": "image"}, {"type": "text", "text": WORDS}
    user: dict[str, Any] = {"role": "user", "content": [picture, words]}
    asked: list[dict[str, Any]] = (
        [{"role": "system", "content": system}, user] if system else [user]
    )
    text = render(processor, asked, named)
    if WORDS not in text:
        raise ConfigError(f"{named}: its chat template leaves the user's text out of the prompt")
    without = render(processor, [*asked[:-1], {"role": "user", "content": [words]}], named)
    if text == without:
        raise ConfigError(
            f"{named}: its chat template takes no pictures; use the template of a vision-language "
            "model"
        )
    if text == render(processor, asked, named, opens_turn=False):
        raise ConfigError(
            f"{named}: its chat template ignores add_generation_prompt, so no turn is opened for "
            "the response; add `{% if add_generation_prompt %}` and what begins the assistant's "
            "turn to it"
        )


def render(processor: Any, messages: Messages, named: str, opens_turn: bool = True) -> str:
    """Messages as the model's chat template writes them.

    Raises:
        ConfigError: it cannot, or refuses the system message.
    """
    try:
        return processor.apply_chat_template(
            messages, add_generation_prompt=opens_turn, tokenize=False
        )
    except Exception as error:  # a template is a program of the model's: it raises what it likes
        said = f"{type(error).__name__}: {error}"
    if messages[0]["role"] == "system" and _renders(processor, messages[1:]):
        raise ConfigError(
            f"{named}: its chat template refuses a system message ({said}); set "
            "`prompt.system: ''` and say it in `prompt.instruction`"
        )
    raise ConfigError(
        f"{named}: its chat template cannot be rendered ({said}); put a working "
        "chat_template.jinja beside its weights"
    )


def _renders(processor: Any, messages: Messages) -> bool:
    try:
        processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception:  # as in `_render`
        return False
    return True


def opened_thought(prompt: str) -> str:
    """The tag with which a rendered prompt itself begins the thought; empty where it does not.

    >>> opened_thought("<|im_start|>assistant\\n<think>\\n"), opened_thought("assistant\\n")
    ('<think>', '')
    """
    end = prompt.rstrip()
    return next((f.begin_thought for f in FORMATS if end.endswith(f.begin_thought)), "")


def opening_of(prompt: str) -> str:
    """The end of a rendered prompt that belongs to the thought: its tag, and the space behind it.

    >>> opening_of("<|im_start|>assistant\\n<think>\\n"), opening_of("assistant\\n")
    ('<think>\\n', '')
    """
    tag = opened_thought(prompt)
    return prompt[prompt.rindex(tag) :] if tag else ""


def without_opening(response: str, opening: str) -> str:
    """A whole response as it goes on after a prompt that ends with `opening`.

    Raises:
        DataError: it opens a thought with other tags than the prompt did.

    >>> without_opening("<think>\\n3 + 4</think> 7", "<think>\\n")
    '3 + 4</think> 7'
    """
    tag = opening.rstrip()
    others = (f.begin_thought for f in FORMATS if f.begin_thought != tag)
    other = next((begin for begin in others if response.startswith(begin)), "")
    if tag and other:
        raise DataError(
            f"the model's chat template opens every thought with {tag}, and this one begins with "
            f"{other}; set prompt.thought_format to the format of {tag}"
        )
    if not tag or not response.startswith(tag):
        return response
    return response.removeprefix(tag).lstrip("\n")
