"""Problems as token ids: the only place that knows how a question is put to the model.

Sampler and trainer both take their prompts from here, so what is trained is what is sampled. Ids
hold one placeholder per image; vLLM and the trainer's processor expand it. Sampled ids are kept as
they are and never re-tokenised. Nothing here opens more of an image than its header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

from virgo_ray.config import ModelConfig, PromptConfig
from virgo_ray.config.importing import blaming, hash_source, import_function
from virgo_ray.errors import ConfigError, DataError
from virgo_ray.model.control import SafeEncoder
from virgo_ray.model.files import describe_model, hash_description
from virgo_ray.model.images import image_size
from virgo_ray.model.processor import IMAGE_KEYS, check_length, ids_in_config, load_processor
from virgo_ray.model.template import check_template, opening_of, without_opening
from virgo_ray.records import Example, Problem
from virgo_ray.verify.answers.choice import without_labels

# Ids a model must never write: they stand for pictures. Names of the config, then of the tokenizer.
PLACEHOLDER_KEYS = (
    "image_token_id", "video_token_id", "image_token_index", "video_token_index",
    "vision_start_token_id", "vision_end_token_id", "vision_token_id",
)  # fmt: skip
PLACEHOLDER_TOKENS = (
    "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
)  # fmt: skip

OWN_KEY = "prompt.custom"


def user_content(problem: Problem, prompt: PromptConfig) -> list[dict[str, str]]:
    """The user message: pictures (or the words in their place), instruction, question, options; or
    pictures, then what `prompt.custom` writes.

    Nothing stands between the last picture and the instruction; a context ends with a newline.

    >>> problem = Problem("1", "How many?", "2", context="Two cats.", options=("1", "2"))
    >>> user_content(problem, PromptConfig(instruction="Think."))
    [{'type': 'text', 'text': 'Two cats.\\nThink. How many?\\n(A) 1\\n(B) 2'}]
    """
    pictures = [{"type": "image"} for _ in problem.images]
    if prompt.custom is not None:
        return [*pictures, {"type": "text", "text": write_custom(problem, prompt.custom)}]
    context = f"{problem.context}\n" if problem.context else ""
    question = (
        f"{prompt.instruction} {problem.question}" if prompt.instruction else problem.question
    )
    text = context + "\n".join([question, *option_lines(problem.options, prompt.choices)])
    return [*pictures, {"type": "text", "text": text}]


def find_writer(where: str) -> Callable[..., str]:
    """The user's own function that writes prompts (`prompt.custom`).

    Raises:
        ConfigError: it cannot be imported or called so.
    """
    return import_function(OWN_KEY, where, "write(problem) -> str", 1)


def write_custom(problem: Problem, where: str) -> str:
    """What the user's function asks about a problem.

    Raises:
        ConfigError: it failed, or returned no text.
    """
    write = find_writer(where)
    with blaming(OWN_KEY, where):
        text = write(problem)
    if not isinstance(text, str) or not text:
        raise ConfigError(
            f"{OWN_KEY}={where!r} returned {text!r:.100} for problem {problem.id!r}; expected text"
        )
    return text


def option_lines(options: Sequence[str], style: str = "(A)") -> list[str]:
    """Choices as "(A) ...", one a line, or in another style of `prompt.choices`; labels that they
    already carry are not doubled, and a letter without a text is left out.

    >>> option_lines(["red", "blue"]), option_lines(["A. red", "B. blue"])
    (['(A) red', '(B) blue'], ['(A) red', '(B) blue'])
    >>> option_lines(["red", "blue"], "A."), option_lines(["red", "blue"], "inline")
    (['A. red', 'B. blue'], ['Choices: (A) red (B) blue'])
    """
    letters = [chr(ord("A") + i) for i in range(len(options))]
    label_of = "(A)" if style == "inline" else style
    lines = [
        f"{label_of.replace('A', letter)} {option}"
        for letter, option in zip(letters, without_labels(options), strict=True)
        if option
    ]
    return [f"Choices: {' '.join(lines)}"] if style == "inline" and lines else lines


class Prompter:
    """Makes prompts and training examples for one model.

    The model's files are read on first use, so an unused Prompter is cheap to pickle; that use
    raises ConfigError where they are not those of a vision-language model.
    """

    def __init__(self, model: ModelConfig, prompt: PromptConfig) -> None:
        self._model = model
        self._prompt = prompt
        self._num_image_tokens: dict[str, int] = {}

    def check_model(self) -> None:
        """Read the model's files now rather than on first use.

        Raises:
            ConfigError: they are not those of a vision-language model, its chat template cannot
                be used, or `model.max_length` is beyond its positions.
        """
        check_length(self._model, self._directory)
        check_template(self._processor, f"model.path={self._model.path!r}", self._prompt.system)

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        """The chat prompt up to where the response begins, one placeholder id per image.

        Raises:
            DataError: pictures and places do not agree: the template knows no pictures.
        """
        ids = self._encoder.encode_rendered(self._render(problem))
        num_places = sum(ids.count(i) for i in self._image_ids)
        if num_places != len(problem.images):
            raise DataError(
                f"problem {problem.id!r} has {len(problem.images)} images but {num_places} image "
                "places in its prompt; use a model whose chat template takes images"
            )
        return ids

    def example(
        self, id: str, problem: Problem, response: str | Sequence[int], weight: float = 1.0
    ) -> Example:
        """A training item. Text is tokenised and ended, and is a seed thought; sampled ids are
        used as they are, and are a trace.

        `num_tokens` counts prompt and response with every image expanded.

        Raises:
            DataError: the response is empty or holds a token that stands for a picture.
        """
        target = self._targets(response)
        banned = sorted(self.placeholder_ids.intersection(target))
        if banned or not target:
            what = f"the image token ids {banned}" if banned else "no token"
            raise DataError(
                f"the response of example {id!r} holds {what}; expected text without placeholders: "
                "drop it from the data, and ban these ids at sampling"
            )
        prompt = self.prompt_ids(problem)
        num_tokens = len(prompt) + self._num_hidden_tokens(problem) + len(target)
        is_trace = not isinstance(response, str)
        return Example(id, prompt, target, problem.images, num_tokens, weight, is_trace)

    def num_image_tokens(self, path: str, size: tuple[int, int] | None = None) -> int:
        """Tokens an image takes in the prompt once expanded.

        `size` is its width and height where they are known; otherwise the file says it.
        """
        if path not in self._num_image_tokens:
            width, height = size or image_size(path)
            try:
                self._num_image_tokens[path] = self._count_image_tokens(height, width)
            except ValueError as error:  # the processor's own limits, such as the aspect ratio
                raise DataError(
                    f"image {path!r} of {width}x{height} pixels cannot be used by the model: "
                    f"{error}; remove it from the data or crop it"
                ) from error
        return self._num_image_tokens[path]

    def _count_image_tokens(self, height: int, width: int) -> int:
        """By the patches of Qwen's processors; of other models by what vLLM asks them too."""
        processor = self._processor.image_processor
        if not hasattr(processor, "merge_size"):
            counted = self._processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
            return counted["num_image_tokens"][0]
        bounds = {"min_pixels": self._model.min_pixels, "max_pixels": self._model.max_pixels}
        num_patches = processor.get_number_of_image_patches(
            height, width, {k: v for k, v in bounds.items() if v is not None}
        )
        return num_patches // processor.merge_size**2

    def num_prompt_tokens(self, problem: Problem) -> int:
        """Tokens of the whole prompt with every image expanded.

        Raises:
            DataError: as `prompt_ids` and `num_image_tokens`.
        """
        return len(self.prompt_ids(problem)) + self._num_hidden_tokens(problem)

    def num_text_tokens(self, text: str) -> int:
        """Tokens of a text alone."""
        return len(self._encoder.encode(text))

    def response_ids(self, text: str) -> tuple[int, ...]:
        """A response that somebody else wrote, as ids, without those that no response may hold:
        ends of messages and places of pictures. What the template opens is in the prompt."""
        banned = self.placeholder_ids | set(self._processor.tokenizer.all_special_ids)
        text = without_opening(text, self._opening)
        ids = self._processor.tokenizer.encode(text, add_special_tokens=False)
        return tuple(i for i in ids if i not in banned)

    @cached_property
    def placeholder_ids(self) -> frozenset[int]:
        """Ids that stand for pictures: banned at sampling, refused in responses."""
        vocabulary = self._processor.tokenizer.get_vocab()
        named = frozenset(vocabulary[t] for t in PLACEHOLDER_TOKENS if t in vocabulary)
        return named | ids_in_config(self._directory, PLACEHOLDER_KEYS)

    @cached_property
    def end_id(self) -> int:
        """The id that ends a response."""
        return self._processor.tokenizer.eos_token_id

    def decode(self, ids: Sequence[int]) -> str:
        """A response as a reader sees it: without special tokens, and with the tag of its thought
        where the chat template has opened it at the end of the prompt."""
        return self._opening + self._processor.tokenizer.decode(list(ids), skip_special_tokens=True)

    def words(self, problem: Problem) -> tuple[Any, ...]:
        """Everything of a problem that its prompt depends on, beside the sizes of its pictures."""
        if self._prompt.custom is not None:  # it may use any field
            return (write_custom(problem, self._prompt.custom), len(problem.images))
        return (problem.question, problem.context, problem.options, len(problem.images))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what makes ids of texts: the model's files, the prompt, the libraries."""
        versions = " ".join(map(version, ("transformers", "tokenizers")))
        own = self._prompt.custom and hash_source(find_writer(self._prompt.custom))
        made_of = (hash_description(self._directory), self._prompt.model_dump_json(), versions)
        return hashlib.sha256("\n".join([*made_of, *([own] if own else [])]).encode()).hexdigest()

    # -- the model's files -----------------------------------------------------------------------

    @cached_property
    def _directory(self) -> str:
        return describe_model(self._model.path, self._model.trust_remote_code)

    @cached_property
    def _processor(self) -> Any:
        return load_processor(self._model, self._directory)

    @cached_property
    def _image_ids(self) -> frozenset[int]:
        return ids_in_config(self._directory, IMAGE_KEYS)

    @cached_property
    def _encoder(self) -> SafeEncoder:
        return SafeEncoder(self._processor.tokenizer)

    def _render(self, problem: Problem) -> str:
        """The prompt as text, in which control tokens are the template's own."""
        shield = self._encoder.shield
        content = [
            {**part, "text": shield(part["text"])} if "text" in part else part
            for part in user_content(problem, self._prompt)
        ]
        messages = [
            {"role": "system", "content": shield(self._prompt.system)},
            {"role": "user", "content": content},
        ]
        return self._processor.apply_chat_template(
            messages if self._prompt.system else messages[1:],
            add_generation_prompt=True,
            tokenize=False,
        )

    @cached_property
    def _opening(self) -> str:
        """What every prompt ends with if the template opens the thought, such as "<think>\\n"."""
        return opening_of(self._render(Problem("", "?", "?")))

    def _num_hidden_tokens(self, problem: Problem) -> int:
        """What images take beyond the one placeholder each."""
        return sum(self.num_image_tokens(path) - 1 for path in problem.images)

    def _targets(self, response: str | Sequence[int]) -> tuple[int, ...]:
        if isinstance(response, str):
            response = without_opening(response, self._opening)
            return (*self._encoder.encode(response), self.end_id) if response else ()
        return tuple(response)
