"""Whether the model can take a record, and a probe the problem: checks that refuse by row."""

from __future__ import annotations

from collections.abc import Callable

from virgo_ray.data.rows import RowError
from virgo_ray.data.token_counts import TokenCounts
from virgo_ray.errors import DataError
from virgo_ray.records import Problem, SeedThought


def make_probe_check(name: str, model_check: ModelInputCheck) -> Callable[[Problem], None]:
    """Return a check that also demands pictures for `evaluate.perception`, none for `text`."""

    def check(problem: Problem) -> None:
        if bool(problem.images) != (name == "perception"):
            kind, wanted = ("has images", "none") if problem.images else ("no image", "one or more")
            raise RowError(kind, f"problems of evaluate.{name} have {wanted}")
        model_check.check_problem(problem)

    return check


class ModelInputCheck:
    """Checks that the model can take a record, and keeps its number of tokens by id (`lengths`)."""

    def __init__(self, tokens: TokenCounts, max_length: int) -> None:
        self.lengths: dict[str, int] = {}
        self._tokens = tokens
        self._max_length = max_length

    def check_problem(self, problem: Problem) -> None:
        """
        Raises:
            RowError: no token is left for a response, or the model cannot take text or pictures.
        """
        self._check_length(problem.id, lambda: self._tokens.of_prompt(problem), 1)

    def check_thought(self, thought: SeedThought) -> None:
        """
        Raises:
            RowError: prompt and thought are longer than `model.max_length`, or the thought holds
                image placeholders.
        """
        self._check_length(thought.problem.id, lambda: self._tokens.of_thought(thought), 0)

    def _check_length(self, id: str, count: Callable[[], int], reserve: int) -> None:
        try:
            length = count()
        except DataError as error:
            raise RowError("not for this model", str(error)) from error
        longest = self._max_length - reserve
        if length > longest:
            raise RowError(
                "too long",
                f"it has {length} tokens, expected at most {longest}; raise model.max_length, or "
                "limit thoughts by max_tokens",
            )
        self.lengths[id] = length
