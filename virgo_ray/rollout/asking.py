"""What vLLM is asked: prompts with their pictures, and how to sample or to score.

Guarantees: ids that stand for pictures are never sampled, and a response that goes round in circles
ends. Knows no weights and no requests in flight.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from PIL import Image
from vllm import SamplingParams, TokensPrompt
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

from virgo_ray.config import SamplingConfig
from virgo_ray.model.images import image_hash, load_image
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem
from virgo_ray.weights.probe import ProbeItem

# A loop: the same 1 to 64 tokens sixteen times over. Fewer would catch numbers with many zeros,
# which some tokenizers spell digit by digit; longer patterns cost time at every token.
REPETITION = RepetitionDetectionParams(max_pattern_size=64, min_pattern_size=1, min_count=16)
NUM_DECODED_IMAGES = 32  # kept in memory: the samples of one problem come one after the other
NUM_PROMPTS = 256  # the same, of their ids


class Asking:
    """Of one engine. `needs_logprobs`: it gives log-probabilities of what is sampled, after all
    that changes them (`PROCESSED`)."""

    def __init__(self, prompter: Prompter, needs_logprobs: bool) -> None:
        self._prompter = prompter
        self._needs_logprobs = needs_logprobs
        self._prompt_ids = lru_cache(maxsize=NUM_PROMPTS)(prompter.prompt_ids)
        self._images = lru_cache(maxsize=NUM_DECODED_IMAGES)(_load_image)

    def prompt(self, problem: Problem) -> TokensPrompt:
        return self._tokens_prompt(self._prompt_ids(problem), problem.images)

    def prompt_of_item(self, item: ProbeItem) -> TokensPrompt:
        """Without its targets."""
        return self._tokens_prompt(item.prompt_ids, _images_of(item))

    def whole_item(self, item: ProbeItem) -> TokensPrompt:
        return self._tokens_prompt((*item.prompt_ids, *item.target_ids), _images_of(item))

    def sampling_params(self, sampling: SamplingConfig, seed: int) -> SamplingParams:
        wants_logprobs = self._needs_logprobs and sampling.temperature > 0
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=sampling.max_tokens,
            seed=seed,
            logit_bias=self._banned(),
            repetition_detection=REPETITION,
            logprobs=0 if wants_logprobs else None,  # of the sampled token alone
            flat_logprobs=wants_logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def scoring_params(self) -> SamplingParams:
        """For the log-probabilities of all tokens of a prompt, at temperature 1."""
        return SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def params_for_next(self, token: int) -> SamplingParams:
        """For the log-probability of one token, at temperature 1, as the next of a prompt."""
        # Raw ones are taken before other tokens are ruled out. After that they would be all 0.
        ruled_out: dict[str, Any] = {"allowed_token_ids": [token], "logprobs": 0}
        return SamplingParams(
            temperature=0.0,
            max_tokens=1,
            **({"logprob_token_ids": [token]} if self._needs_logprobs else ruled_out),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _banned(self) -> dict[int, float]:
        """No logit survives it. (`bad_words` would need texts, an allow-list the vocabulary.)"""
        return dict.fromkeys(self._prompter.placeholder_ids, float("-inf"))

    def _tokens_prompt(self, prompt_ids: Sequence[int], images: Sequence[str]) -> TokensPrompt:
        """Un-expanded ids and pictures; vLLM expands them with the model's own processor."""
        prompt = TokensPrompt(prompt_token_ids=list(prompt_ids))
        if images:
            stamped = [(path, os.stat(path).st_mtime_ns) for path in images]
            loaded = [self._images(*stamp) for stamp in stamped]
            prompt["multi_modal_data"] = {"image": [image for image, _ in loaded]}
            prompt["multi_modal_uuids"] = {"image": [uuid for _, uuid in loaded]}
        return prompt


def _images_of(item: ProbeItem) -> tuple[str, ...]:
    return () if item.image is None else (item.image,)


def _load_image(path: str, modified_ns: int) -> tuple[Image.Image, str]:
    """Pixels and content hash; `modified_ns` makes a file that changed another cache entry."""
    return load_image(path), image_hash((path,))
