"""How many tokens records have for one model; texts that were counted before are not tokenised.

Pictures are not part of what is remembered: their tokens follow from their sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from virgo_ray.closing import Closing
from virgo_ray.data.fact_file import FactFile, digest_code, make_key
from virgo_ray.data.gallery.gallery import Gallery
from virgo_ray.model import control, images, processor, prompts, template
from virgo_ray.model.prompts import Prompter
from virgo_ray.records import Problem, SeedThought
from virgo_ray.verify.answers import choice

MAKERS = (prompts, control, images, processor, template, choice)  # the code that makes prompts


class TokenCounts(Closing):
    """Counts by one prompter; pictures must have been examined by `gallery`.

    A context that writes what it learnt.
    """

    def __init__(self, prompter: Prompter, cache_dir: Path, gallery: Gallery) -> None:
        self._prompter = prompter
        self._gallery = gallery
        code = digest_code(*(str(module.__file__) for module in MAKERS))
        self._file = FactFile(cache_dir, "tokens", code, prompter.fingerprint)

    def close(self) -> None:
        """Write what was learnt."""
        self._file.flush()

    def of_prompt(self, problem: Problem) -> int:
        """Tokens of the whole prompt with every image expanded.

        Raises:
            DataError: as `Prompter.num_prompt_tokens`.
        """
        key = make_key("prompt", *self._prompter.words(problem))
        num = self._recall(key, lambda: len(self._prompter.prompt_ids(problem)))
        sizes = [(path, self._gallery.size(path)) for path in problem.images]
        return num + sum(self._prompter.num_image_tokens(*sized) - 1 for sized in sizes)

    def of_thought(self, thought: SeedThought) -> int:
        """Tokens of prompt and thought together.

        Raises:
            DataError: as `Prompter.example`.
        """
        problem, text = thought.problem, thought.thought
        return self._recall(
            make_key("example", *self._prompter.words(problem), text),
            lambda: self._prompter.example(problem.id, problem, text).num_tokens,
        )

    def of_text(self, text: str) -> int:
        """Tokens of a text alone."""
        return self._recall(make_key("text", text), lambda: self._prompter.num_text_tokens(text))

    def _recall(self, key: str, count: Callable[[], int]) -> int:
        known = self._file.get(key)
        if known is None:
            known = count()
            self._file.put(key, known)
        return int(known)
